"""How an `OpenAILLM` is set up. What it answers is in `tests/contracts/llms`."""

from __future__ import annotations

import asyncio
import base64
import gc
import html
import json
import logging
import traceback
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_distil.conversation import Allowance, Chat, Embed, Quota, user
from airflow_distil.exceptions import Fatal, LLMError, RateLimited, TaskDefinitionError
from airflow_distil.llms import OpenAILLM
from airflow_distil.llms.failures import SHORTEST
from airflow_distil.llms.openai import _shares
from airflow_distil.testing import FakeLLM, Fault
from tests.exits import frames_of


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)


def ask(llm: OpenAILLM) -> str | None:
    async def once() -> str | None:
        try:
            return (await llm.answer(Chat([user("hello")])))[0].text
        finally:
            await llm.aclose()

    return asyncio.run(once())


def test_key_and_url_come_from_the_environment(monkeypatch):
    """`OpenAILLM(model=…)` alone, as every tutorial writes it, needed arguments."""
    with FakeLLM(api_key="sk-from-env") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-from-env\n")
        assert "hello" in ask(OpenAILLM(model="gpt-4"))


def test_a_local_server_needs_no_key():
    """The SDK refused to talk to a local server without a key in the environment."""
    with FakeLLM() as server:
        assert "hello" in ask(OpenAILLM("m", base_url=server.base_url))


@pytest.mark.parametrize("backend", ["openai", "azure"])
def test_no_key_is_fatal_and_says_so(backend):
    """A missing key was retried as a lost connection."""
    with pytest.raises(Fatal, match="key"):
        ask(OpenAILLM("m", backend=backend))


def test_nothing_is_connected_before_the_first_call():
    """A client made in `__init__` belonged to no event loop, or to the wrong one."""
    assert OpenAILLM("m", base_url="http://127.0.0.1:9/v1")._wire is None


def test_a_second_event_loop_without_aclose():
    """Two `asyncio.run` in a notebook, without `aclose` between: 'Event loop is closed'."""
    with FakeLLM() as server:
        llm = OpenAILLM("m", base_url=server.base_url)
        loops = [asyncio.new_event_loop() for _ in range(2)]
        wires = []
        for loop in loops:
            loop.run_until_complete(llm.answer(Chat([user("hello")])))
            wires.append(llm._wire)
        for loop, wire in zip(loops, wires, strict=True):
            loop.run_until_complete(wire.aclose())
            loop.close()
        assert wires[0] is not wires[1]


def test_a_loop_in_another_thread():
    """Its requests went over connections of the first one, which runs at the same time."""

    async def other() -> object:
        await llm.answer(Chat([user("hello")]))
        wire = llm._wire
        await llm.aclose()
        return wire

    async def first() -> None:
        await llm.answer(Chat([user("hello")]))
        wire = llm._wire
        assert wire is not await asyncio.to_thread(asyncio.run, other())
        await wire.aclose()

    with FakeLLM() as server:
        llm = OpenAILLM("m", base_url=server.base_url)
        asyncio.run(first())


def test_aclose_twice_and_unused():
    """Closing what was never used raised in the `finally` of a failed run, and hid the failure."""

    async def close() -> None:
        llm = OpenAILLM("m", base_url="http://127.0.0.1:9/v1")
        await llm.aclose()
        await llm.aclose()

    asyncio.run(close())


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "ftp://host", "host"])
def test_a_base_url_without_scheme_is_refused(url):
    """It failed at the first call, as a lost connection that was retried."""
    with pytest.raises(TaskDefinitionError, match="http://"):
        OpenAILLM("m", base_url=url)


def test_an_unknown_backend_is_refused():
    """A typo in the backend gave OpenAI's, and the key went there."""
    with pytest.raises(TaskDefinitionError, match="azur'"):
        OpenAILLM("m", backend="azur")


def test_generation_kwargs_are_checked_at_once():
    """An unknown parameter was found by the first paid call."""
    with pytest.raises(TaskDefinitionError, match="temperature"):
        OpenAILLM("m", generation_kwargs={"temprature": 1})


