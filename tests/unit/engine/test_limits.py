"""How many in flight, by a clock that passes only where something waits."""

from __future__ import annotations

import asyncio
import random
import resource
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from airflow_distil.conversation import Allowance, Quota
from airflow_distil.engine import limits
from airflow_distil.engine.limits import (
    CEILING,
    CUT,
    FILES,
    FLOOR,
    HISTORY,
    LEAST_ROUND,
    START,
    START_GIVEN,
    Limiter,
)
from tests.benchmarks.limits import SCENARIOS, Bucket, Provider, Scenario, Window, by_requests, measured, ours
from tests.unit.engine.lab import Model, many
from tests.virtual_time import in_virtual_time, now

WAIT = 2.0


@pytest.fixture(autouse=True)
def cool_down(monkeypatch):
    monkeypatch.setattr(limits, "COOL_DOWN", WAIT)


def limiter(ceiling: int | None = None, rpm: float | None = None, tpm: float | None = None) -> Limiter:
    return Limiter(ceiling, rpm, tpm, clock=now)


async def full(limiter: Limiter, count: int | None = None) -> list:
    """Take every place that there is, or so many."""
    return [await limiter.acquire() for _ in range(count or limiter.limit)]


async def round_of(limiter: Limiter, count: int | None = None, seconds: float = 1.0) -> None:
    """Fill every place, and answer all."""
    leases = await full(limiter, count)
    await asyncio.sleep(seconds)
    for lease in leases:
        limiter.succeeded(lease, None)


async def grown(limiter: Limiter, limit: int) -> None:
    for _ in range(50):
        if limiter.limit >= limit:
            break
        await round_of(limiter)
    assert limiter.limit == limit


class TestGrowth:
    def test_slow_start_doubles_up_to_what_was_given(self):
        """Adding one per round takes an hour to find what a server can do; a thousand is there after six answers' time."""

        async def go():
            given = limiter(1000)
            seen = [given.limit]
            for _ in range(7):
                await round_of(given)
                seen.append(given.limit)
            assert seen == [START_GIVEN, 32, 64, 128, 256, 512, 1000, 1000]
            assert given.history[0] == {"after_s": 1.0, "old": 16, "new": 32, "reason": "clean round"}

        in_virtual_time(go())

    def test_unused_limit_does_not_grow(self):
        """A limit that was never reached says nothing about the next one: the first burst would hit the wall."""

        async def go():
            for each in (limiter(), limiter(1000)):
                began = each.limit
                for _ in range(50):
                    await round_of(each, each.limit // 2)
                assert each.limit == began

        in_virtual_time(go())

    @pytest.mark.parametrize("ceiling", [1, 2, 5, 40])
    def test_ceiling_holds(self, ceiling):
        """The connection's `max_concurrency` is a promise to somebody."""

        async def go():
            given = limiter(ceiling)
            for _ in range(20):
                await round_of(given)
                assert given.limit <= ceiling
            assert given.limit == ceiling

        in_virtual_time(go())

    @pytest.mark.parametrize(("files", "most"), [(1024, 1024 - FILES), (100_000, CEILING), (64, FLOOR)])
    def test_found_out_within_the_files_that_may_be_open(self, files, most, monkeypatch):
        """1,024 connections under `ulimit -n 1024`: each further row failed with "Too many open files"."""
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))

        async def go():
            found = limiter()
            for _ in range(20):
                await round_of(found)
                await round_of(found)
            assert found.limit == most

        in_virtual_time(go())

    @pytest.mark.parametrize("ceiling", [None, 100])
    def test_failures_do_not_grow_it(self, ceiling):
        """A server that answers 500 to everything must not be asked twice as much."""

        async def go():
            each = limiter(ceiling)
            began = each.limit
            for _ in range(100):
                each.failed(await each.acquire())
            assert (each.limit, each.in_flight) == (began, 0)

        in_virtual_time(go())

    def test_failures_do_not_cut_it(self):
        """A server that restarts says nothing about how much it takes."""

        async def go():
            given = limiter(100)
            await grown(given, 100)
            for _ in range(10):
                for lease in await full(given):
                    given.failed(lease)
            assert given.limit == 100

        in_virtual_time(go())

    def test_one_failure_in_a_hundred_does_not_hold_it_up(self):
        """Each failure began the round anew: with one in a hundred, 200 in flight was never passed."""

        async def go():
            given = limiter(1000)
            for number in range(40):
                leases = await full(given)
                await asyncio.sleep(1)
                for position, lease in enumerate(leases):
                    (given.failed if (number + position) % 100 == 0 else lambda each: given.succeeded(each, None))(lease)
            assert given.limit == 1000

        in_virtual_time(go())

    @pytest.mark.parametrize("ceiling", [None, 1000])
    def test_rows_that_are_refused_do_not_hold_it_up(self, ceiling):
        """A filter that refused a third of the rows kept the run at four in flight."""

        async def go():
            each = limiter(ceiling)
            for _ in range(40):
                leases = await full(each)
                await asyncio.sleep(1)
                for number, lease in enumerate(leases):
                    if number % 3:
                        each.succeeded(lease, None)
                    else:
                        each.released()
            assert each.limit > 500

        in_virtual_time(go())

    def test_back_to_the_wall_by_halves_then_faster_and_faster(self):
        """A twentieth per round took a quarter of an hour to see that the neighbour had gone."""

        async def go():
            given = limiter(1000)
            await grown(given, 64)
            leases = await full(given)
            await asyncio.sleep(1)
            given.limited(leases.pop(), 0.0)
            for lease in leases:
                given.succeeded(lease, None)
            seen = [given.limit]
            for _ in range(10):
                await asyncio.sleep(1)
                await round_of(given)
                seen.append(given.limit)
            assert seen[:6] == [48, 56, 60, 62, 63, 64]
            steps = [new / old for old, new in pairwise(seen[5:])]
            assert steps[0] == pytest.approx(1.1, abs=0.02)
            assert steps == sorted(steps)

        in_virtual_time(go())


