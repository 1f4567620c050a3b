"""The OpenAI SDK and nothing else, over its default transport or aiohttp's."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
from clock import measured, prompts, told


async def ask(told: dict[str, Any], texts: list[str]) -> int:
    transport = openai.DefaultAioHttpClient() if told.get("transport") == "aiohttp" else None
    answered, texts_left = 0, iter(texts)

    async with openai.AsyncOpenAI(base_url=told["base_url"], api_key="none", max_retries=0, http_client=transport) as client:

        async def work() -> None:
            nonlocal answered
            for text in texts_left:
                reply = await client.chat.completions.create(model="fake", messages=[{"role": "user", "content": text}])
                answered += reply.choices[0].message.content is not None

        await asyncio.gather(*(work() for _ in range(told["concurrency"])))
    return answered


if __name__ == "__main__":
    each = told()
    texts = list(prompts(each["rows"], each["characters"]))
    measured(lambda: {"ok": asyncio.run(ask(each, texts))}, "openai")
