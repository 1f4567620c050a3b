"""How fast requests may leave."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from airflow_distil.conversation import Quota
from airflow_distil.engine.pace import BURST, CALM, LEAST, Pace

NUMBERS = st.one_of(st.none(), st.floats(0, 1e12), st.sampled_from([0.0, 1.0, 60.0]))
LIMITS = st.one_of(st.none(), st.floats(1, 1e12))
QUOTAS = st.builds(Quota, limit=LIMITS, remaining=NUMBERS, reset=NUMBERS, window=st.one_of(st.none(), st.floats(1, 1e6)))


def per_second(pace: Pace, now: float) -> float:
    """Return how many leave in the next second, one by one."""
    count = 0
    end = now + 1 - 1e-6
    while (now := now + pace.wait(now)) < end:
        pace.take(1)
        count += 1
        if count > 10_000:
            return math.inf
    return count


class TestOfTheConnection:
    def test_evenly(self):
        """60 a minute all in the first second are 59 refusals."""
        assert [per_second(Pace(600, 0.0), 0.0), per_second(Pace(60, 0.0), 0.0)] == [10, 1]

    def test_idle_time_is_not_saved_up(self):
        """After an hour of nothing, a burst of an hour's allowance."""
        pace = Pace(600, 0.0)
        pace.take(1)
        assert per_second(pace, 3600.0) <= 10 + 10 * BURST

    def test_corrections_count(self):
        """What an answer cost more than was guessed was never paid back."""
        pace = Pace(60, 0.0)
        pace.take(1)
        pace.correct(9)
        assert pace.wait(0.0) == pytest.approx(9, abs=1)
        pace.correct(-9)
        assert pace.wait(0.0) <= 1

    @given(
        costs=st.lists(st.floats(0.1, 50), min_size=1, max_size=50),
        gaps=st.lists(st.floats(0, 3), min_size=50, max_size=50),
    )
    @settings(max_examples=100, deadline=None)
    def test_never_more_than_the_allowance(self, costs, gaps):
        """In any window, what was let through fits the window, a burst, and the one that overdraws it."""
        pace = Pace(600, 100.0)
        now, left = 100.0, []
        for cost, gap in zip(costs, gaps, strict=False):
            now += gap
            while (wait := pace.wait(now)) > 0:
                now += wait
            pace.take(cost)
            left.append((now, cost))
        for start in range(len(left)):
            for end in range(start + 1, len(left)):
                spent = sum(cost for _, cost in left[start:end])
                assert spent <= 10 * (left[end][0] - left[start][0] + BURST) + max(costs) + 1e-3


class TestOfTheEndpoint:
    def test_nothing_told_is_no_limit(self):
        """A backend without headers waited for ever."""
        assert per_second(Pace(None, 0.0), 0.0) == math.inf

    def test_without_a_reset_it_is_a_minutes(self):
        """Mistral names its minute in the header's name, and no reset."""
        pace = Pace(None, 0.0)
        pace.heed(Quota(600, 599, None, 60.0), 0.0)
        assert per_second(pace, 0.0) == 10
        assert pace.per_minute == 600

    def test_what_remains_is_spread_until_the_reset(self):
        """Half of the window's requests left at its first tenth, the rest was refused for the other nine."""
        pace = Pace(None, 0.0)
        pace.heed(Quota(600, 100, 50.0), 0.0)
        assert per_second(pace, 0.0) == 2
        assert per_second(pace, 51.0) == 10  # and then it is whole again

    def test_a_hardly_used_bucket_holds_nobody_up(self):
        """OpenAI's `remaining: 4999, reset: 12ms`."""
        pace = Pace(None, 0.0)
        pace.heed(Quota(5000, 4999, 0.012), 0.0)
        assert per_second(pace, 0.0) == math.inf

    def test_a_day_is_not_a_minute(self):
        """Groq names a day's limit where others name a minute's: spread over the day it is ten a minute (of thirty allowed)."""
        pace = Pace(None, 0.0)
        pace.heed(Quota(14_400, 14_369, 186.0), 0.0)
        assert per_second(pace, 0.0) == math.inf

    def test_the_connection_is_not_exceeded(self):
        """Somebody wrote 60 a minute into the connection because others need the rest."""
        pace = Pace(60, 0.0)
        pace.heed(Quota(6000, 5999, 30.0), 0.0)
        assert per_second(pace, 0.0) == 1

    def test_less_than_the_connection_says(self):
        """The connection said 6,000 of an account that has 60."""
        pace = Pace(6000, 0.0)
        pace.heed(Quota(60, 59, None), 0.0)
        assert per_second(pace, 1.0) == 1

    def test_a_limit_that_changes_is_followed(self):
        """Fireworks raises limits while they are used, and the run went on at the first."""
        pace = Pace(None, 0.0)
        for limit in (60, 600, 120):
            pace.heed(Quota(limit, limit, None), 0.0)
            assert pace.per_minute == limit

    def test_nothing_left_does_not_mean_never(self):
        """A proxy that says `remaining: 0` in each reply stopped the run for good."""
        pace = Pace(None, 0.0)
        pace.heed(Quota(600, 0, 60.0), 0.0)
        assert pace.wait(0.0) == 0
        pace.take(1)
        assert 0 < pace.wait(0.0) <= 1 / (10 * LEAST)

    def test_after_a_refusal_no_faster_than_usual(self):
        """Ten times the usual pace is allowed by the minute, and refused by the second; no header tells of the second."""
        pace = Pace(None, 0.0)
        full = Quota(600, 600, 20.0)
        pace.heed(full, 0.0)
        assert per_second(pace, 0.0) == 30
        pace.refused(1.0)
        pace.heed(full, 1.0)
        assert per_second(pace, 1.0) == 10
        pace.heed(full, 2.0 + CALM)
        assert per_second(pace, 2.0 + CALM) > 20

    @given(
        per_minute=st.one_of(st.none(), st.floats(1, 1e9)),
        steps=st.lists(st.tuples(QUOTAS, st.floats(0, 1000), st.floats(0, 1e6), st.booleans()), max_size=20),
    )
    @settings(max_examples=300, deadline=None)
    def test_whatever_is_said_time_goes_on(self, per_minute, steps):
        """A header made a wait endless, negative or not a number, and the run stood still."""
        pace = Pace(per_minute, 0.0)
        now = 0.0
        for quota, gap, cost, refused in steps:
            now += gap
            pace.heed(quota, now)
            if refused:
                pace.refused(now)
            pace.take(cost)
            assert 0 <= pace.wait(now) < math.inf
        # Debts end: each wait brings the next that may leave nearer.
        for _ in range(100):
            wait = pace.wait(now)
            if wait == 0:
                break
            now += wait
        assert pace.wait(now) == 0