class TestFindingOut:
    """Without a limit from the connection."""

    def test_it_grows_while_that_brings_answers(self):
        """The default of 128 left seven eighths of a large provider unused."""

        async def go():
            found = limiter()
            assert found.limit == START
            for _ in range(30):
                await round_of(found)
            assert found.limit > 500

        in_virtual_time(go())

    def test_a_queue_is_not_worth_it(self):
        """128 in flight at a server with four slots: the last waited half an hour, or timed out."""

        async def go():
            found = limiter()
            for _ in range(40):
                await round_of(found, seconds=found.limit / 4)
                assert found.limit <= 2 * START
            assert found.limit <= 2 * START
            assert "more in flight brings no more" in [step["reason"] for step in found.history]

        in_virtual_time(go())

    def test_a_server_that_got_more_slots_is_seen(self):
        """A queue in the first minute held a night's run at four."""

        async def go():
            found = limiter()
            for _ in range(30):
                await round_of(found, seconds=found.limit / 4)
            for _ in range(60):
                await round_of(found)
            assert found.limit > 64

        in_virtual_time(go())

    def test_stragglers_do_not_decide(self):
        """One answer of 20 s among a hundred of half a second looked like a queue, by the mean."""

        async def go():
            luck = random.Random(7)
            found = limiter()

            async def one():
                lease = await found.acquire()
                await asyncio.sleep(20 if luck.random() < 0.01 else luck.uniform(0.2, 1.0))
                found.succeeded(lease, None)

            rows = {asyncio.create_task(one()) for _ in range(1000)}
            while now() < 120:
                done, rows = await asyncio.wait(rows, timeout=1)
                rows |= {asyncio.create_task(one()) for _ in done}
            assert found.limit > 200
            for row in rows:
                row.cancel()

        in_virtual_time(go())

    def test_a_step_that_brings_timeouts_is_taken_back(self):
        """Twice as many in flight, and half of them timed out; it stayed there for the rest of the run."""

        async def go():
            found = limiter()
            for _ in range(LEAST_ROUND):
                await round_of(found)
            proven = found.limit // 2
            for _ in range(2):
                for number, lease in enumerate(await full(found)):
                    if number % 2:
                        found.failed(lease)
                    else:
                        found.succeeded(lease, None)
            assert found.limit == proven

        in_virtual_time(go())


