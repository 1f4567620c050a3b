"""How many requests may be in flight, and how fast they may leave: found out while running, never tuned by hand."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airflow_distil.conversation import Allowance
from airflow_distil.engine.pace import MINUTE, Pace

__all__ = ["Lease", "Limiter"]

log = logging.getLogger(__name__)

# Where no limit is given: little enough that a local server with one slot answers the last of them within the usual timeout.
START = 4
# Where one is: enough to be there within seconds, little enough not to be refused by the smallest paid tier.
START_GIVEN = 16
# Answers of a round, at least, while it is found out what the endpoint can do: of fewer, one long answer decides.
LEAST_ROUND = 8
# Where no limit is given. Beyond it a second process does more than more requests in this one.
CEILING = 1024
# Files that the rest of the process may open. Each request in flight is one, and where none is left, nothing can be sent.
FILES = 256
# Below this, a provider's prompt cache may expire between two calls, and growing back takes long.
FLOOR = 4
# A burst of 429s arrives together, because the requests left together. Cutting once per 429 would take the limit from 200 to
# 3 in one burst; cutting only for leases admitted under the present limit takes it to 150.
CUT = 0.75
# Up to where there was a refusal, each clean round closes this much of the gap. From there it grows by a tenth, and then by
# twice as much each round: where the wall still stands little is refused, and where it has gone that is soon found.
GAP = 0.5
GROWTH = 0.1
# Growth is earned by use: a limit that was never reached says nothing about the next one.
SATURATION = 0.8
# A round with more failures than this is no reason to grow. With none allowed, one timeout in a hundred would keep a large
# limit from ever growing.
FAILURES = 0.1
# Where no limit is given, more in flight must bring more answers per second: this much of what it would if the endpoint had no
# bound. Beyond its slots a server only queues, and the last of a long queue times out. Batching servers gain less and less, but
# more than this. (By the simulator, `tests/benchmarks`: with this local servers of 1 and 4 slots are used to 97 and 99 %, where
# 64 fixed bring 65 and 81 % because the others time out; and large providers to the ceiling.)
GAIN = 0.25
# Of two rounds whose limits are nearer than this, chance decides which was the better.
STEP = 1.5
# Rounds until it is tried again whether more brings more; doubled each time that it does not.
REST = 8
LONGEST_REST = 128
# Changes of the limit that are kept for the manifest; an endpoint that refuses steadily makes them all night.
HISTORY = 200
# When the endpoint asks to slow down and does not say for how long; doubled while it goes on refusing.
COOL_DOWN = 2.0
LONGEST_COOL_DOWN = 30.0
# A bucket that fills steadily and is empty takes its whole window to be full; a limit that is used up and will be whole in less
# than this share of the window is one of fixed windows, and until then nothing is served.
FULL_RESET = 0.9
# Event loops count time in milliseconds: with less to wait they would only turn round and round.
TICK = 0.001
# Tokens of a request, until the first answers are counted.
TOKENS = 500.0


@dataclass(slots=True)
class Lease:
    """Permission for one request, which remembers the limit and the time it was given under."""

    limit: int
    since: float


class Limiter:
    """Adaptive concurrency: slow start, growth when it is used and brings something, one cut per burst of refusals.

    :param ceiling: most requests in flight. It is reached if nothing objects. None finds out: no more than bring more answers
        per second, and 1,024 at most.
    :param requests_per_minute: pace of requests; None leaves it to what the endpoint says.
    :param tokens_per_minute: pace of tokens; None leaves it to what the endpoint says.
    """

    def __init__(
        self,
        ceiling: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.limit = START if ceiling is None else min(START_GIVEN, ceiling)
        self.in_flight = 0
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._began = clock()
        self._finds_out = ceiling is None
        self._top = _ceiling() if ceiling is None else ceiling
        self._floor = min(FLOOR, self._top)
        self._waiting: deque[asyncio.Future[Lease]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        # How fast.
        self._requests = Pace(requests_per_minute, self._began) if requests_per_minute else None
        self._tokens = Pace(tokens_per_minute, self._began) if tokens_per_minute else None
        self._tokens_each = TOKENS
        self._told: Allowance | None = None
        self._cool_until = -math.inf
        self._cool_down = COOL_DOWN
        # How far.
        self._wall = math.inf  # the limit at the last refusal
        self._growth = GROWTH
        self._best: tuple[int, float] | None = None  # a limit, and the answers per second under it
        self._rest = 0
        self._next_rest = REST
        # The round.
        self._answered = self._failures = self._peak = self._round = 0
        self._logs = 0.0  # of the seconds that answers took
        self._begin_round()

    def try_acquire(self) -> Lease | None:
        """Take a place if there is one at once and nobody waits for it; None if it has to be waited for."""
        if self._waiting or self.in_flight >= self.limit:
            return None
        now = self.clock()
        return None if self._wait(now) > 0 else self._admit(now)

    async def acquire(self) -> Lease:
        """Wait for a free place, the end of a cool-down, and the pace; first come, first served."""
        place: asyncio.Future[Lease] = self._loop.create_future()
        self._waiting.append(place)
        self._wake()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.unused()
            raise

    def succeeded(self, lease: Lease, tokens: int | None, allowance: Allowance | None = None) -> None:
        """Give a lease back after an answer.

        :param tokens: that the call cost, if it is known.
        :param allowance: what the endpoint said with the answer.
        """
        now = self.clock()
        if allowance is not None and allowance is not self._told:
            self._heed(allowance, now)
        if tokens is not None:
            if self._tokens is not None:
                self._tokens.correct(tokens - self._tokens_each)
            self._tokens_each += 0.05 * (tokens - self._tokens_each)
        # What was sent before the end of a cool-down says nothing about the limit after it. And where limits are compared, only
        # what was sent under each counts.
        if lease.since >= self._cool_until and (lease.limit == self.limit or not self._finds_out):
            self._answered += 1
            self._cool_down = COOL_DOWN
            if self._finds_out:
                self._logs += math.log(max(now - lease.since, 1e-6))
            if self._answered + self._failures >= self._round:
                self._end_round()
        self._leave()

    def limited(self, lease: Lease, retry_after: float | None, allowance: Allowance | None = None) -> None:
        """Give a lease back after the endpoint asked to slow down.

        :param retry_after: seconds, as the endpoint told.
        """
        now = self.clock()
        if allowance is not None:
            self._heed(allowance, now)
        for pace in (self._requests, self._tokens):
            if pace is not None:
                pace.refused(now)
        if retry_after is None and allowance is not None:
            retry_after = self._next_window(allowance)
        if lease.limit <= self.limit and lease.since >= self._cool_until:
            self._cut(now, retry_after)
        elif retry_after is not None:
            self._cool_until = max(self._cool_until, now + retry_after)
        self._leave()

    def _cut(self, now: float, retry_after: float | None) -> None:
        """Shrink after the first refusal of a burst."""
        again = self._cool_down > COOL_DOWN  # and there was no answer in between
        if not again:
            self._wall = self.limit
        self._growth = GROWTH
        wait = self._cool_down if retry_after is None else max(retry_after, self._cool_down if again else 0.0)
        self._cool_until = max(self._cool_until, now + wait)
        self._cool_down = min(LONGEST_COOL_DOWN, self._cool_down * 2)
        if again and retry_after is None:
            # It refuses all, and does not say for how long: what is sent to find out is refused, so it should be little.
            self._set(self._floor, "rate limited again")
        else:
            # Of what really is in flight: a limit that does not bind can be cut again and again without any effect.
            self._set(max(self._floor, int(min(self.limit, self.in_flight) * CUT)), "rate limited")

    def failed(self, lease: Lease) -> None:
        """Give a lease back after a failure that may pass: it says nothing about the limit, but many are no reason to grow."""
        if lease.limit == self.limit:
            self._failures += 1
            if self._answered + self._failures >= self._round:
                self._end_round()
        self._leave()

    def released(self) -> None:
        """Give a lease back of which nothing can be said: the endpoint refused the row, or nobody waits for it any more."""
        self._leave()

    def unused(self) -> None:
        """Give a lease back that nothing was sent under; what it took of the pace goes back with it."""
        if self._requests is not None:
            self._requests.correct(-1.0)
        if self._tokens is not None:
            self._tokens.correct(-self._tokens_each)
        self._leave()

    def _heed(self, allowance: Allowance, now: float) -> None:
        if self._told is None:
            log.info("What the endpoint says about its limits: %s", allowance)
        self._told = allowance
        if allowance.requests is not None:
            self._requests = self._requests or Pace(None, now)
            self._requests.heed(allowance.requests, now)
        # One request alone took more, and was answered: that is no limit.
        if allowance.tokens is not None and (allowance.tokens.limit or math.inf) >= self._tokens_each:
            self._tokens = self._tokens or Pace(None, now)
            self._tokens.heed(allowance.tokens, now)

    def _next_window(self, allowance: Allowance) -> float | None:
        for quota, least in ((allowance.requests, 1.0), (allowance.tokens, self._tokens_each)):
            if quota is None or quota.remaining is None or quota.reset is None or quota.remaining >= least:
                continue
            if quota.reset < FULL_RESET * (quota.window or MINUTE):
                return quota.reset
        return None

    def _wait(self, now: float) -> float:
        """Return the seconds until something may leave; 0 if it may now."""
        wait = self._cool_until - now
        if self._requests is not None:
            wait = max(wait, self._requests.wait(now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait(now))
        return wait

    def _admit(self, now: float) -> Lease:
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        if self._requests is not None:
            self._requests.take(1.0)
        if self._tokens is not None:
            self._tokens.take(self._tokens_each)
        return Lease(self.limit, now)

    def _leave(self) -> None:
        self.in_flight -= 1
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        """Admit those who wait, as far as they may, and see to it that the others are thought of."""
        now = self.clock()
        while self._waiting:
            if self._waiting[0].done():  # it was cancelled
                self._waiting.popleft()
            elif self.in_flight >= self.limit:
                return
            elif (wait := self._wait(now)) > 0:
                self._wake_in(wait)
                return
            else:
                self._waiting.popleft().set_result(self._admit(now))

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        # Kept: before Python 3.12 each look at it is a system call.
        return asyncio.get_running_loop()

    def _wake_in(self, seconds: float) -> None:
        at = self._loop.time() + max(seconds, TICK)
        if self._alarm is not None:
            if self._alarm.when() <= at:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake()

    def _begin_round(self) -> None:
        self._answered = self._failures = 0
        self._logs = 0.0
        self._peak = self.in_flight
        measured = self._finds_out and self._wall == math.inf
        self._round = max(self.limit, LEAST_ROUND) if measured else self.limit

    def _end_round(self) -> None:
        if self._peak >= SATURATION * self.limit:
            clean = self._failures <= FAILURES * self._answered
            if self._finds_out and not self._pays(clean=clean):
                assert self._best is not None
                self._rest, self._next_rest = self._next_rest, min(LONGEST_REST, self._next_rest * 2)
                self._set(self._best[0], "more in flight brings no more" if clean else "more in flight brings failures")
            elif clean and self._rest:
                self._rest -= 1
            elif clean and self.limit < self._top:
                self._set(self._grown(), "clean round")
        self._begin_round()

    def _grown(self) -> int:
        if self._wall == math.inf:
            grown = self.limit * 2
        elif self.limit < self._wall:
            grown = self.limit + int((self._wall - self.limit) * GAP)
        else:
            grown = int(self.limit * (1 + self._growth))
            self._growth = min(1.0, self._growth * 2)
        return min(self._top, max(self.limit + 1, grown))

    def _pays(self, *, clean: bool) -> bool:
        """Tell whether the present limit brings more answers per second than the best that is known."""
        if not clean:
            # No failure takes back what was proven; but a step that was not, and brings failures, is not worth it.
            return self._best is None or self.limit < STEP * self._best[0]
        # By the geometric mean: a queue makes all answers slower by a factor, a straggler only one.
        per_second = self.limit / math.exp(self._logs / self._answered)
        if self._best is None or self.limit < self._best[0]:
            self._best = self.limit, per_second
            return True
        limit, before = self._best
        if self.limit == limit:
            self._best = limit, (before + per_second) / 2
        elif self.limit >= STEP * limit:
            if per_second < before * (1 + GAIN * (self.limit / limit - 1)):
                return False
            self._best = self.limit, per_second
            self._next_rest = REST
        return True

    def _set(self, limit: int, reason: str) -> None:
        if limit != self.limit:
            self.history.append(
                {"after_s": round(self.clock() - self._began, 1), "old": self.limit, "new": limit, "reason": reason}
            )
        self.limit = limit
        self._begin_round()
        if self._waiting:
            self._wake()


def _ceiling() -> int:
    try:
        import resource
    except ImportError:  # Windows, which counts connections otherwise
        return CEILING
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CEILING if soft == resource.RLIM_INFINITY else max(FLOOR, min(CEILING, soft - FILES))
