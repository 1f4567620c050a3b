"""One request until it is answered."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from airflow_distil.conversation import Allowance, Answer, Chat, Quota, user
from airflow_distil.engine import asking
from airflow_distil.engine.asking import LONGEST_TOLD, PATIENCE, TRIES, Asker
from airflow_distil.engine.limits import Limiter
from airflow_distil.exceptions import BadRow, Fatal, QuotaExceeded, RateLimited, Transient
from tests.unit.engine.lab import Model

REQUEST = Chat([user("q")])


async def permit() -> None:
    pass


class Calm(Limiter):
    """Without a cool-down, so that all waits are the asker's, and with a clock that goes on with them."""

    waited: ClassVar[list[float]] = []

    def __init__(self):
        super().__init__(clock=lambda: sum(Calm.waited))

    def limited(self, lease, retry_after, allowance):
        self.failed(lease)


@pytest.fixture
def waits(monkeypatch):
    """Record the waits instead of waiting."""
    waited: list[float] = []
    monkeypatch.setattr(Calm, "waited", waited)
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asking.asyncio, "sleep", note)
    return waited


def ask(say, n: int = 1):
    model = Model(say)
    asker = Asker(model, Calm())
    result = asyncio.run(asker.ask(REQUEST, n, permit))
    return asker, model, result


def failing(error, times: int):
    left = iter([error] * times)
    return lambda *_: next(left, "fine")


def test_waits_grow_and_end(waits, monkeypatch):
    """A server that restarts is not helped by seven requests in a second."""
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.5)
    monkeypatch.setattr(asking, "LONGEST_WAIT", 30.0)
    asker, _, (_, tried) = ask(failing(Transient("502"), TRIES - 1))
    assert tried == TRIES
    assert asker.retries == TRIES - 1
    expected = [min(30.0, 0.5 * 2**position) for position in range(TRIES - 1)]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, expected, strict=True))


def test_retries_are_counted_by_their_reason(waits):
    """The page of a run said that requests were asked again because of `str`."""
    left = iter([Transient("502"), RateLimited("slow down"), Transient("reset")])
    asker, _, _ = ask(lambda *_: next(left, "fine"))
    assert asker.problems == {"Transient": 2, "RateLimited": 1}
    assert asker.retries == 3


def test_waits_differ(waits, monkeypatch):
    """Without jitter a burst that failed together comes back together."""
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.5)
    monkeypatch.setattr(asking, "LONGEST_WAIT", 30.0)
    for _ in range(5):
        ask(failing(Transient("502"), 1))
    assert len(set(waits)) == 5


def test_transient_errors_run_out(waits):
    """A row must not hold its place for ever."""
    with pytest.raises(Transient, match="502"):
        ask(failing(Transient("502"), TRIES))


@pytest.mark.parametrize("kind", [RateLimited, Transient])
def test_told_time_is_waited(waits, kind):
    """And a little more, differently for each: all were told the same."""
    ask(failing(kind("busy", 12.0), 1))
    assert 12.0 <= waits[-1] <= 12.5


def test_rate_limits_do_not_use_up_tries(waits, monkeypatch):
    """An endpoint that is busy for a minute is not broken."""
    _, _, (_, tried) = ask(failing(RateLimited("busy", 5.0), TRIES * 3))
    assert tried == TRIES * 3 + 1


def test_patience_ends(waits):
    """An endpoint that still refuses after a quarter of an hour has no room tonight."""
    with pytest.raises(QuotaExceeded, match="every request for 15 minutes: busy") as caught:
        ask(failing(RateLimited("busy", 60.0), 100))
    assert not caught.value.final
    assert PATIENCE - 60.5 <= sum(waits) <= PATIENCE


def test_patience_of_one_ends_while_others_are_answered(waits):
    """One request that had bad luck must cost its row, not the attempt."""
    asker = Asker(Model(lambda prompt, _: RateLimited("busy", 60.0) if prompt == "q" else prompt), Calm())

    async def answer_another() -> None:
        if PATIENCE / 2 < sum(waits) < PATIENCE / 2 + 61:
            await asker.ask(Chat([user("other")]), 1, permit)

    with pytest.raises(RateLimited):
        asyncio.run(asker.ask(REQUEST, 1, answer_another))