class TestCut:
    def test_one_cut_per_burst(self):
        """Thirty 429s of one burst took the limit from 32 to the floor."""

        async def go():
            given = limiter(100)
            await round_of(given)
            for lease in await full(given):
                given.limited(lease, None)
            assert given.limit == int(32 * CUT)
            assert given.in_flight == 0

        in_virtual_time(go())

    def test_next_burst_cuts_again(self):
        """It was admitted under the lower limit, and still too much."""

        async def go():
            given = limiter(100)
            for expected in (12, 9, 6, FLOOR, FLOOR):
                for lease in await full(given):
                    given.limited(lease, 1.0)
                assert given.limit == expected

        in_virtual_time(go())

    def test_it_is_cut_from_what_was_in_flight(self):
        """A limit of 400 that the pace kept at 40 was cut ten times without any effect."""

        async def go():
            given = limiter(400)
            await grown(given, 400)
            leases = await full(given, 40)
            given.limited(leases[0], 1.0)
            assert given.limit == 30

        in_virtual_time(go())

    def test_refusing_all_without_a_word_leaves_little_to_refuse(self):
        """Every two seconds a hundred requests were sent to find out whether the minute was over."""

        async def go():
            given = limiter(128)
            await grown(given, 128)
            for _ in range(2):
                for lease in await full(given):
                    given.limited(lease, None)
            assert given.limit == FLOOR
            await asyncio.sleep(60)
            for _ in range(8):
                await round_of(given)
            assert given.limit > 100  # and it is not forgotten what there was before

        in_virtual_time(go())

    def test_answers_from_before_the_cut_do_not_grow_it(self):
        """They say what the old limit did."""

        async def go():
            given = limiter(100)
            leases = await full(given)
            given.limited(leases.pop(), None)
            for lease in leases:
                given.succeeded(lease, None)
            assert given.limit == 12

        in_virtual_time(go())

    def test_answers_from_before_the_cut_do_not_count_for_the_round_after(self):
        """Twelve old answers and two new requests looked like a round of twelve that was clean."""

        async def go():
            given = limiter(100)
            leases = await full(given)
            given.limited(leases.pop(), None)
            for _ in range(5):
                given.succeeded(leases.pop(), None)
            new = await full(given, 2)
            assert given.in_flight == given.limit == 12
            for lease in [*leases, *new]:
                given.succeeded(lease, None)
            assert given.limit == 12

        in_virtual_time(go())

    def test_small_ceiling_is_no_lower_than_itself(self):
        """The floor must not raise a limit of two to four."""

        async def go():
            given = limiter(2)
            for wait in (None, None, 1.0):
                given.limited(await given.acquire(), wait)
            assert given.limit == 2

        in_virtual_time(go())


class TestCoolDown:
    @pytest.mark.parametrize(("told", "expected"), [(7.0, 7.0), (0.0, 0.0), (None, WAIT)])
    def test_all_wait_as_long_as_was_told(self, told, expected):
        """Endpoints count what comes during it, and prolong it. `Retry-After: 0` is a word; without one it is short."""

        async def go():
            given = limiter(100)
            given.limited(await given.acquire(), told)
            began = now()
            assert (given.try_acquire() is None) == (expected > 0)
            await given.acquire()
            assert now() - began == pytest.approx(expected)

        in_virtual_time(go())

    def test_shorter_one_does_not_end_a_longer(self):
        """Replies of one burst differ."""

        async def go():
            given = limiter(100)
            for lease, told in zip(await full(given, 3), (10.0, 1.0, None), strict=True):
                given.limited(lease, told)
            began = now()
            await given.acquire()
            assert now() - began == pytest.approx(10.0)

        in_virtual_time(go())

    @pytest.mark.parametrize("told", [None, 1.0])
    def test_it_grows_while_nothing_is_answered(self, told):
        """One of three siblings was told to wait a second, eighteen hundred times."""

        async def go():
            given = limiter(100)
            waits = []
            for _ in range(5):
                began = now()
                lease = await given.acquire()
                waits.append(now() - began)
                given.limited(lease, told)
            assert waits == pytest.approx([0, told or WAIT, 2 * WAIT, 4 * WAIT, 8 * WAIT])
            given.succeeded(await given.acquire(), None)
            given.limited(await given.acquire(), told)
            began = now()
            await given.acquire()
            assert now() - began == pytest.approx(told or WAIT)

        in_virtual_time(go())

    def test_binds_those_who_wait_already(self):
        """They waited for their turn, and left in the middle of the cool-down."""

        async def go():
            given = limiter(100, rpm=60)
            lease = await given.acquire()
            waiting = asyncio.create_task(given.acquire())
            await asyncio.sleep(0.1)
            given.limited(lease, 30.0)
            await waiting
            assert now() >= 30.0

        in_virtual_time(go())

    @pytest.mark.parametrize(
        ("quota", "expected"),
        [
            (Quota(500, 0, 20.0), 20.0),  # of a window that ends then
            (Quota(500, 0, 60.0), WAIT),  # an empty bucket: something is in it long before it is full
            (Quota(500, 0, 3600.0), WAIT),  # of a day
            (Quota(500, 400, 20.0), WAIT),  # it was something else that refused
            (Quota(500, 0, None), WAIT),
        ],
    )
    def test_without_retry_after_the_reset_of_a_window_counts(self, quota, expected):
        """Azure's refusals name no other time; the reset of a day's limit is an hour away, and means nothing."""

        async def go():
            given = limiter(100)
            given.limited(await given.acquire(), None, Allowance(requests=quota))
            began = now()
            await given.acquire()
            assert now() - began == pytest.approx(expected, abs=1.0)

        in_virtual_time(go())


