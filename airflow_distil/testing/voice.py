"""What the fake model says: the body of a reply, made from a request and the answer that a test gave."""

from __future__ import annotations

import inspect
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

__all__ = ["Messages", "Say", "Speaker", "Voice", "messages_of", "request_digest"]

Messages: TypeAlias = list[dict[str, Any]]
Say: TypeAlias = str | Mapping[str, Any]
Speaker: TypeAlias = Callable[[Messages], Say] | Callable[[Messages, Mapping[str, Any]], Say]
"""A function of the messages, or of the messages and the whole body of the request."""


def request_digest(body: Mapping[str, Any]) -> str:
    """Return a hash of what a request asks: its body without `n`, which only says how many answers it wants at once."""
    content = {name: value for name, value in body.items() if name != "n"}
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def messages_of(asked: str, body: Mapping[str, Any]) -> Messages:
    """Return the messages of a request; the prompt of a completion and the text of an embedding count as one of the user."""
    if asked == "chat/completions":
        messages: Messages = body["messages"]
        return messages
    return [{"role": "user", "content": body["prompt" if asked == "completions" else "input"]}]


@dataclass(frozen=True)
class Voice:
    """Writes replies.

    :param answer: a text, a dict (sent as JSON text), a function of the messages that returns one, or of the messages and the
        body of the request; None quotes the request.
    :param dimensions: length of embeddings.
    """

    answer: Say | Speaker | None
    dimensions: int
    _hears_body: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if callable(self.answer):
            # A second parameter with a default is the test's own, as in `lambda messages, seen=seen: …`.
            asked = inspect.signature(self.answer).parameters.values()
            object.__setattr__(self, "_hears_body", sum(each.default is each.empty for each in asked) > 1)

    def reply(self, asked: str, body: Mapping[str, Any], messages: Messages, count: int) -> tuple[bytes, int]:
        """Return the body of a reply, and how many answers are in it.

        Tokens are words, so that a test can count them.
        """
        prompt_tokens = sum(_words(message.get("content")) for message in messages)
        usage = {"prompt_tokens": prompt_tokens}
        reply: dict[str, Any] = {"id": "fake", "created": int(time.time()), "model": body.get("model"), "usage": usage}
        if asked == "embeddings":
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            reply["object"] = "list"
            reply["data"] = [
                {"object": "embedding", "index": i, "embedding": self._vector(t, body.get("dimensions") or self.dimensions)}
                for i, t in enumerate(texts)
            ]
        else:
            texts = [self._text(messages, body, i) for i in range(count)]
            usage["completion_tokens"] = sum(map(_words, texts))
            reply["object"] = "chat.completion" if asked == "chat/completions" else "text_completion"
            said = _message if asked == "chat/completions" else _completion
            reply["choices"] = [{"index": i, "finish_reason": "stop", **said(text)} for i, text in enumerate(texts)]
        usage["total_tokens"] = sum(usage.values())
        return json.dumps(reply).encode(), len(texts)

    def _text(self, messages: Messages, body: Mapping[str, Any], choice: int) -> str:
        answer: Any = self.answer
        if callable(answer):
            answer = answer(messages, body) if self._hears_body else answer(messages)
        if answer is None:
            asked = str(messages[-1].get("content")) if messages else ""
            number = f".{choice}" if choice else ""
            return f"Answer {request_digest(body)[:8]}{number} to: {' '.join(asked.split())[:80]}"
        return answer if isinstance(answer, str) else json.dumps(answer)

    def _vector(self, text: Any, dimensions: int) -> list[float]:
        drawn = random.Random(str(text))
        return [round(drawn.uniform(-1, 1), 6) for _ in range(dimensions)]


def _message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _completion(text: str) -> dict[str, Any]:
    return {"text": text}


def _words(content: Any) -> int:
    return len(str(content or "").split())
