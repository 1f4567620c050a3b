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
from airflow_distil.engine.limits import Lease, Limiter
from airflow_distil.exceptions import QuotaExceeded, RateLimited, Transient, one_line

__all__ = ["Asker"]

log = logging.getLogger(__name__)

# With the waits below, a server that is gone for a quarter of a minute costs nobody a row; after that the next attempt asks.
TRIES = 7
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
# A provider's own minute window passes many times in this; an endpoint that still refuses has no room for us tonight.
PATIENCE = 900.0
# An endpoint that says "come back in an hour" would hold the worker's slot for nothing; the next attempt comes back instead.
LONGEST_TOLD = 300.0


@dataclass(slots=True)
class Asker:
    """Asks, waits and retries. The place in flight is given back while it waits. `problems` counts retries by their reason."""

    llm: LLM
    limiter: Limiter
    calls: int = field(init=False, default=0)
    problems: Counter[str] = field(init=False, default_factory=Counter)
    _answered_at: float = field(init=False, default=-inf)

    @property
    def retries(self) -> int:
        """How many calls were made again."""
        return self.problems.total()

    async def ask(self, request: Request, n: int, permit: Callable[[], Awaitable[None]]) -> tuple[list[Answer], int]:
        """Return at most `n` answers, at least one, and how many times it was tried.

        :param permit: awaited before each request is sent, when it has its place in flight; raises if it may not be sent.
        :raises BadRow: if the endpoint refuses this request for good.
        :raises Transient: if all tries failed in passing ways, `RateLimited` if only patience ran out.
        :raises QuotaExceeded: if the endpoint says to come back much later, or refuses everybody for a long time.
        :raises Fatal: if no request can succeed.
        """
        refused_at = inf
        tried = 0
        while True:
            lease = await self._lease(permit)
            tried += 1
            try:
                self.calls += 1
                answers = await self.llm.answer(request, n)
                if not answers:
                    raise Transient("the model gave no answer")
            except RateLimited as error:
                self.limiter.limited(lease, error.retry_after, error.allowance)
                wait = self._wait(error, tried)
                # From its first refusal: that it waited for a place before is not the endpoint's doing.
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

    async def _lease(self, permit: Callable[[], Awaitable[None]]) -> Lease:
        lease = self.limiter.try_acquire() or await self.limiter.acquire()
        try:
            await permit()
        except BaseException:
            self.limiter.unused()
            raise
        return lease

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
