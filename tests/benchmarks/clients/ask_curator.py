"""curator: an `LLM` with its own client for OpenAI's protocol, the concurrency as told, and no limit per minute."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from clock import measured, prompts, told


def main() -> None:
    each = told()
    texts = [{"instruction": text} for text in prompts(each["rows"], each["characters"])]
    # It counts tokens with a vocabulary that it would download; litellm, which comes with it, has a copy.
    copy = Path(find_spec("litellm").origin).parent / "litellm_core_utils" / "tokenizers"
    os.environ["TIKTOKEN_CACHE_DIR"] = str(copy)
    from bespokelabs import curator

    class Generation(curator.LLM):
        def prompt(self, input: dict) -> str:
            return input["instruction"]

        def parse(self, input: dict, response: str) -> dict:
            return {**input, "generation": response}

    llm = Generation(
        model_name="fake",
        backend="openai",
        backend_params={
            "base_url": each["base_url"],
            "api_key": "none",
            "max_concurrent_requests": each["concurrency"],
            "max_requests_per_minute": 10**9,
            "max_tokens_per_minute": 10**12,
        },
    )
    measured(lambda: {"ok": len(llm(texts, working_dir=each["folder"]).dataset)}, "bespokelabs-curator", "aiohttp")


if __name__ == "__main__":
    main()
