"""How many in flight, and how fast: by a clock that the test turns."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from airflow_distil.engine import limits
from airflow_distil.engine.limits import CEILING, CUT, FLOOR, START, Lease, Limiter, Pace


class Clock:
    """Time that passes only in sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    sleep = asyncio.sleep

    async def pass_time(seconds: float) -> None:
        if seconds > 0:
            clock.now += seconds
        await sleep(0)

    monkeypatch.setattr(limits.asyncio, "sleep", pass_time)
    monkeypatch.setattr(limits, "COOL_DOWN", 2.0)
    return clock


def run(coroutine):
    return asyncio.run(coroutine)


async def round_of(limiter: Limiter, count: int | None = None) -> None:
    """Fill every place, and answer all."""
    leases = [await limiter.acquire() for _ in range(count or limiter.limit)]
    for lease in leases:
        limiter.succeeded(lease, None)


class TestGrowth:
    def test_slow_start_doubles(self, clock):
        """Adding one per round takes an hour to find what a server can do."""

        async def go():
            limiter = Limiter(clock=clock)
            seen = [limiter.limit]
            for _ in range(4):
                await round_of(limiter)
                seen.append(limiter.limit)
            assert seen == [START, 32, 64, CEILING, CEILING]
            assert [(step["old"], step["new"], step["reason"]) for step in limiter.history] == [
                (16, 32, "clean round"),
                (32, 64, "clean round"),
                (64, 128, "clean round"),
            ]

        run(go())

    def test_unused_limit_does_not_grow(self, clock):
        """A limit that was never reached says nothing about the next one: the first burst would hit the wall."""

        async def go():
            limiter = Limiter(clock=clock)
            for _ in range(20):
                await round_of(limiter, START // 2)
            assert limiter.limit == START

        run(go())

    @pytest.mark.parametrize("ceiling", [1, 2, 5, 40])
    def test_ceiling_holds(self, clock, ceiling):
        """The connection's `max_concurrency` is a promise to somebody."""

        async def go():
            limiter = Limiter(ceiling, clock=clock)
            for _ in range(20):
                await round_of(limiter)
                assert limiter.limit <= ceiling
            assert limiter.limit == ceiling

        run(go())

    def test_failures_do_not_grow_it(self, clock):
        """A server that answers 500 to everything must not be asked twice as much."""

        async def go():
            limiter = Limiter(clock=clock)
            for _ in range(100):
                limiter.failed(await limiter.acquire())
            assert limiter.limit == START
            assert limiter.in_flight == 0

        run(go())

    def test_after_a_cut_it_grows_slowly(self, clock):
        """The wall is known to be near; doubling would hit it each round."""

        async def go():
            limiter = Limiter(clock=clock)
            await round_of(limiter)
            limiter.limited(await limiter.acquire(), 0.0)
            clock.now += 10
            before = limiter.limit
            await round_of(limiter)
            assert limiter.limit == before + 1

        run(go())


class TestCut:
    def test_one_cut_per_burst(self, clock):
        """Thirty 429s of one burst took the limit from 32 to the floor."""

        async def go():
            limiter = Limiter(clock=clock)
            await round_of(limiter)
            leases = [await limiter.acquire() for _ in range(limiter.limit)]
            for lease in leases:
                limiter.limited(lease, None)
            assert limiter.limit == int(32 * CUT)
            assert limiter.in_flight == 0

        run(go())

    def test_next_burst_cuts_again(self, clock):
        """It was admitted under the lower limit, and still too much."""

        async def go():
            limiter = Limiter(clock=clock)
            for expected in (12, 9, 6, FLOOR, FLOOR):
                leases = [await limiter.acquire() for _ in range(limiter.limit)]
                for lease in leases:
                    limiter.limited(lease, None)
                assert limiter.limit == expected

        run(go())

    def test_answers_from_before_the_cut_do_not_grow_it(self, clock):
        """They say what the old limit did."""

        async def go():
            limiter = Limiter(clock=clock)
            leases = [await limiter.acquire() for _ in range(16)]
            limiter.limited(leases.pop(), None)
            for lease in leases:
                limiter.succeeded(lease, None)
            assert limiter.limit == 12

        run(go())

    def test_answers_from_before_the_cut_do_not_count_for_the_round_after(self, clock):
        """Twelve old answers and two new requests looked like a round of twelve that was clean."""

        async def go():
            limiter = Limiter(clock=clock)
            leases = [await limiter.acquire() for _ in range(16)]
            limiter.limited(leases.pop(), None)
            for _ in range(5):
                limiter.succeeded(leases.pop(), None)
            new = [await limiter.acquire() for _ in range(2)]
            assert limiter.in_flight == limiter.limit == 12
            for lease in leases:
                limiter.succeeded(lease, None)
            assert limiter.limit == 12
            for lease in new:
                limiter.succeeded(lease, None)
            assert limiter.limit == 12

        run(go())

    def test_small_ceiling_is_no_lower_than_itself(self, clock):
        """The floor must not raise a limit of two to four."""

        async def go():
            limiter = Limiter(2, clock=clock)
            limiter.limited(await limiter.acquire(), None)
            assert limiter.limit == 2

        run(go())


class TestCoolDown:
    def test_retry_after_is_obeyed_by_all(self, clock):
        """Endpoints count what comes during it, and prolong it."""

        async def go():
            limiter = Limiter(clock=clock)
            limiter.limited(await limiter.acquire(), 7.0)
            began = clock.now
            await limiter.acquire()
            assert clock.now - began == pytest.approx(7.0)

        run(go())

    def test_without_a_word_it_is_short(self, clock):
        """A 429 without Retry-After is not ignored."""

        async def go():
            limiter = Limiter(clock=clock)
            limiter.limited(await limiter.acquire(), None)
            began = clock.now
            await limiter.acquire()
            assert clock.now - began == pytest.approx(2.0)

        run(go())

    def test_zero_is_zero(self, clock):
        """`Retry-After: 0` is a word."""

        async def go():
            limiter = Limiter(clock=clock)
            limiter.limited(await limiter.acquire(), 0.0)
            began = clock.now
            await limiter.acquire()
            assert clock.now == began

        run(go())

    def test_shorter_one_does_not_end_a_longer(self, clock):
        """Replies of one burst differ."""

        async def go():
            limiter = Limiter(clock=clock)
            first, second = await limiter.acquire(), await limiter.acquire()
            limiter.limited(first, 10.0)
            limiter.limited(second, 1.0)
            began = clock.now
            await limiter.acquire()
            assert clock.now - began == pytest.approx(10.0)

        run(go())

    def test_binds_those_who_wait_for_the_pace(self, clock):
        """They held a place, waited their second, and left in the middle of the cool-down."""

        async def go():
            limiter = Limiter(requests_per_minute=60, clock=clock)
            for _ in range(2):
                await limiter.acquire()
            lease = Lease(limiter.limit, clock.now)
            left = []

            async def wait():
                await limiter.acquire()
                left.append(clock.now)

            real = limits.asyncio.sleep

            async def interrupted(seconds):
                if seconds > 0 and not left and limiter._cool_until == 0.0:
                    limiter.limited(lease, 30.0)
                await real(seconds)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(limits.asyncio, "sleep", interrupted)
                began = clock.now
                await wait()
            assert left[0] - began >= 30.0

        run(go())


class TestPlaces:
    def test_no_more_than_the_limit_at_once(self):
        """The whole point."""

        async def go():
            limiter = Limiter(3)
            peak = running = 0

            async def one():
                nonlocal peak, running
                lease = await limiter.acquire()
                running += 1
                peak = max(peak, running)
                await asyncio.sleep(0)
                running -= 1
                limiter.succeeded(lease, None)

            await asyncio.gather(*(one() for _ in range(50)))
            assert (peak, limiter.in_flight) == (3, 0)

        run(go())

    @given(cancelled=st.sets(st.integers(0, 19)), early=st.booleans())
    @settings(max_examples=40, deadline=None)
    def test_cancelled_waiters_leave_no_gap(self, cancelled, early):
        """A place that is given to one who has gone is lost, and after some of them nothing moves any more."""

        async def go():
            limiter = Limiter(2)
            first = [await limiter.acquire() for _ in range(2)]
            waiting = [asyncio.create_task(limiter.acquire()) for _ in range(20)]
            await asyncio.sleep(0)
            if early:
                for lease in first:
                    limiter.succeeded(lease, None)
            for number in cancelled:
                waiting[number].cancel()
            if not early:
                for lease in first:
                    limiter.succeeded(lease, None)
            for number, task in enumerate(waiting):
                if number not in cancelled:
                    limiter.succeeded(await asyncio.wait_for(task, 1), None)
            await asyncio.gather(*waiting, return_exceptions=True)
            assert limiter.in_flight == 0
            await asyncio.wait_for(limiter.acquire(), 1)

        run(go())

    def test_first_come_first_served(self):
        """Newcomers that overtake let an early row wait for ever."""

        async def go():
            limiter = Limiter(1)
            held = await limiter.acquire()
            order = []

            async def one(number):
                lease = await limiter.acquire()
                order.append(number)
                limiter.succeeded(lease, None)

            tasks = [asyncio.create_task(one(number)) for number in range(5)]
            await asyncio.sleep(0)
            limiter.succeeded(held, None)
            await asyncio.gather(*tasks)
            assert order == [0, 1, 2, 3, 4]

        run(go())


class TestPace:
    def test_requests_leave_evenly(self, clock):
        """60 per minute all in the first second are 59 refusals: providers count in short windows."""

        async def go():
            limiter = Limiter(1000, requests_per_minute=600, clock=clock)
            began = clock.now
            for _ in range(100):
                limiter.succeeded(await limiter.acquire(), None)
            # Ten per second, and a burst of one second at the start.
            assert clock.now - began == pytest.approx(9.0, abs=0.2)

        run(go())

    def test_tokens_are_paced_by_what_answers_really_cost(self, clock):
        """The first guess is wrong by a factor of ten either way."""

        async def go():
            limiter = Limiter(1000, tokens_per_minute=60_000, clock=clock)
            began = clock.now
            for _ in range(300):
                limiter.succeeded(await limiter.acquire(), 100)
            assert clock.now - began == pytest.approx(300 * 100 / 1000, rel=0.15)

        run(go())

    def test_idle_time_is_not_saved_up(self):
        """After an hour of nothing, a burst of an hour's allowance."""
        pace = Pace(60)
        assert pace.reserve(1, 0.0) == 0.0
        waits = [pace.reserve(1, 3600.0) for _ in range(4)]
        assert waits == [0.0, 0.0, 1.0, 2.0]

    @given(
        costs=st.lists(st.floats(0.1, 50), min_size=1, max_size=50),
        gaps=st.lists(st.floats(0, 3), min_size=50, max_size=50),
    )
    @settings(max_examples=60, deadline=None)
    def test_never_more_than_the_allowance(self, costs, gaps):
        """In any window, what was let through fits the window and one second's burst."""
        pace = Pace(600)
        now, left = 100.0, []
        for cost, gap in zip(costs, gaps, strict=False):
            now += gap
            left.append((now + pace.reserve(cost, now), cost))
            now = max(now, left[-1][0])
        for start in range(len(left)):
            for end in range(start + 1, len(left)):
                # What leaves after the first and before the last of a window.
                spent = sum(cost for _, cost in left[start:end])
                assert spent <= 10 * (left[end][0] - left[start][0] + 1.0) + 1e-6
