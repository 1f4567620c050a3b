"""The fake is what all other tests stand on: it counts, waits and fails exactly as told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from socket import create_connection
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from airflow_distil.testing import Drop, FakeLLM, Fault, HalfBody, Hang, Malformed, request_digest


def call(url: str, body: dict | None = None, key: str = "k", path: str = "/chat/completions") -> dict:
    """With the standard library, so that the fake is not tested against our own client only."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url + path, data, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    with urlopen(request, timeout=10) as reply:
        return json.loads(reply.read())


def chat(text: str = "hi there", **more) -> dict:
    return {"model": "fake", "messages": [{"role": "user", "content": text}], **more}


def said(reply: dict) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_default_answer_depends_on_the_request_only():
    """Two runs of one test differed, or two prompts got one answer."""
    with FakeLLM() as first, FakeLLM() as second:
        assert said(call(first.base_url, chat("a"))) == said(call(second.base_url, chat("a")))
        assert said(call(first.base_url, chat("a"))) != said(call(first.base_url, chat("b")))


@pytest.mark.parametrize(
    ("answer", "text"),
    [("four", "four"), (lambda m: m[-1]["content"].upper(), "HI THERE"), (lambda m: {"a": 1}, '{"a": 1}'), ({}, "{}")],
)
def test_answers(answer, text):
    """A dict was sent as a Python repr, an empty one as the default answer."""
    with FakeLLM(answer) as llm:
        assert said(call(llm.base_url, chat())) == [text]


