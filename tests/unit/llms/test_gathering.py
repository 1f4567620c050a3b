"""Requests that wait together go out together, and each asker gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distil.exceptions import BadRow, Fatal, LLMError, RateLimited, Transient
from airflow_distil.llms.gathering import Gathering, divided


class Endpoint:
    """Doubles numbers; refuses a call with a number from `bad` in it, or with more than `most`."""

    def __init__(self, *, bad: Sequence[int] = (), most: int = 99, error: Exception | None = None) -> None:
        self.bad, self.most, self.error = bad, most, error
        self.calls: list[list[int]] = []
        self.ended = 0
        self.called = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def serve(self, numbers: Sequence[int]) -> list[int | LLMError]:
        self.calls.append(list(numbers))
        self.called.set()
        try:
            await self.let_go.wait()
        finally:
            self.ended += 1
        if self.error:
            raise self.error
        if len(numbers) > self.most or set(numbers) & set(self.bad):
            raise BadRow("no")
        return [2 * number for number in numbers]


async def ask(gathering: Gathering[int, int], *numbers: int) -> list[object]:
    return await asyncio.gather(*map(gathering.ask, numbers), return_exceptions=True)


def test_what_is_ready_goes_together_and_no_further():
    """A pass for each text, or one that is larger than memory."""
    endpoint = Endpoint()
    assert asyncio.run(ask(Gathering(endpoint.serve, room=4), *range(10))) == [2 * number for number in range(10)]
    assert endpoint.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_those_who_come_some_turns_later_are_waited_for():
    """Rows of one window reach the model some turns of the loop apart; the first one left alone."""
    endpoint = Endpoint()
    gathering = Gathering(endpoint.serve, room=9)

    async def late(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)
        return await gathering.ask(number)

    async def run() -> list[int]:
        return await asyncio.gather(*map(late, range(5)))

    assert asyncio.run(run()) == [0, 2, 4, 6, 8]
    assert len(endpoint.calls) == 1


def test_large_ones_take_more_room_and_the_largest_go_alone():
    """A call with three long texts was refused for its tokens; a text larger than a call waited for ever."""
    endpoint = Endpoint()
    asyncio.run(ask(Gathering(endpoint.serve, room=10, size=lambda number: number), 4, 5, 6, 30, 1, 9, 1))
    assert endpoint.calls == [[4, 5], [6], [30], [1, 9], [1]]


def test_one_call_at_a_time_and_the_others_gather():
    """Two passes at once shared the cores, and both took twice as long."""
    endpoint = Endpoint()
    gathering = Gathering(endpoint.serve, room=9, most_calls=1)

    async def run() -> None:
        endpoint.let_go.clear()
        first = asyncio.create_task(gathering.ask(0))
        await endpoint.called.wait()
        others = [asyncio.create_task(gathering.ask(number)) for number in range(1, 6)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert endpoint.calls == [[0]]
        endpoint.let_go.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert endpoint.calls == [[0], [1, 2, 3, 4, 5]]


def test_kinds_are_never_mixed():
    """A text was embedded with another text's parameters."""
    endpoint = Endpoint()

    async def run() -> None:
        gathering = Gathering(endpoint.serve, room=9)
        await asyncio.gather(*(gathering.ask(number, kind=number % 2) for number in range(6)))

    asyncio.run(run())
    assert sorted(endpoint.calls) == [[0, 2, 4], [1, 3, 5]]


def test_a_bad_one_costs_itself():
    """One text that is too long failed the others of its call."""
    endpoint = Endpoint(bad=[2])
    answers = asyncio.run(ask(Gathering(endpoint.serve, room=9), 1, 2, 3))
    assert (answers[0], answers[2]) == (2, 6)
    assert isinstance(answers[1], BadRow)
    assert sorted(endpoint.calls) == [[1], [1, 2, 3], [2], [3]]


def test_an_error_in_place_of_an_answer_is_that_ones_alone():
    """A text without tokens failed the pass of the others."""

    async def serve(numbers: Sequence[int]) -> list[int | LLMError]:
        return [BadRow("odd") if number % 2 else number for number in numbers]

    answers = asyncio.run(ask(Gathering(serve, room=9), 1, 2, 3))
    assert [type(answer) for answer in answers] == [BadRow, int, BadRow]


