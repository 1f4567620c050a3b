"""`OpenAILLM` keeps the contract, for OpenAI's paths and for Azure's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from airflow_distil.conversation import Chat, Embed, user
from airflow_distil.exceptions import BadRow, LLMError
from airflow_distil.llms import OpenAILLM
from airflow_distil.testing import FakeLLM, Fault
from tests.contracts.llms.suite import KEY, EndpointContract


class TestOpenAI(EndpointContract):
    @pytest.fixture
    def connect(self, server: FakeLLM) -> Callable[..., OpenAILLM]:
        return lambda **kwargs: OpenAILLM(**{"model": "fake", "base_url": server.base_url, "api_key": KEY, **kwargs})


class TestAzure(EndpointContract):
    model = "my-deployment"

    @pytest.fixture
    def connect(self, server: FakeLLM) -> Callable[..., OpenAILLM]:
        given = {"base_url": server.url, "api_key": KEY, "backend": "azure", "api_version": "2026-01-01", "model": self.model}
        return lambda **kwargs: OpenAILLM(**{**given, **kwargs})


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ({"usage": {"prompt_tokens": "12"}}, "fine"),
        ({"usage": [1]}, "fine"),
        ({"model": 7, "finish": {"a": 1}}, "fine"),
        ({"content": {"a": 1}}, '{"a": 1}'),
        ({"content": 5}, "5"),
    ],
)
def test_an_odd_reply_is_still_the_answer(reply, text):
    """It was paid for: taken for a bug it ended the run, unlogged, and each retry paid for it again."""
    body = {
        "choices": [{"message": {"content": reply.get("content", "fine")}, "finish_reason": reply.get("finish", "stop")}],
        "usage": reply.get("usage"),
        "model": reply.get("model", "m"),
    }

    async def ask():
        llm = OpenAILLM("m", base_url=server.base_url, api_key="key")
        try:
            return await llm.answer(Chat([user("x")]))
        finally:
            await llm.aclose()

    with FakeLLM(faults=[Fault(status=200, body=body)]) as server:
        (answer,) = asyncio.run(ask())
    assert answer.text == text
    assert isinstance(answer.finish_reason, str)
    assert isinstance(answer.model, str)


@pytest.mark.parametrize("where", ["header", "cut"])
def test_no_part_of_a_key_is_in_an_error(where):
    """A key after `Bearer` in a header, and one that the shortened message cut in half, were shown."""
    secret = "sk-" + "verysecret" * 6
    said = f"Incorrect API key provided: {secret}." if where == "header" else "x" * 280 + secret

    async def ask():
        headers = {"X-Auth": f"Bearer {secret}"} if where == "header" else {}
        llm = OpenAILLM("m", base_url=server.base_url, api_key="other" if headers else secret, headers=headers)
        try:
            await llm.answer(Chat([user("x")]))
        finally:
            await llm.aclose()

    with FakeLLM(faults=[Fault(status=400, body={"error": {"message": said}})]) as server, pytest.raises(BadRow) as caught:
        asyncio.run(ask())
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("number", [1e39, -1e39, math.inf, math.nan, 10**400], ids=lambda number: str(number)[:5])
def test_numbers_beyond_float32(number):
    """1e39 became an infinity in the float32 column of a row that was called good, and a longer integer ended the run."""

    async def ask(value):
        body = {"data": [{"index": 0, "embedding": [value, 2]}], "model": "m"}
        with FakeLLM(faults=[Fault(status=200, body=body)]) as server:
            llm = OpenAILLM("m", base_url=server.base_url, api_key="key")
            try:
                return await llm.answer(Embed("x"))
            finally:
                await llm.aclose()

    with pytest.raises(LLMError, match=r"float32|one vector"):
        asyncio.run(ask(number))
    (answer,) = asyncio.run(ask(3.4e38))
    assert answer.vector == [3.4e38, 2.0]