def test_nothing_secret_is_shown():
    """`repr` of a task ends in logs, rendered fields and the serialized DAG."""
    llm = OpenAILLM("m", base_url="https://gateway.example/v1", api_key="sk-key-secret", headers={"X-Key": "header-secret"})
    assert repr(llm) == "OpenAILLM('m', base_url='https://gateway.example/v1')"
    assert "sk-key-secret" not in str(vars(llm))
    assert "header-secret" not in str(vars(llm))


def test_a_url_with_a_password_is_refused_and_not_shown():
    """The proxy's password stood in each error column."""
    with pytest.raises(TaskDefinitionError, match="gateway") as raised:
        OpenAILLM("m", base_url="https://me:url-secret@gateway.example/v1")
    assert "url-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("https://gateway.example/v1?key=url-secret", "before the"),
        ("https://gateway.example/v1?sig=url-secret&x=1", "before the"),
        ("https://gateway.example/v1#url-secret", "before the"),
        ("https://me:url-secret/with-a-slash@gateway.example/v1", "port"),
        ("https://[url-secret/v1", "port"),
        ("ftp://me:url-secret@gateway.example", "http"),
        ("me:url-secret@gateway.example", "http"),
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_shown(url, advice):
    """A key in the query never worked, as the call's path went behind it; part of a password was taken for a port."""
    with pytest.raises(TaskDefinitionError, match=advice) as raised:
        OpenAILLM("m", base_url=url)
    assert "url-secret" not in "".join(traceback.format_exception(raised.value))


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=SHORTEST, max_size=40)


@given(
    KEYS,
    st.sampled_from(
        [
            str,
            quote_plus,
            lambda key: quote(key, safe=""),
            lambda key: base64.b64encode(key.encode()).decode(),
            lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
            lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
            lambda key: json.dumps({"key": key}),
            repr,
            html.escape,
        ]
    ),
    st.sampled_from(["key", "header", "basic"]),
)
def test_an_echo_is_masked_however_it_is_encoded(key, encode, place):
    """Gateways log a request as they see it and send that back: as JSON, in a URL, in base64."""
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    llm = OpenAILLM(
        "m",
        base_url="http://127.0.0.1:1/v1",
        api_key=key if place == "key" else None,
        headers={"key": {}, "header": {"X-Key": f"Bearer {key}"}, "basic": {"Authorization": f"Basic {basic}"}}[place],
    )
    echo = encode(key)
    assume("***" not in echo and key not in "refused for what was sent, as every key is masked")
    cleaned = llm._clean(f"refused for {echo}, as every key is masked")
    if place == "basic" and echo == base64.b64encode(f"Bearer {key}".encode()).decode():
        return  # nobody sent that
    assert echo.strip("=") not in cleaned
    assert key not in cleaned


def test_a_key_that_is_a_letter_hides_nothing():
    """Local servers take any key; with "x" for one, "no e***tra te***t" said nothing."""
    assert OpenAILLM("m", base_url="http://127.0.0.1:1/v1", api_key="x")._clean("no extra text") == "no extra text"


@pytest.mark.parametrize("count", [10**30, -5, True, 2**31, "7"])
def test_a_count_that_cannot_be_is_unknown(count):
    """A server that said 10^30 tokens broke the write pass, after all rows were paid for."""
    assert list(_shares({"tokens": count}, "tokens", 2)) == [None, None]
    assert list(_shares({"tokens": 3}, "tokens", 2)) == [2, 1]


def test_no_frame_of_a_failure_holds_the_key():
    """Tools that report errors show what each frame of the traceback held."""
    refuses = Fault(status=401, times=None, headers={"WWW-Authenticate": "url-secret"}, body={"error": "url-secret"})
    with FakeLLM(faults=[refuses]) as server:
        for url, options in (
            (server.base_url, {}),
            ("http://127.0.0.1:9/v1", {}),
            ("http://127.0.0.1:9/v1", {"backend": "azure", "api_version": ""}),
        ):
            llm = OpenAILLM("m", base_url=url, api_key="url-secret", headers={"X-Key": "url-secret"}, **options)
            with pytest.raises(LLMError) as raised:
                ask(llm)
            assert "url-secret" not in frames_of(raised.value)


