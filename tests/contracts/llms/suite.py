"""What every LLM promises to the engine; a backend's test class inherits it and gives the fixtures."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest

from airflow_distil.conversation import LLM, Answer, Chat, Complete, Embed, Rank, Request, Usage, resolve, user
from airflow_distil.exceptions import BadRow, Fatal, LLMError, QuotaExceeded, RateLimited, TaskDefinitionError, Transient
from airflow_distil.testing import Drop, FakeLLM, Fault, HalfBody, Hang, Malformed

KEY = "sk-contract-0123456789abcdef"
HEADER = "header-secret-fedcba98765"


def ask(llm: LLM, request: Any = None, n: int = 1) -> list[Answer]:
    """One call in an event loop of its own, the connections closed behind it."""

    async def once() -> list[Answer]:
        try:
            return await llm.answer(request or Chat([user("What is two and two?")]), n)
        finally:
            await llm.aclose()

    return asyncio.run(once())


class LLMContract:
    """For every backend. The class gives the fixture `llm`: a model that answers."""

    @pytest.fixture
    def llm(self) -> LLM:
        raise NotImplementedError

    def question(self, text: str) -> Request:
        """Return a request that the backend answers."""
        return Chat([user(text)])

    def said(self, answer: Answer) -> Any:
        """Return what an answer says, to be compared."""
        return answer.text

    def test_is_an_llm(self, llm):
        """An attribute that the engine reads was missing, and it fell over after the first call."""
        assert isinstance(llm, LLM)
        assert llm.model
        dict(llm.parameters)

    def test_answers(self, llm):
        """Metadata columns were empty because the answer carried only what it said."""
        (answer,) = ask(llm, self.question("What is two and two?"))
        assert self.said(answer)
        assert answer.model
        assert answer.latency > 0
        assert answer.usage.input_tokens > 0
        assert answer.usage.output_tokens is not None

    def test_resolved_and_unresolved_requests_are_the_same(self, llm):
        """The engine resolves requests, a notebook does not; only one of the two worked."""
        request = self.question("Say the same.")
        once, again = ask(llm, request)[0], ask(llm, resolve(request, llm.model, llm.parameters))[0]
        assert self.said(once) == self.said(again)

    def test_never_more_answers_than_asked_for(self, llm):
        """An extra answer had no asker and shifted all samples after it."""
        assert 1 <= len(ask(llm, self.question("What is two and two?"), n=3)) <= 3

    def test_works_again_in_another_event_loop(self, llm):
        """A client kept from a closed loop raised 'Event loop is closed' in the second cell of a notebook."""
        request = self.question("What is two and two?")
        assert self.said(ask(llm, request)[0]) == self.said(ask(llm, request)[0])

    def test_answers_belong_to_their_requests(self, llm):
        """Concurrent answers were handed out in order of arrival."""

        async def some() -> None:
            requests = [self.question(f"Question {'and so on ' * (i % 7)} {i}") for i in range(20)]
            alone = [self.said((await llm.answer(request))[0]) for request in requests]
            together = await asyncio.gather(*map(llm.answer, requests))
            assert [self.said(answers[0]) for answers in together] == alone
            assert len({str(each) for each in alone}) == 20
            await llm.aclose()

        asyncio.run(some())

    def test_one_that_gives_up_takes_nobody_along(self, llm):
        """A cancelled request took the call that it shared with it."""

        async def some() -> None:
            expected = self.said((await llm.answer(self.question("number 3")))[0])
            calls = [asyncio.create_task(llm.answer(self.question(f"number {i}"))) for i in range(6)]
            await asyncio.sleep(0)
            calls[0].cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(results[0], asyncio.CancelledError)
            assert self.said(results[3][0]) == expected
            await llm.aclose()

        asyncio.run(some())


class EndpointContract(LLMContract):
    """For backends behind HTTP. The class gives `server` (in front of `KEY`) and `connect` (an LLM at that server)."""

    model = "fake"

    @pytest.fixture
    def server(self) -> Iterator[FakeLLM]:
        with FakeLLM(api_key=KEY, models={self.model}) as server:
            yield server

    @pytest.fixture
    def connect(self, server: FakeLLM) -> Callable[..., LLM]:
        raise NotImplementedError

    @pytest.fixture
    def llm(self, connect) -> LLM:
        return connect()

    def fails(self, llm: LLM, kind: type[LLMError], request: Any = None) -> LLMError:
        """Ask, expect a failure of that kind, and look for secrets in all that a log could show of it."""
        with pytest.raises(LLMError) as raised:
            ask(llm, request)
        error = raised.value
        assert type(error) is kind, error
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + repr(llm) + repr(vars(llm))
        assert KEY not in shown
        assert HEADER not in shown
        assert error.__cause__ is None
        assert error.__context__ is None, "a debugger or an error tracker would find the request with its key there"
        return error

    # Requests

    def test_answers_a_chat(self, llm):
        """Metadata columns were empty because the answer carried only its text."""
        (answer,) = ask(llm)
        assert answer.text
        assert answer.vector is None
        assert answer.finish_reason == "stop"
        assert answer.usage.output_tokens > 0

    def test_several_answers_in_one_call(self, server, llm):
        """`n` was sent as n calls, or the usage of the call was counted n times."""
        answers = ask(llm, n=3)
        assert len(answers) == 3
        assert len({answer.text for answer in answers}) == 3
        assert server.answered.calls == 1
        (body,) = server.requests
        assert body["n"] == 3
        assert sum(answer.usage.input_tokens for answer in answers) == 5
        assert sum(answer.usage.output_tokens for answer in answers) == sum(len(answer.text.split()) for answer in answers)

    def test_n_is_not_sent_for_one(self, server, llm):
        """Servers that know no `n` refused every request because of a needless `n: 1`."""
        ask(llm)
        assert "n" not in server.requests[0]

    def test_structured_output_is_sent(self, server, llm):
        """The schema was dropped between task and wire."""
        schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
        ask(llm, Chat([user("x")], response_format=schema))
        assert server.requests[0]["response_format"] == schema

    def test_request_parameters_win(self, server, connect):
        """A task's own temperature was overridden by the connection's."""
        llm = connect(generation_kwargs={"temperature": 0.1, "extra_body": {"top_k": 4}})
        ask(llm, Chat([user("x")], parameters={"temperature": 0.9}))
        assert server.requests[0]["temperature"] == 0.9
        assert server.requests[0]["top_k"] == 4
        assert "extra_body" not in server.requests[0]

    def test_reserved_parameters_of_a_request_are_refused(self, server, llm):
        """A task that set `stream` got replies that nobody could read, retried until the deadline."""
        with pytest.raises(TaskDefinitionError, match="stream"):
            ask(llm, Chat([user("x")], parameters={"stream": True}))
        assert not server.requests

    def test_completion(self, server, llm):
        """Raw completions went to the chat endpoint and got a chat template."""
        (answer,) = ask(llm, Complete("Once upon a time"))
        assert "Once upon a time" in answer.text
        assert server.requests[0]["prompt"] == "Once upon a time"

    def test_embedding(self, llm):
        """Embeddings lost their usage; or a vector's output tokens, which are none, were unknown, and so was its price."""
        (answer,) = ask(llm, Embed("four words of text"))
        assert len(answer.vector) == 8
        assert answer.text is None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 0)

    def test_embeddings_share_calls(self, server, llm):
        """A hundred texts were a hundred calls; their usage was counted once for each text, or not divided."""
        texts = [f"text {'word ' * (i % 5)}{i}" for i in range(100)]
        alone = {text: ask(llm, Embed(text))[0].vector for text in texts[:5]}
        before = server.answered.calls
        together = asyncio.run(self.embed(llm, *texts))
        assert server.answered.calls - before == 4
        assert len({tuple(answer.vector) for answer in together}) == 100
        assert {text: answer.vector for text, answer in zip(texts, together, strict=False) if text in alone} == alone
        assert sum(answer.usage.input_tokens for answer in together) == sum(len(text.split()) for text in texts)

    def test_vectors_are_matched_by_index(self, server, llm):
        """A server that answers in its own order put each vector on another row."""
        data = [{"index": i, "embedding": [float(i)]} for i in (2, 0, 1)]
        server.fail_next(200, body={"data": data, "usage": {"prompt_tokens": 7}})
        answers = asyncio.run(self.embed(llm, "a", "bb", "cccc"))
        assert [answer.vector for answer in answers] == [[0.0], [1.0], [2.0]]
        assert [answer.usage.input_tokens for answer in answers] == [1, 2, 4]

    def test_only_equal_parameters_share_a_call(self, server, llm):
        """A text got a vector of another text's dimensions."""

        async def both() -> None:
            small = Embed("a", parameters={"dimensions": 2})
            await asyncio.gather(llm.answer(small), llm.answer(Embed("b")), llm.answer(Embed("c")))
            await llm.aclose()

        asyncio.run(both())
        assert sorted((str(body["input"]), body.get("dimensions")) for body in server.requests) == [
            ("['b', 'c']", None),
            ("a", 2),
        ]

    def test_a_bad_text_costs_one_row(self, server, llm):
        """One text that is too long failed the 31 others of its call."""
        server.fail_next(Fault(status=400, when=lambda messages: "bad" in str(messages)), times=2)
        good, bad, other = asyncio.run(self.embed(llm, "good", "bad", "other"))
        assert isinstance(bad, BadRow)
        assert good.vector
        assert other.vector

    @pytest.mark.parametrize("refusal", ["status", "first only", "no index"])
    def test_a_server_that_takes_one_text_only(self, server, llm, refusal):
        """A server without lists of inputs failed all rows, or put its one vector on each."""
        one = {"index": 0, "embedding": [9.0]}
        body = {"first only": {"data": [one]}, "no index": {"data": [{"embedding": [9.0]}] * 4}}.get(refusal)
        fault = Fault(
            status=200 if body else 422, body=body, when=lambda messages: isinstance(messages[0]["content"], list), times=None
        )
        server.fail_next(fault, times=99)
        first = asyncio.run(self.embed(llm, *"abcd"))
        assert len({tuple(answer.vector) for answer in first}) == 4
        assert [9.0] not in [answer.vector for answer in first]
        for _ in range(3):
            before = sum(server.calls.values())
            asyncio.run(self.embed(llm, *"abcd"))
        assert sum(server.calls.values()) - before == 4, "it asks for lists again and again"

    def test_a_rate_limited_call_is_everybodys(self, server, llm):
        """One asker was told to wait, the others never heard."""
        server.fail_next(429, headers={"Retry-After": "7"})
        errors = asyncio.run(self.embed(llm, "a", "b"))
        assert [(type(error), error.retry_after) for error in errors] == [(RateLimited, 7.0)] * 2

    @staticmethod
    async def embed(llm: LLM, *texts: str) -> list[Any]:
        try:
            results = await asyncio.gather(*(llm.answer(Embed(text)) for text in texts), return_exceptions=True)
        finally:
            await llm.aclose()
        return [result[0] if isinstance(result, list) else result for result in results]

    def test_a_ranking_is_refused_without_a_call(self, server, llm):
        """A ranking was sent as a chat and paid for."""
        with pytest.raises(TaskDefinitionError):
            ask(llm, Rank("a", ["b", "c"]))
        assert not server.requests

    def test_a_chat_has_no_embedding_here(self, server, llm):
        """One chat among the texts ended the run, or was sent as its text in Python."""
        assert "chat template" in str(self.fails(llm, BadRow, Embed([user("a chat")])))
        assert not server.requests

    def test_headers_are_sent_and_hidden(self, server, connect):
        """The header that a gateway wants was lost, or its value was shown in an error."""
        llm = connect(headers={"X-Gateway": HEADER})
        server.fail_next(Fault(status=400, body={"error": {"message": f"header {HEADER} is not allowed"}}))
        assert "***" in str(self.fails(llm, BadRow))

    def test_more_than_two_hundred_in_flight(self, server, llm):
        """The transport's own limit of 100 connections capped every run, unseen."""
        count = 300
        server.hold()

        async def many() -> None:
            calls = [asyncio.create_task(self.one(llm, i)) for i in range(count)]
            await asyncio.to_thread(server.wait_for, count, 20)
            server.release()
            await asyncio.gather(*calls)
            await llm.aclose()

        asyncio.run(many())
        assert server.peak_in_flight == count

    @staticmethod
    async def one(llm: LLM, number: int) -> None:
        await llm.answer(Chat([user(f"Question {number}")]))

    # Failures that pass

    def test_rate_limited_without_advice(self, server, llm):
        """A 429 without Retry-After crashed, or invented a wait."""
        server.fail_next(429)
        assert self.fails(llm, RateLimited).retry_after is None

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "7"}, 7.0),
            ({"Retry-After": "0.25"}, 0.25),
            ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
            ({"Retry-After": "-3"}, 0.0),
            ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
            ({"Retry-After": "soon"}, None),
            ({"Retry-After": "inf"}, None),
            ({"Retry-After": "nan"}, None),
        ],
    )
    def test_rate_limited_with_advice(self, server, llm, headers, seconds):
        """Only one form of Retry-After was read; a date in the past made a negative sleep."""
        server.fail_next(429, headers=headers)
        assert self.fails(llm, RateLimited).retry_after == seconds

    def test_rate_limited_until_a_date(self, server, llm):
        """The HTTP date was read as local time."""
        server.fail_next(429, headers={"Retry-After": formatdate(time.time() + 60, usegmt=True)})
        assert 50 < self.fails(llm, RateLimited).retry_after <= 60

    @pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 529, 599])
    def test_server_trouble_is_transient(self, server, llm, status):
        """A status of an overloaded server failed its rows for good."""
        server.fail_next(status, headers={"Retry-After": "2"})
        error = self.fails(llm, Transient)
        assert error.retry_after == 2.0
        assert str(status) in str(error)

    @pytest.mark.parametrize("fault", [Drop(), Drop(after=0), Malformed(), HalfBody()], ids=lambda fault: repr(fault)[:14])
    def test_broken_replies_are_transient(self, server, llm, fault):
        """An error of the HTTP library came through and ended the run as a bug."""
        server.fail_next(fault)
        self.fails(llm, Transient)

    @pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": None}, {"choices": [{}]}, "[]", "null", ""])
    def test_replies_without_an_answer_are_transient(self, server, llm, body):
        """A KeyError for one odd reply ended a run of 100,000 rows."""
        server.fail_next(200, body=body)
        self.fails(llm, Transient)

    def test_read_timeout(self, server, connect):
        """A server that never answers held its slot for ten minutes, the SDK's default."""
        server.fail_next(Hang())
        began = time.monotonic()
        assert "0.2 s" in str(self.fails(connect(timeout=0.2), Transient))
        assert time.monotonic() - began < 2

    def test_connection_refused(self, server, llm):
        """A restarting server failed its rows for good."""
        server.stop()
        assert "127.0.0.1" in str(self.fails(llm, Transient))

    def test_nothing_is_retried_here(self, server, llm):
        """The SDK's own retries doubled the engine's, and paid twice."""
        server.fail_next(500)
        self.fails(llm, Transient)
        assert sum(server.calls.values()) == 1

    # Failures of one row

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (400, "context_length_exceeded"),
            (400, "content_filter"),
            (413, None),
            (422, None),
            (451, None),
            (400, "invalid_value"),
        ],
    )
    def test_refused_requests_are_bad_rows(self, server, llm, status, code):
        """One row that is too long stopped the run, or was retried for ever."""
        server.fail_next(status, body={"error": {"message": "This row will not do. " * 100, "code": code}})
        error = self.fails(llm, BadRow)
        assert "This row will not do." in str(error)
        assert len(str(error)) < 500
        assert code is None or code in str(error)

    @pytest.mark.parametrize(
        "body",
        [
            "too long",
            {"error": "too long"},
            {"detail": "too long"},
            {"message": "too long"},
            '[{"error": {"message": "too long"}}]',
        ],
    )
    def test_the_providers_words_are_kept(self, server, llm, body):
        """Servers that do not use OpenAI's form of an error left the message empty."""
        server.fail_next(400, body=body)
        assert "too long" in str(self.fails(llm, BadRow))

    def test_filtered_answer(self, server, llm):
        """A withheld answer was written as an empty text, and counted as one."""
        choice = {"message": {"content": None}, "finish_reason": "content_filter"}
        server.fail_next(200, body={"choices": [choice]})
        assert "content filter" in str(self.fails(llm, BadRow))

    def test_filtered_answers_are_charged_for(self, server, llm):
        """What a filter withholds is on the provider's bill, and was not on ours."""
        choice = {"message": {"content": None}, "finish_reason": "content_filter"}
        server.fail_next(200, body={"choices": [choice] * 2, "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
        with pytest.raises(BadRow) as caught:
            ask(llm, n=2)
        assert list(caught.value.usages) == [Usage(3, 1), Usage(2, 1)]

    def test_flagged_input_at_a_router(self, server, llm):
        """A 403 for one flagged row was taken for a wrong key and stopped the run."""
        server.fail_next(403, body={"error": {"code": 403, "message": "flagged", "metadata": {"flagged_input": "…"}}})
        self.fails(llm, BadRow)

    # Failures of all rows

    def test_wrong_key(self, connect):
        """A wrong key was retried 100,000 times; the server's message repeated it into the log."""
        wrong = "sk-wrong-98765"
        error = self.fails(connect(api_key=wrong), Fatal)
        assert "***" in str(error)
        assert wrong not in str(error)
        assert "key" in str(error)

    def test_wrong_model(self, connect, server):
        """A misspelt model gave 100,000 failed rows instead of one clear message."""
        error = self.fails(connect(model="gpt-nope"), Fatal)
        assert "gpt-nope" in str(error)
        assert server.url in str(error)
        assert "Next:" in str(error)

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (403, {}),
            (405, {}),
            (501, {}),
            (400, {"code": "model_not_found"}),
        ],
    )
    def test_what_no_waiting_helps(self, server, llm, status, error):
        """A server without embeddings was asked for them seven times a row."""
        server.fail_next(status, body={"error": {"message": "No.", **error}})
        assert "Next:" in str(self.fails(llm, Fatal))

    @pytest.mark.parametrize(
        ("status", "error"), [(429, {"code": "insufficient_quota"}), (429, {"type": "insufficient_quota"}), (402, {})]
    )
    def test_no_quota(self, server, llm, status, error):
        """An exhausted quota came as 429 and was waited for until the deadline."""
        server.fail_next(status, body={"error": {"message": "No.", **error}})
        error = self.fails(llm, QuotaExceeded)
        assert "Next:" in str(error)
        assert error.final

    # Odd but good replies

    def test_error_inside_a_200(self, server, llm):
        """Routers send status 200 and then an error; it was taken for a reply without an answer, its code ignored."""
        server.fail_next(200, body={"error": {"code": 429, "message": "slow down"}})
        self.fails(llm, RateLimited)

    def test_refusal_is_the_answer(self, server, llm):
        """The model's refusal was lost, and the row showed nothing."""
        server.fail_next(
            200, body={"choices": [{"message": {"content": None, "refusal": "I will not."}, "finish_reason": "stop"}]}
        )
        assert ask(llm)[0].text == "I will not."

    def test_content_in_parts(self, server, llm):
        """A reasoning model's list of parts came out as a list, or with its thinking."""
        parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}]
        server.fail_next(200, body={"choices": [{"message": {"content": parts}}]})
        assert ask(llm)[0].text == "four"

    def test_more_choices_than_asked_for(self, server, llm):
        """The surplus answer took its share of the usage with it."""
        choice = {"message": {"content": "x"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 3}
        server.fail_next(200, body={"choices": [choice] * 3, "usage": usage})
        answers = ask(llm, n=2)
        assert [answer.usage.input_tokens for answer in answers] == [3, 2]
        assert [answer.usage.output_tokens for answer in answers] == [2, 1]

    @pytest.mark.parametrize(
        ("details", "expected"),
        [
            ({"cached_tokens": 4}, (4, 0)),
            ({"cached_tokens": 4, "cache_write_tokens": 3, "audio_tokens": 0}, (4, 3)),
            ({"cached_tokens": None}, (0, 0)),
            ({"cached_tokens": -1, "cache_write_tokens": "many"}, (0, 0)),
            ({}, (0, 0)),
            (None, (0, 0)),
            ("4", (0, 0)),
        ],
    )
    def test_cached_input_is_told_apart(self, server, llm, details, expected):
        """Cached input costs a tenth at some providers, and was charged in full; or what a server says of it ended the run."""
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": details}
        server.fail_next(200, body={"choices": [{"message": {"content": "x"}}] * 2, "usage": usage})
        answers = [answer.usage for answer in ask(llm, n=2)]
        assert (sum(each.cached_tokens for each in answers), sum(each.cache_write_tokens for each in answers)) == expected
        assert [each.input_tokens for each in answers] == [5, 4]

    def test_usage_is_unknown_where_it_is_not_told(self, server, llm):
        """Tokens that nobody counted were written as 0, and cost nothing."""
        server.fail_next(200, body={"choices": [{"message": {"content": "x"}}], "usage": None})
        assert ask(llm)[0].usage.input_tokens is None

    def test_cancelled_call_leaves_a_working_client(self, server, llm):
        """A call cancelled by the engine's stop left its connection half read for the next one."""
        server.hold()

        async def cancelled() -> str | None:
            call = asyncio.create_task(llm.answer(Chat([user("first")])))
            await asyncio.to_thread(server.wait_for, 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            server.release()
            (answer,) = await llm.answer(Chat([user("second")]))
            await llm.aclose()
            return answer.text

        assert "second" in asyncio.run(cancelled())
