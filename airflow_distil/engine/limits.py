"""How many requests may be in flight, and how fast they may leave: found out while running, never tuned by hand."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Lease", "Limiter", "Pace"]

# Enough to learn at once whether the endpoint scales, little enough not to be refused by the smallest paid tier.
START = 16
# Without a limit from the connection. A local server with few slots queues what is beyond them; at 128 the last one in the
# queue still answers well within the default timeout.
CEILING = 128
# Below this, a provider's prompt cache may expire between two calls, and growing back takes long.
FLOOR = 4
# A burst of 429s arrives together, because the requests left together. Cutting once per 429 would take the limit from 200 to
# 3 in one burst; cutting only for leases admitted under the present limit takes it to 150.
CUT = 0.75
# After the first 429 the limit is known to be near: grow by a twentieth per round instead of doubling.
GROWTH = 1.05
# Growth is earned by use: a limit that was never reached says nothing about the next one.
SATURATION = 0.8
# Changes of the limit that are kept for the manifest; an endpoint that refuses steadily makes them all night.
HISTORY = 200
# When the endpoint asks to slow down and does not say for how long.
COOL_DOWN = 2.0


@dataclass(slots=True)
class Lease:
    """Permission for one request, which remembers the limit and the time it was given under."""

    limit: int
    since: float


@dataclass(slots=True)
class Pace:
    """Spreads requests (or tokens) over the minute, with a burst of one second: providers count in shorter windows too.

    :param per_minute: the allowance.
    """

    per_minute: float
    _next: float = 0.0

    def reserve(self, cost: float, now: float) -> float:
        """Take `cost` from the allowance; return the seconds to wait before using it."""
        seconds = cost * 60 / self.per_minute
        # Never earlier than a second ago: what was not used then cannot be saved up.
        start = max(self._next, now - 1.0)
        self._next = start + seconds
        return max(0.0, start - now)

    def correct(self, difference: float) -> None:
        """Give back (or take in addition) what a reservation was wrong by."""
        self._next -= difference * 60 / self.per_minute


@dataclass(slots=True)
class Limiter:
    """Adaptive concurrency: slow start, growth when it is used and harmless, one cut per burst of refusals.

    :param ceiling: most requests in flight; None for the default.
    :param requests_per_minute: pace of requests, if any.
    :param tokens_per_minute: pace of tokens, if any.
    """

    ceiling: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    clock: Callable[[], float] = time.monotonic
    limit: int = field(init=False)
    in_flight: int = field(init=False, default=0)
    history: deque[dict[str, Any]] = field(init=False, default_factory=lambda: deque(maxlen=HISTORY))
    _waiting: deque[asyncio.Future[None]] = field(init=False, default_factory=deque)
    _top: int = field(init=False)
    _requests: Pace | None = field(init=False)
    _tokens: Pace | None = field(init=False)
    _tokens_each: float = field(init=False, default=500.0)  # a guess until the first answers are counted
    _cool_until: float = field(init=False, default=0.0)
    _peak: int = field(init=False, default=0)
    _round: int = field(init=False, default=0)
    _starting: bool = field(init=False, default=True)
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._top = self.ceiling or CEILING
        self.limit = min(START, self._top)
        self._began = self.clock()
        self._requests = Pace(self.requests_per_minute) if self.requests_per_minute else None
        self._tokens = Pace(self.tokens_per_minute) if self.tokens_per_minute else None

    async def acquire(self) -> Lease:
        """Wait for a free place, the end of a cool-down, and the pace."""
        if self.in_flight >= self.limit or self._waiting:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._leave()
                raise
        else:
            self._enter()
        try:
            await self._cool_down()
            await asyncio.sleep(self._reserve())
            while await self._cool_down():  # noqa: ASYNC110 - it began during that sleep, and the place in the pace has passed
                await asyncio.sleep(self._reserve())
        except asyncio.CancelledError:
            self._leave()
            raise
        return Lease(self.limit, self.clock())

    def succeeded(self, lease: Lease, tokens: int | None) -> None:
        """Give a lease back after an answer."""
        if self._tokens is not None and tokens is not None:
            self._tokens.correct(self._tokens_each - tokens)
            self._tokens_each += 0.05 * (tokens - self._tokens_each)
        # What was in flight before a cut says nothing about the limit after it.
        if lease.since >= self._cool_until:
            self._round += 1
            if self._round >= self.limit:
                self._end_round()
        self._leave()

    def limited(self, lease: Lease, retry_after: float | None) -> None:
        """Give a lease back after the endpoint asked to slow down."""
        now = self.clock()
        self._cool_until = max(self._cool_until, now + (COOL_DOWN if retry_after is None else retry_after))
        if lease.limit <= self.limit:
            self._set(max(min(FLOOR, self._top), int(self.limit * CUT)), "rate limited")
        self._starting = False
        self._round = self._peak = 0
        self._leave()

    def failed(self, lease: Lease) -> None:
        """Give a lease back after another failure: that says nothing about the limit, but is no reason to grow either."""
        del lease
        self._round = self._peak = 0
        self._leave()

    async def _cool_down(self) -> bool:
        waited = False
        while (wait := self._cool_until - self.clock()) > 0:  # it may be prolonged meanwhile
            await asyncio.sleep(wait)
            waited = True
        return waited

    def _end_round(self) -> None:
        if self._peak >= SATURATION * self.limit and self.limit < self._top:
            grown = self.limit * 2 if self._starting else max(self.limit + 1, int(self.limit * GROWTH))
            self._set(min(self._top, grown), "clean round")
        self._round = self._peak = 0

    def _set(self, limit: int, reason: str) -> None:
        if limit != self.limit:
            self.history.append(
                {"after_s": round(self.clock() - self._began, 1), "old": self.limit, "new": limit, "reason": reason}
            )
        self.limit = limit
        self._wake()

    def _reserve(self) -> float:
        now = self.clock()
        waits = [pace.reserve(cost, now) for pace, cost in ((self._requests, 1.0), (self._tokens, self._tokens_each)) if pace]
        return max(waits, default=0.0)

    def _enter(self) -> None:
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)

    def _leave(self) -> None:
        self.in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            place = self._waiting.popleft()
            if not place.done():
                self._enter()
                place.set_result(None)