def test_failures_leave_no_garbage():
    """A frame that held its own error kept prompt and reply until the collector came: a storm of refusals filled the memory."""

    async def asking() -> int:
        llm = OpenAILLM("m", base_url=server.base_url)
        for _ in range(6):
            with pytest.raises(LLMError):
                await llm.answer(Chat([user("hello")]))
        await llm.aclose()
        return failures()

    def failures() -> int:
        return sum(issubclass(type(each), LLMError) for each in gc.get_objects())

    gc.collect()
    before = failures()  # of tests that failed, and others that keep what they caught
    gc.disable()
    try:
        with FakeLLM(faults=[Fault(status=429, times=None)]) as server:
            assert asyncio.run(asking()) == before
    finally:
        gc.enable()


def test_a_reply_nested_without_end_is_no_bug_of_ours():
    """A body of brackets ended the whole run."""
    deep = Fault(status=500, times=None, body="[" * 100_000)
    with FakeLLM(faults=[deep]) as server, pytest.raises(LLMError):
        ask(OpenAILLM("m", base_url=server.base_url))


def test_a_request_writes_nothing_to_the_log(caplog):
    """Httpx logs one line per request at INFO: 100,000 rows, 100,000 lines in the task log."""
    caplog.set_level(logging.INFO)
    with FakeLLM() as server:
        ask(OpenAILLM("m", base_url=server.base_url))
    assert not caplog.records


def test_models():
    """The list was read from the wrong field."""
    with FakeLLM(models={"b", "a"}) as server:
        llm = OpenAILLM("", base_url=server.base_url)

        async def listed() -> list[str]:
            try:
                return await llm.models()
            finally:
                await llm.aclose()

        assert asyncio.run(listed()) == ["a", "b"]


@given(st.integers(0, 10**9), st.integers(1, 64))
def test_shares_add_up(total, count):
    """Rounded shares made the sum of the column differ from the bill."""
    shares = _shares({"prompt_tokens": total}, "prompt_tokens", count)
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


LIMITS = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "X-RateLimit-Reset-Requests": "120ms",
    "x-ratelimit-limit-tokens": "-1",
}


def answered(server: FakeLLM, request: Chat | Embed, times: int) -> list[Allowance | None]:
    async def go() -> list[Allowance | None]:
        llm = OpenAILLM("m", base_url=server.base_url)
        try:
            return [(await llm.answer(request))[0].allowance for _ in range(times)]
        finally:
            await llm.aclose()

    return asyncio.run(go())


def test_answers_carry_what_the_endpoint_says_about_its_limits():
    """Limits were found out by refusals, though each reply named them."""
    said = {"model": "m", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
    with FakeLLM(faults=[Fault(status=200, headers=LIMITS, body=said)]) as server:
        assert answered(server, Chat([user("hello")]), 2) == [Allowance(requests=Quota(500, 499, 0.12)), None]


def test_embeddings_share_calls_and_say_nothing_of_limits():
    """A limit of 500 calls a minute let eight texts a second leave, each in a call of its own; they would have been 16,000."""
    said = {"model": "m", "data": [{"index": 0, "embedding": [1.0]}]}
    faults = [Fault(status=200, headers=LIMITS, body=said), Fault(status=429, headers=LIMITS)]
    with FakeLLM(faults=faults) as server:
        assert answered(server, Embed("hello"), 1) == [None]
        with pytest.raises(RateLimited) as raised:
            answered(server, Embed("hello"), 1)
    assert raised.value.allowance is None


def test_refusals_carry_it_too():
    """A 429 without Retry-After says in these headers when the window ends."""
    with FakeLLM(faults=[Fault(status=429, headers=LIMITS)]) as server, pytest.raises(RateLimited) as raised:
        ask(OpenAILLM("m", base_url=server.base_url))
    assert raised.value.allowance == Allowance(requests=Quota(500, 499, 0.12))