class TestPlaces:
    def test_no_more_than_the_limit_at_once(self):
        """The whole point."""

        async def go():
            given = limiter(3)
            peak = running = 0

            async def one():
                nonlocal peak, running
                lease = await given.acquire()
                running += 1
                peak = max(peak, running)
                await asyncio.sleep(1)
                running -= 1
                given.succeeded(lease, None)

            await asyncio.gather(*(one() for _ in range(50)))
            assert (peak, given.in_flight) == (3, 0)

        in_virtual_time(go())

    def test_first_come_first_served(self):
        """Newcomers that overtake let an early row wait for ever."""

        async def go():
            given = limiter(1)
            held = given.try_acquire()
            order = []

            async def one(number):
                lease = given.try_acquire() or await given.acquire()
                order.append(number)
                await asyncio.sleep(0)
                given.succeeded(lease, None)

            tasks = [asyncio.create_task(one(number)) for number in range(5)]
            await asyncio.sleep(0)
            given.succeeded(held, None)
            assert given.try_acquire() is None
            await asyncio.gather(*tasks)
            assert order == [0, 1, 2, 3, 4]

        in_virtual_time(go())

    @given(
        seed=st.integers(0, 10**6),
        rows=st.integers(1, 60),
        ceiling=st.sampled_from([None, 1, 2, 7, 100]),
        rpm=st.sampled_from([None, 120.0, 6000.0]),
        cancelled=st.floats(0, 0.6),
    )
    @settings(max_examples=150, deadline=None)
    def test_nobody_is_forgotten(self, seed, rows, ceiling, rpm, cancelled):
        """A place that is given to one who has gone is lost, and after some of them nothing moves any more.

        Whatever the rows meet, and wherever they are cancelled: no more than the limit are in flight, each lease comes back,
        and the last row ends. (A wake-up that is lost leaves the loop with nothing to do, which it does not stand for.)
        """

        async def go():
            luck = random.Random(seed)
            each = limiter(ceiling, rpm)
            out = 0
            limits: list[tuple[float, float]] = []

            async def row():
                nonlocal out
                for _ in range(luck.randint(1, 4)):
                    lease = each.try_acquire() or await each.acquire()
                    out += 1
                    # It may have grown and been cut since this place was handed over, but nobody is let in beyond it.
                    since = [limit for when, limit in limits if when >= lease.since]
                    assert out <= each.in_flight <= max(each.limit, lease.limit, *since)
                    try:
                        await asyncio.sleep(luck.choice([0, 0, 0.3, 1, 5]))
                    except asyncio.CancelledError:
                        out -= 1
                        each.released()
                        raise
                    out -= 1
                    how = luck.random()
                    if how < 0.6:
                        each.succeeded(lease, luck.choice([None, 10, 1000]))
                    elif how < 0.8:
                        each.failed(lease)
                    else:
                        each.limited(lease, luck.choice([None, 0.0, 0.5, 3.0]))
                    limits.append((now(), each.limit))

            tasks = [asyncio.create_task(row()) for _ in range(rows)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(luck.choice([0, 0, 0.01, 0.5, 2]))
                if luck.random() < cancelled:
                    luck.choice(tasks).cancel()
                if now() > 10_000:
                    raise AssertionError("nothing moves any more")
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
            assert out == each.in_flight == 0
            await each.acquire()

        in_virtual_time(go())

    @given(moment=st.integers(0, 12), outcome=st.sampled_from(["succeeded", "failed", "limited"]))
    @settings(max_examples=60, deadline=None)
    def test_a_place_for_one_who_has_just_gone_goes_to_the_next(self, moment, outcome):
        """The place was handed over and the row cancelled in the same turn of the loop: it was lost."""

        async def go():
            given = limiter(1)
            held = await given.acquire()
            first, second = (asyncio.create_task(given.acquire()) for _ in range(2))
            await asyncio.sleep(0)

            def give_back():
                if outcome == "limited":
                    given.limited(held, 0.0)
                else:
                    given.succeeded(held, None) if outcome == "succeeded" else given.failed(held)

            loop = asyncio.get_running_loop()
            (first.cancel if moment % 2 else give_back)()
            for _ in range(moment // 4):
                await asyncio.sleep(0)
            loop.call_soon(give_back if moment % 2 else first.cancel)
            await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            if first.done() and not first.cancelled():
                given.succeeded(first.result(), None)
            given.succeeded(await second, None)
            assert given.in_flight == 0

        in_virtual_time(go())


class TestPaceOfTheConnection:
    def test_requests_leave_evenly(self):
        """60 per minute all in the first second are 59 refusals: providers count in short windows."""

        async def go():
            given = limiter(1000, rpm=600)
            left = []
            for _ in range(101):
                lease = given.try_acquire() or await given.acquire()
                left.append(now())
                given.succeeded(lease, None)
            assert left[-1] == pytest.approx(10.0, abs=0.2)
            for second in range(10):
                assert sum(second <= moment < second + 1 for moment in left) <= 11

        in_virtual_time(go())

    def test_tokens_are_paced_by_what_answers_really_cost(self):
        """The first guess is wrong by a factor of ten either way."""

        async def go():
            given = limiter(1000, tpm=60_000)
            for _ in range(300):
                given.succeeded(await given.acquire(), 100)
            assert now() == pytest.approx(300 * 100 / 1000, rel=0.15)

        in_virtual_time(go())


class TestAgainstProviders:
    """The whole of it, against the modelled providers of the benchmark; ratios, as nothing here depends on a machine."""

    def scenario(self, words: str) -> Scenario:
        [found] = [each for each in SCENARIOS if words in each.name]
        return found

    @pytest.mark.parametrize(
        ("words", "least", "most_refused"),
        [
            ("filling steadily, headers", 0.9, 0),
            ("tokens a minute, fixed windows, headers", 0.93, 20),
            ("10 a second", 0.85, 30),
            ("windows, Retry-After only", 0.97, 150),
            ("noisy neighbours", 0.85, 20),
            ("4 slots", 0.95, 0),
            ("1 slot", 0.9, 0),
            ("three siblings, 150,000", 0.93, 20),
            ("three siblings, 600", 0.97, 300),
        ],
    )
    def test_it_is_used_and_not_bothered(self, words, least, most_refused):
        """Half of a provider unused, or a refusal for each answer: what people tune their concurrency for."""
        result = measured(self.scenario(words), ours())
        assert result.used >= least
        assert result.refused <= most_refused

    def test_siblings_share_alike(self):
        """The task that came first had everything, and the others its refusals."""
        result = measured(self.scenario("three siblings, 150,000"), ours())
        shares = [answered for _, answered in result.provider.limiters]
        assert min(shares) > 0.75 * max(shares)

    def test_a_limit_that_is_raised_is_followed(self):
        """The limits of the first reply were kept for the whole run."""
        window = Window(60)

        async def raise_it():
            await asyncio.sleep(120)
            window.limit = 600

        class Raised(Provider):
            async def live(self):
                await raise_it()

        scenario = Scenario("raised", lambda: Raised(requests=[window]), lambda *_: 120 + 180 * 10, seconds=300)
        assert measured(scenario, ours()).used > 0.8

    @pytest.mark.parametrize("seconds", [1.0, 5.0, 10.0, 30.0])
    def test_headers_of_shorter_windows_slow_nothing_down(self, seconds):
        """A limit per second, read as one per minute, made the run sixty times slower than the provider allowed."""

        def used(says: str) -> float:
            provider = lambda: Provider(seconds=1, requests=[Window(10 * seconds, seconds)], says=says)
            return measured(Scenario("short", provider, by_requests, seconds=300), ours()).used

        assert used("headers") > 0.9 * used("retry-after")

    def test_headers_of_a_day_slow_nothing_down(self):
        """14,400 a day, spread over it, are 10 a minute; the provider serves 120."""
        scenario = Scenario("day", lambda: Provider(requests=[Bucket(14_400, 86_400)]), lambda _, seconds: 20 * seconds)
        assert measured(scenario, ours()).used > 0.8


def test_history_is_in_the_manifest(lab):
    """Nobody could say why last night's run was so slow."""
    manifest = lab.job(many(200), Model(max_concurrency=100)).run()
    assert [step["new"] for step in manifest.limits][:2] == [32, 64]


def test_history_is_bounded():
    """An endpoint that refuses all night made a manifest of a hundred megabytes."""

    async def go():
        given = limiter(1000)
        for _ in range(2 * HISTORY):
            leases = await full(given)
            given.limited(leases.pop(), 0.0)
            for lease in leases:
                given.succeeded(lease, None)
            await asyncio.sleep(1)
            for _ in range(3):
                await round_of(given)
        assert len(given.history) == HISTORY

    in_virtual_time(go())
