"""Send one request until it is answered: the only place that waits and retries, for every backend."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf

from airflow_distil.conversation import LLM, Answer, Request
from airflow_distil.engine.budget import Budget
from airflow_distil.engine.limits import Lease, Limiter
from airflow_distil.exceptions import QuotaExceeded, RateLimited, Transient, one_line

__all__ = ["Asker", "OutOfBudget"]

log = logging.getLogger(__name__)

# With the waits below, a server that is gone for a quarter of a minute costs nobody a row; after that the next attempt asks.
TRIES = 7
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
# A provider's own minute window passes many times in this; an endpoint that still refuses has no room for us tonight.
PATIENCE = 900.0
# An endpoint that says "come back in an hour" would hold the worker's slot for nothing; the next attempt comes back instead.
LONGEST_TOLD = 300.0


class OutOfBudget(Exception):
    """Nothing more fits into what may be paid, and nothing is in flight that could leave some of it over."""


@dataclass(slots=True)
class Asker:
    """Asks, waits and retries. Its place in flight and in the budget is given back while it waits.

    `problems` counts retries by their reason.
    """

    llm: LLM
    limiter: Limiter
    budget: Budget
    calls: int = field(init=False, default=0)
    problems: Counter[str] = field(init=False, default_factory=Counter)
    _answered_at: float = field(init=False, default=-inf)

    @property
    def retries(self) -> int:
        """How many calls were made again."""
        return self.problems.total()

    async def ask(self, request: Request, n: int, permit: Callable[[], Awaitable[None]]) -> tuple[list[Answer], int]:
        """Return at most `n` answers, at least one, and how many times it was tried.

        :param permit: awaited before each request is sent; raises if nothing may be sent any more.
        :raises BadRow: if the endpoint refuses this request for good.
        :raises Transient: if all tries failed in passing ways, `RateLimited` if only patience ran out.
        :raises QuotaExceeded: if the endpoint says to come back much later, or refuses everybody for a long time.
        :raises Fatal: if no request can succeed.
        :raises OutOfBudget: if it may not be paid for.
        """
        refused_at = inf
        tried = 0
        while True:
            lease = await self._lease(request, n)
            tried += 1
            try:
                answers = await self._send(request, n, permit)
            except RateLimited as error:
                self.limiter.limited(lease, error.retry_after, error.allowance)
                wait = self._wait(error, tried)
                # From its first refusal: what it waited before, for a place or for room in the budget, was its own matter.
                refused_at = min(refused_at, self.limiter.clock())
                if self.limiter.clock() - refused_at + wait > PATIENCE:
                    if self._answered_at < refused_at:
                        raise QuotaExceeded(
                            f"The endpoint has refused every request for {PATIENCE / 60:.0f} minutes: {error}", final=False
                        ) from error
                    raise
                # Not the error itself: its traceback has this frame, and would be garbage for long.
                kind, problem = type(error).__name__, str(error)
            except Transient as error:
                self.limiter.failed(lease)
                wait = self._wait(error, tried)
                if tried >= TRIES:
                    raise
                kind, problem = type(error).__name__, str(error)
            except BaseException:
                self.limiter.released()
                raise
            else:
                self.limiter.succeeded(lease, _tokens(answers), answers[0].allowance)
                self._answered_at = self.limiter.clock()
                return answers, tried
            self.problems[kind] += 1
            # The first of each kind for whoever watches; after a while progress says how many there are.
            level = logging.WARNING if self.problems[kind] == 1 else logging.DEBUG
            log.log(level, "Asking again in %.1f s: %s", wait, one_line(problem))
            await asyncio.sleep(wait)

    async def _lease(self, request: Request, n: int) -> Lease:
        """Take a place in flight and, where there is a limit, a share of the budget."""
        if not self.budget.limited:
            return self.limiter.try_acquire() or await self.limiter.acquire()
        while await self.budget.admit(n, request):
            fits = False
            try:
                lease = self.limiter.try_acquire() or await self.limiter.acquire()
                # Once more: while it waited for its place, answers may have become dearer.
                fits = self.budget.fits(n)
                if fits:
                    return lease
                self.limiter.released()
            finally:
                if not fits:
                    self.budget.release(n)
        raise OutOfBudget

    async def _send(self, request: Request, n: int, permit: Callable[[], Awaitable[None]]) -> list[Answer]:
        """Send a request once that has its place and its share."""
        try:
            await permit()
            self.calls += 1
            answers = await self.llm.answer(request, n)
        finally:
            if self.budget.limited:
                self.budget.release(n)
        if not answers:
            raise Transient("the model gave no answer")
        return answers

    def _wait(self, error: RateLimited | Transient, tried: int) -> float:
        if (error.retry_after or 0) > LONGEST_TOLD:
            raise QuotaExceeded(
                f"The endpoint says to come back in {error.retry_after:.0f} s: {error}", error.retry_after, final=False
            ) from error
        return _told(error.retry_after) or _backoff(tried)


def _told(retry_after: float | None) -> float | None:
    # All who were told the same time would come back in the same instant.
    return None if retry_after is None else retry_after + random.uniform(0, 0.25)


def _backoff(tried: int) -> float:
    return random.uniform(0.5, 1.0) * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tried - 1))


def _tokens(answers: list[Answer]) -> int | None:
    counts = [
        count for answer in answers for count in (answer.usage.input_tokens, answer.usage.output_tokens) if count is not None
    ]
    return sum(counts) if counts else None