def test_patience_begins_with_the_first_refusal(waits):
    """A row that had waited long for its place was lost by its first 429."""

    async def long_ago() -> None:
        if not waits:
            waits.append(PATIENCE + 1)

    asker = Asker(Model(failing(RateLimited("busy", 60.0), 1)), Calm())
    _, tried = asyncio.run(asker.ask(REQUEST, 1, long_ago))
    assert tried == 2


@pytest.mark.parametrize("kind", [RateLimited, Transient])
def test_longer_than_is_waited_is_raised_at_once(waits, kind):
    """'Come back in an hour' is for the next attempt."""
    with pytest.raises(QuotaExceeded, match=f"come back in {LONGEST_TOLD + 1:.0f} s: daily") as caught:
        ask(failing(kind("daily", LONGEST_TOLD + 1), 1))
    assert caught.value.retry_after == LONGEST_TOLD + 1
    assert not caught.value.final
    assert waits == []


@pytest.mark.parametrize("error", [BadRow("too long"), Fatal("no key"), ZeroDivisionError()])
def test_other_errors_are_not_retried(waits, error):
    """They would be paid, or refused, seven times."""
    model = Model(lambda *_: error)
    asker = Asker(model, Limiter())
    with pytest.raises(type(error)):
        asyncio.run(asker.ask(REQUEST, 1, permit))
    assert model.calls == 1
    assert asker.limiter.in_flight == 0


def test_permission_is_asked_before_each_try(waits):
    """A stop that comes while a row waits for its retry must not cost one more call."""
    asked = []

    async def permit_once() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise KeyError("no more")

    model = Model(failing(Transient("502"), 3))
    asker = Asker(model, Limiter())
    with pytest.raises(KeyError):
        asyncio.run(asker.ask(REQUEST, 1, permit_once))
    assert model.calls == 1
    assert asker.limiter.in_flight == 0


def test_what_is_not_sent_takes_nothing_of_the_pace():
    """Requests that were held back at the last moment stopped all others for minutes, where few may leave in one."""

    async def go() -> None:
        limiter = Limiter(4, requests_per_minute=1, tokens_per_minute=1, clock=lambda: 0.0)
        for _ in range(3):
            with pytest.raises(KeyError):
                await Asker(Model(), limiter).ask(REQUEST, 1, refuse)
        assert limiter.in_flight == 0
        assert limiter.try_acquire()
        assert not limiter.try_acquire()

    async def refuse() -> None:
        raise KeyError("not now")

    asyncio.run(asyncio.wait_for(go(), 10))


def test_place_is_free_while_it_waits(monkeypatch):
    """With the place held, ten failing rows stop a run of limit ten."""
    asker = Asker(Model(failing(Transient("502"), 1)), Limiter())
    during = []

    sleep = asyncio.sleep

    async def look(seconds: float) -> None:
        if seconds:
            during.append(asker.limiter.in_flight)
        await sleep(0)

    monkeypatch.setattr(asking, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(asking, "LONGEST_WAIT", 1.0)
    monkeypatch.setattr(asking.asyncio, "sleep", look)
    asyncio.run(asker.ask(REQUEST, 1, permit))
    assert during == [0]


def test_cancelled_call_gives_its_place_back():
    """A stop in the middle of a call."""

    async def go():
        asker = Asker(Model(lambda *_: asyncio.sleep(60)), Limiter())
        task = asyncio.create_task(asker.ask(REQUEST, 1, permit))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert asker.limiter.in_flight == 0

    asyncio.run(go())


def test_what_the_endpoint_says_reaches_the_limiter():
    """Headers were read and then forgotten on the way, with the answer or with the refusal."""
    refusal, answer = Allowance(Quota(60, 0, 30.0)), Allowance(Quota(600, 300, 30.0))
    heard = []

    class Listening(Calm):
        def succeeded(self, lease, tokens, allowance=None):
            heard.append(allowance)
            super().succeeded(lease, tokens, allowance)

        def limited(self, lease, retry_after, allowance=None):
            heard.append(allowance)
            super().limited(lease, retry_after, allowance)

    error = RateLimited("busy", 0.0)
    error.allowance = refusal
    said = iter([error, Answer(text="a", allowance=answer)])
    asyncio.run(Asker(Model(lambda *_: next(said)), Listening()).ask(REQUEST, 1, permit))
    assert heard == [refusal, answer]
