"""aiohttp and nothing else: JSON out, JSON in, so many workers. It reads no file, keeps nothing and forgives nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from clock import measured, prompts, told


async def ask(told: dict[str, Any], texts: list[str]) -> int:
    url, answered = f"{told['base_url']}/chat/completions", 0
    texts_left = iter(texts)

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal answered
        for text in texts_left:
            body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": text}]}).encode()
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as reply:
                said = json.loads(await reply.read())
            answered += said["choices"][0]["message"]["content"] is not None

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(told["concurrency"])))
    return answered


def run(told: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    if told.get("loop") == "uvloop":
        import uvloop

        return {"ok": uvloop.run(ask(told, texts))}
    return {"ok": asyncio.run(ask(told, texts))}


if __name__ == "__main__":
    each = told()
    texts = list(prompts(each["rows"], each["characters"]))
    measured(lambda: run(each, texts), "aiohttp")