def test_calls_shrink_to_what_the_endpoint_takes():
    """A server that takes two texts was asked for eight again and again, and each time the eight were asked one by one."""
    endpoint = Endpoint(most=2)
    gathering = Gathering(endpoint.serve, room=8)
    for _ in range(4):
        assert asyncio.run(ask(gathering, *range(8))) == [2 * number for number in range(8)]
    assert endpoint.calls[-4:] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_bad_one_does_not_shrink_calls():
    """After a few bad rows, each text went alone for the rest of the night."""
    endpoint = Endpoint(bad=[0])
    gathering = Gathering(endpoint.serve, room=8)
    asyncio.run(ask(gathering, *range(8)))
    endpoint.calls.clear()
    asyncio.run(ask(gathering, *range(1, 9)))
    assert endpoint.calls == [[1, 2, 3, 4, 5, 6, 7, 8]]


@pytest.mark.parametrize("error", [RateLimited("wait", 3.0), Transient("gone"), Fatal("key"), KeyError("bug")])
def test_other_failures_are_everybodys(error):
    """One asker was told of the failure, the others waited for ever; or all raised one object, with each other's tracebacks."""
    endpoint = Endpoint(error=error)
    answers = asyncio.run(ask(Gathering(endpoint.serve, room=9), 1, 2, 3))
    assert [(type(each), str(each), getattr(each, "retry_after", None)) for each in answers] == [
        (type(error), str(error), getattr(error, "retry_after", None))
    ] * 3
    assert len(endpoint.calls) == 1
    if isinstance(error, LLMError):
        assert len({id(each) for each in answers}) == 3


def test_a_wrong_number_of_answers_reaches_all():
    """Those beyond the last answer waited for ever."""

    async def serve(numbers: Sequence[int]) -> list[int]:
        return [1]

    answers = asyncio.run(ask(Gathering(serve, room=9), 1, 2))
    assert all("2 requests got 1 answers" in str(answer) for answer in answers)


async def held(endpoint: Endpoint, gathering: Gathering[int, int], count: int) -> list[asyncio.Task[int]]:
    """Ask, and return when the call is under way."""
    endpoint.let_go.clear()
    tasks = [asyncio.create_task(gathering.ask(number)) for number in range(count)]
    await endpoint.called.wait()
    return tasks


@pytest.mark.parametrize("when", ["gathering", "under way"])
def test_one_that_gives_up_takes_nobody_along(when):
    """A cancelled row cancelled the call that it shared with thirty others."""
    endpoint = Endpoint()
    gathering = Gathering(endpoint.serve, room=9)

    async def run() -> list[object]:
        if when == "gathering":
            tasks = [asyncio.create_task(gathering.ask(number)) for number in range(3)]
            await asyncio.sleep(0)
        else:
            tasks = await held(endpoint, gathering, 3)
        tasks[1].cancel()
        await asyncio.sleep(0)
        endpoint.let_go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    zero, gone, two = asyncio.run(run())
    assert (zero, two) == (0, 4)
    assert isinstance(gone, asyncio.CancelledError)
    assert endpoint.calls == ([[0, 2]] if when == "gathering" else [[0, 1, 2]])


def test_a_call_that_nobody_waits_for_ends():
    """After a stop, calls went on and were paid for."""
    endpoint = Endpoint()
    gathering = Gathering(endpoint.serve, room=9)

    async def run() -> None:
        for task in (tasks := await held(endpoint, gathering, 3)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)
        assert endpoint.ended == 1

    asyncio.run(run())


def test_closing_ends_what_is_under_way():
    """Whoever still waited when the model was closed waited for ever."""
    endpoint = Endpoint()
    gathering = Gathering(endpoint.serve, room=2, most_calls=1)

    async def run() -> None:
        tasks = await held(endpoint, gathering, 5)
        await gathering.aclose()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Transient] * 5
        endpoint.let_go.set()
        assert await gathering.ask(4) == 8

    asyncio.run(run())
    assert endpoint.ended == 2


def test_another_event_loop_without_closing():
    """What was left waiting in a loop that is gone blocked the next one for ever."""
    endpoint = Endpoint()
    gathering = Gathering(endpoint.serve, room=9, most_calls=1)
    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(held(endpoint, gathering, 2))
    endpoint.let_go = asyncio.Event()
    endpoint.let_go.set()
    assert asyncio.run(ask(gathering, 3)) == [6]
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_parts_add_up(total, weights):
    """Rounded parts made the sum of the column differ from the bill."""
    parts = divided(total, weights)
    assert sum(parts) == total
    assert len(parts) == len(weights)
    whole = sum(max(1, weight) for weight in weights)
    assert all(abs(part - total * max(1, weight) / whole) <= 1 for part, weight in zip(parts, weights, strict=True))
