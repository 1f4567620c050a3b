"""Many waiting requests, one call: how embeddings and local models are asked.

An LLM answers one request at a time. A forward pass, or a call of an embeddings API, costs hardly more for thirty texts than
for one. So requests wait here for a moment, go out together, and each asker gets its own answer.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Generic, TypeVar

from airflow_distil.exceptions import BadRow, LLMError, Transient

__all__ = ["Gathering", "divided"]

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(eq=False, slots=True)
class _Waiter(Generic[Q, A]):
    request: Q
    size: int
    answer: asyncio.Future[A]


class Gathering(Generic[Q, A]):
    """Gathers requests that wait at the same time into one call.

    :param serve: makes a call: takes requests, returns for each its answer, or the error that it alone has. If it raises
        `BadRow`, each request is tried by itself, so that a bad one costs nobody else; whatever else it raises, all get.
    :param room: how much one call holds. A request that is larger goes alone.
    :param size: how much of the room a request takes.
    :param most_calls: most calls under way; further requests gather meanwhile. None is no limit.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[Q]], Awaitable[Sequence[A | LLMError]]],
        *,
        room: int,
        size: Callable[[Q], int] = lambda _: 1,
        most_calls: int | None = None,
    ) -> None:
        self._serve = serve
        self._room = room
        self._size = size
        self._most_calls = most_calls
        self._enter(None)

    async def ask(self, request: Q, kind: Hashable = None) -> A:
        """Return the answer to a request, after a call that it may share with others of the same kind.

        :raises LLMError: as `serve` does.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # What waited in a loop that is gone (a notebook's earlier asyncio.run) is gone with it.
            self._enter(loop)
        waiter = _Waiter[Q, A](request, self._size(request), loop.create_future())
        self._waiting.setdefault(kind, []).append(waiter)
        self._arrivals += 1
        self._gather()
        return await waiter.answer

    async def aclose(self) -> None:
        """End the calls under way. It can be asked again afterwards, from another event loop too."""
        loop, calls = self._loop, [*self._calls, *([self._gatherer] if self._gatherer else [])]
        waiting = [waiter for waiters in self._waiting.values() for waiter in waiters]
        self._enter(None)
        if loop is asyncio.get_running_loop():
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            for waiter in waiting:
                _tell(waiter, _closed())

    def _enter(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._waiting: dict[Hashable, list[_Waiter[Q, A]]] = {}
        self._arrivals = 0
        self._gatherer: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()

    def _gather(self) -> None:
        if self._loop and not self._gatherer and (self._most_calls is None or len(self._calls) < self._most_calls):
            self._gatherer = self._loop.create_task(self._gathered())

    async def _gathered(self) -> None:
        # The engine starts many rows at once, and each takes some turns of the loop to get here. A turn in which nobody
        # came means that all who could have are here: a timer would make a lone request wait for nobody.
        seen = -1
        while seen != self._arrivals:
            seen = self._arrivals
            await asyncio.sleep(0)
        self._gatherer = None
        while self._loop and self._waiting and (self._most_calls is None or len(self._calls) < self._most_calls):
            call = self._loop.create_task(self._call(self._next()))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _next(self) -> list[_Waiter[Q, A]]:
        """Take as many waiters of one kind as one call holds; the kinds take turns."""
        kind, waiters = next(iter(self._waiting.items()))
        del self._waiting[kind]
        taken, free = 0, self._room
        for waiter in waiters:
            free -= waiter.size
            if taken and free < 0:
                break
            taken += 1
        if taken < len(waiters):
            self._waiting[kind] = waiters[taken:]
        return waiters[:taken]

    def _ended(self, call: asyncio.Task[None]) -> None:
        if call in self._calls:
            self._calls.discard(call)
            if self._waiting:
                self._gather()

    async def _call(self, waiters: list[_Waiter[Q, A]]) -> None:
        waiters = [waiter for waiter in waiters if not waiter.answer.done()]
        if not waiters:
            return
        task = asyncio.current_task()

        def end_if_nobody_waits(_: asyncio.Future[A]) -> None:
            if task and all(waiter.answer.cancelled() for waiter in waiters):
                task.cancel()

        for waiter in waiters:
            waiter.answer.add_done_callback(end_if_nobody_waits)
        try:
            if await self._told(waiters):
                return
            accepted = await asyncio.gather(*(self._told([waiter]) for waiter in waiters))
        except asyncio.CancelledError:
            for waiter in waiters:
                _tell(waiter, _closed())
            raise
        if all(accepted):
            # Not one of them is bad: it was their number that was refused. Of servers that take one only this finds out, too.
            self._room = max(1, sum(waiter.size for waiter in waiters) // 2)

    async def _told(self, waiters: list[_Waiter[Q, A]]) -> bool:
        """Ask for some together and tell them; return False if the call was refused: many are told nothing then, one is."""
        answers: Sequence[A | BaseException]
        try:
            answers = await self._serve([waiter.request for waiter in waiters])
            if len(answers) != len(waiters):
                raise RuntimeError(f"{len(waiters)} requests got {len(answers)} answers")
        except BadRow as error:
            if len(waiters) > 1:
                return False
            answers = [error]
        except Exception as error:  # noqa: BLE001 - raised where the answer is waited for
            # A copy for each: an exception that is raised twice collects both tracebacks.
            answers = [copy.copy(error) if isinstance(error, LLMError) else error for _ in waiters]
        for waiter, answer in zip(waiters, answers, strict=True):
            _tell(waiter, answer)
        return len(waiters) > 1 or not isinstance(answers[0], BaseException)


def _tell(waiter: _Waiter[Q, A], answer: A | BaseException) -> None:
    if waiter.answer.done():
        return
    if isinstance(answer, BaseException):
        waiter.answer.set_exception(answer)
    else:
        waiter.answer.set_result(answer)


def _closed() -> Transient:
    return Transient("The model was closed before it answered.")


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a whole number in proportion to weights, so that the parts add up to it exactly."""
    sums = [0, *accumulate(max(1, weight) for weight in weights)]
    return [total * upper // sums[-1] - total * lower // sums[-1] for lower, upper in pairwise(sums)]