def test_usage_counts_words():
    """Costs in tests could not be computed by hand."""
    with FakeLLM("one two three") as llm:
        assert call(llm.base_url, chat(n=2))["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}


def test_counts():
    """Calls and choices were one number, so a paid-twice test could not tell `n=2` from two calls."""
    with FakeLLM() as llm:
        body = chat(n=3)
        call(llm.base_url, body)
        call(llm.base_url, chat())
        assert (llm.answered.calls, llm.answered.choices) == (2, 4)
        assert llm.calls == {request_digest(body): 2}
        assert llm.requests == [body, chat()]
        assert llm.in_flight == 0


def test_requests_are_bounded():
    """A million requests of a benchmark were kept in memory."""
    with FakeLLM(keep=2) as llm:
        for text in "abc":
            call(llm.base_url, chat(text))
        assert [body["messages"][0]["content"] for body in llm.requests] == ["b", "c"]


def test_a_server_that_ignores_n():
    """The engine's second call for the missing samples was never exercised."""
    with FakeLLM(honours_n=False) as llm:
        assert len(said(call(llm.base_url, chat(n=3)))) == 1
        assert llm.answered.choices == 1


def test_other_endpoints():
    """Completions, embeddings and models existed only on paper."""
    with FakeLLM(models=["m"]) as llm:
        assert call(llm.base_url, {"model": "m", "prompt": "once"}, path="/completions")["choices"][0]["text"].endswith("once")
        vectors = call(llm.base_url, {"model": "m", "input": ["a", "b", "a"]}, path="/embeddings")["data"]
        assert vectors[0]["embedding"] == vectors[2]["embedding"] != vectors[1]["embedding"]
        assert [model["id"] for model in call(llm.base_url, path="/models")["data"]] == ["m"]
        assert call(llm.url, chat(), path="/openai/deployments/m/chat/completions?api-version=1")["model"] == "m"


@pytest.mark.parametrize(
    ("settings", "path", "status"),
    [
        ({"api_key": "other"}, "/chat/completions", 401),
        ({"models": ["other"]}, "/chat/completions", 404),
        ({}, "/chat/complete", 404),
        ({"answer": lambda messages: 1 / 0}, "/chat/completions", 400),
    ],
)
def test_refusals(settings, path, status):
    """A wrong key or model was let in, so nothing tested what we do about it."""
    with FakeLLM(**settings) as llm, pytest.raises(HTTPError) as raised:
        call(llm.base_url, chat(), path=path)
    with raised.value as error:
        assert error.code == status
        assert json.loads(error.read())["error"]["message"]
    assert llm.answered.calls == 0


def test_body_that_is_no_request():
    """The server's thread died of it, and all later tests hung."""
    with FakeLLM() as llm:
        for body in ({}, [], {"messages": None}):
            with pytest.raises(HTTPError) as raised:
                call(llm.base_url, body)
            raised.value.close()
        assert call(llm.base_url, chat())


def test_faults_strike_in_order_and_as_often_as_told():
    """A fault struck once too often, or was skipped when another came first."""
    outcomes = []
    with FakeLLM(faults=[Fault(status=429, headers={"Retry-After": "1"}, times=2), Fault(status=503)]) as llm:
        llm.fail_next(400)
        for _ in range(5):
            try:
                call(llm.base_url, chat())
                outcomes.append(200)
            except HTTPError as error:
                outcomes.append((error.code, error.headers["Retry-After"]))
                error.close()
        assert outcomes == [(400, None), (429, "1"), (429, "1"), (503, None), 200]
        assert llm.answered.calls == 1


def test_faults_of_some_requests_for_ever():
    """`times=None` struck once; `when` was asked about other requests' messages."""
    with FakeLLM(faults=[Fault(status=400, times=None, when=lambda m: "poison" in m[-1]["content"])]) as llm:
        for _ in range(3):
            with pytest.raises(HTTPError) as raised:
                call(llm.base_url, chat("poison"))
            raised.value.close()
            assert call(llm.base_url, chat("food"))


@pytest.mark.parametrize("fault", [Drop(), Drop(after=0), Malformed(), HalfBody()])
def test_broken_replies_are_not_counted_as_answered(fault):
    """A reply that nobody could read was counted as paid."""
    with FakeLLM() as llm:
        llm.fail_next(fault)
        with pytest.raises((OSError, HTTPException, ValueError)):
            call(llm.base_url, chat())
        assert llm.answered.calls == 0
        assert call(llm.base_url, chat())


def test_stop_breaks_off_what_hangs(pool):
    """The end of a `with` block waited a minute for a request that hangs by order."""
    with FakeLLM(faults=[Hang()]) as llm:
        hanging = pool.submit(call, llm.base_url, chat())
        llm.wait_for(1)
        assert llm.in_flight == 1
    with pytest.raises((ConnectionError, HTTPException)):
        hanging.result(5)


def test_hold_and_release(pool):
    """Tests slept and hoped that all requests were in flight by then."""
    with FakeLLM() as llm:
        llm.hold()
        calls: list[Future] = [pool.submit(call, llm.base_url, chat(str(i))) for i in range(5)]
        llm.wait_for(5)
        assert llm.in_flight == llm.peak_in_flight == 5
        assert llm.answered.calls == 0
        llm.release(2)
        done = threading.Event()
        finished: list[Future] = []
        for future in calls:
            future.add_done_callback(lambda f: (finished.append(f), len(finished) == 2 and done.set()))
        assert done.wait(5)
        assert llm.answered.calls == 2
        llm.release()
        for future in calls:
            future.result(5)
        assert call(llm.base_url, chat())
        assert llm.peak_in_flight == 5


def test_permits_are_for_those_who_come_later_too(pool):
    """`release(1)` before the request came was lost, and the test hung."""
    with FakeLLM() as llm:
        llm.hold()
        llm.release(1)
        assert call(llm.base_url, chat())
        second = pool.submit(call, llm.base_url, chat())
        llm.wait_for(2)
        assert llm.in_flight == 1
        llm.release()
        assert second.result(5)


def test_wait_for_gives_up():
    """A missing request hung the test run instead of failing one test."""
    with FakeLLM() as llm, pytest.raises(TimeoutError, match="0 of 1"):
        llm.wait_for(1, timeout=0.01)


def test_latency_is_drawn_by_the_given_function():
    """A function was called with nothing, or once for all requests."""
    drawn = []
    with FakeLLM(latency=lambda random: drawn.append(random.random()) or 0.0) as llm:
        call(llm.base_url, chat())
        call(llm.base_url, chat())
    assert len(set(drawn)) == 2


def test_a_client_that_leaves_is_not_answered(pool):
    """Answers written to nobody were counted as paid, and a kill test blamed the engine for them."""
    with FakeLLM() as llm:
        llm.hold()
        body = json.dumps(chat()).encode()
        with create_connection(("127.0.0.1", int(llm.url.rpartition(":")[2]))) as socket:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            socket.sendall(head.encode() + body)
            llm.wait_for(1)
        staying = pool.submit(call, llm.base_url, chat("stays"))
        llm.wait_for(2)
        llm.release()
        assert staying.result(5)
        assert llm.answered.calls == 1


def test_as_connection(monkeypatch):
    """A test's connection stayed behind in the environment, and the next test asked a stopped server."""
    monkeypatch.setenv("AIRFLOW_CONN_MY_LLM", "before")
    with FakeLLM(api_key="k") as llm:
        with llm.as_connection("my_llm", timeout=3), llm.as_connection("other", model="m"):
            connection = json.loads(os.environ["AIRFLOW_CONN_MY_LLM"])
            assert connection == {
                "conn_type": "distil_llm",
                "host": llm.base_url,
                "password": "k",
                "extra": {"model": "fake", "timeout": 3},
            }
        assert os.environ["AIRFLOW_CONN_MY_LLM"] == "before"
        assert "AIRFLOW_CONN_OTHER" not in os.environ


def test_a_port_in_use_is_an_error_here():
    """The server's thread died silently, and the test talked to another test's server."""
    with FakeLLM() as llm:
        port = int(llm.url.rpartition(":")[2])
        with pytest.raises(OSError, match="address already in use"):
            FakeLLM(port=port).start()


def test_as_a_process_with_a_journal(tmp_path):
    """Kill tests compare the journal with the log: a missing line is an answer that seems free, a torn one breaks them."""
    journal = tmp_path / "journal.jsonl"
    command = [sys.executable, "-m", "airflow_distil.testing", "--journal", str(journal), "--latency", "0.001"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            call(url, chat(n=2))
            call(url, chat("other"))
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [(line["request"], line["n"]) for line in lines] == [(request_digest(chat()), 2), (request_digest(chat("other")), 1)]
    assert lines[0]["time"] <= lines[1]["time"]
