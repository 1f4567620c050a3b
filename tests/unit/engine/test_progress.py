"""Counting fates, and saying in time that it cannot go well."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from airflow_distil.datasets.log import Fact, Kind
from airflow_distil.engine import progress as progress_module
from airflow_distil.engine.asking import Asker
from airflow_distil.engine.budget import Budget
from airflow_distil.engine.limits import Limiter
from airflow_distil.engine.progress import Progress, Tally
from airflow_distil.exceptions import TooManyFailures
from tests.unit.engine.lab import Model

statuses = st.lists(st.sampled_from(["ok", "ok", "ok", "skipped", "unparsed", "failed"]), min_size=1, max_size=60)


@given(fates=statuses, ratio=st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]))
@settings(max_examples=200, deadline=None)
def test_it_raises_exactly_when_the_ratio_is_broken(fates, ratio):
    """Too late is money, too early is a dataset that would have been fine. (failed + unparsed) ÷ (rows − skipped)."""
    tally = Tally(len(fates), ratio)
    raised = False
    for ordinal, status in enumerate(fates):
        try:
            tally.add(ordinal, status, "why")
        except TooManyFailures:
            raised = True
    failures = sum(status in {"failed", "unparsed"} for status in fates)
    assert raised == (failures > ratio * (len(fates) - fates.count("skipped")))
    assert tally.done == len(fates)


def test_message_names_the_commonest_reasons_with_rows():
    """Somebody looks at it in the morning, and wants to know which rows to open."""
    tally = Tally(100, 0.2)
    reasons = ["too long"] * 10 + ["filtered"] * 6 + ["no score"] * 4 + ["odd"]
    for ordinal, reason in enumerate(reasons[:-1]):
        tally.add(ordinal, "unparsed" if reason == "no score" else "failed", reason)
    with pytest.raises(TooManyFailures) as caught:
        tally.add(20, "failed", "odd")
    text = str(caught.value)
    assert "17 failed and 4 unparsed of 100 rows are more than max_failure_ratio=0.2 allows" in text
    assert "10 × too long (row 0, 1, 2, …); 6 × filtered (row 10, 11, 12, …); 4 × no score (row 16, 17, 18, …)" in text
    assert "odd" not in text
    assert "answers so far are kept" in text


@pytest.mark.parametrize("transient", [True, False])
def test_it_is_final_only_if_nothing_may_pass(transient):
    """A retry is a waste, or the cure."""
    tally = Tally(10, 0.0)
    with pytest.raises(TooManyFailures) as caught:
        tally.add(0, "failed", "why", transient=transient)
    assert caught.value.final is not transient


def test_reason_of_a_whole_answer_is_cut():
    """A million different answers as keys would be in memory, and in the manifest."""
    tally = Tally(10, 1.0)
    tally.add(0, "failed", "x" * 10_000)
    assert max(map(len, tally.reasons)) <= 200


def test_line_says_where_it_stands():
    """It is all that most people look at."""
    progress = Progress(Tally(10, 1.0), Asker(Model(), Limiter()), Budget(Model()))
    progress.tally.add(0, "ok")
    progress.tally.add(1, "failed", "why")
    progress.replayed = 1
    progress.budget.add({"usage": [30, 4]})
    snapshot = progress.snapshot()
    assert (snapshot["done"], snapshot["total"], snapshot["ok"], snapshot["failed"], snapshot["replayed"]) == (2, 10, 1, 1, 1)
    assert snapshot["eta_s"] is not None
    assert "2/10 rows" in progress.line()
    assert "30 + 4 tokens" in progress.line()


def test_line_says_what_is_left_of_a_budget():
    """Whoever watches the log wants to know before it is spent, not after; and what other attempts paid is spent, too."""
    budget = Budget(Model(), max_cost_usd=5.0, max_total_tokens=1000)
    budget.belongs_to(frozenset([b"n" * 8]))
    earlier = Fact(b"k" * 16, b"n" * 8, 1, 1, b"a" * 16, b"w" * 16, 0, 0, 0, Kind.ANSWER, b"")
    budget.count(earlier, {"usage": [100, 20], "cost": 1.5})
    budget.add({"usage": [30, 4], "cost": 0.0125})
    progress = Progress(Tally(10, 1.0), Asker(Model(), Limiter()), budget)
    assert progress.line().endswith("; 30 + 4 tokens, $0.013; budget: $1.51 of $5.00 and 154 of 1000 tokens")
    snapshot = progress.snapshot()
    assert (snapshot["cost_usd"], snapshot["max_cost_usd"], snapshot["max_total_tokens"]) == (0.0125, 5.0, 1000)
    assert snapshot["paid"] == {"answers": 2, "input_tokens": 130, "output_tokens": 24, "cost_usd": 1.5125}


def test_replayed_rows_do_not_promise_an_early_end():
    """A million rows from the log in a second say nothing about the speed of the model."""
    progress = Progress(Tally(10, 1.0), Asker(Model(), Limiter()), Budget(Model()))
    progress.tally.add(0, "ok")
    progress.replayed = 1
    assert progress.snapshot()["eta_s"] is None


@pytest.mark.parametrize("phase", ["asking", "published", "published already"])
def test_what_was_not_asked_has_no_speed(phase):
    """A run that did nothing was told to have done 77,317 rows a second."""
    progress = Progress(Tally(10, 1.0), Asker(Model(), Limiter()), Budget(Model()))
    progress.tally.counts["ok"] = progress.replayed = 10
    progress.phase = phase
    assert progress.snapshot()["rows_per_s"] == 0


def test_kinds_have_no_word_of_others():
    """Progress goes to XCom, where no text of a row, an answer or an endpoint may be."""
    tally = Tally(100, 1.0)
    for ordinal, reason in enumerate(
        [
            "http://host/v1: status 429 (secret) for model 'm': secret",
            "http://host/v1: status 429 for model 'm'",
            "ValueError: secret",
            "secret: secret",
            "print: secret",
            "",
            "http://host/v1: ConnectionRefusedError: secret",
        ]
    ):
        tally.add(ordinal, "failed", reason)
    told = Progress(tally, Asker(Model(), Limiter()), Budget(Model())).snapshot()["reasons"]
    assert told == [
        {"kind": "another reason", "count": 3, "rows": [3, 4, 5]},
        {"kind": "status 429", "count": 2, "rows": [0, 1]},
        {"kind": "ValueError", "count": 1, "rows": [2]},
        {"kind": "ConnectionRefusedError", "count": 1, "rows": [6]},
    ]


def test_curves_cover_the_whole_run_with_few_points(monkeypatch):
    """A run of a night either grew its XCom with every second, or lost its beginning."""
    progress = Progress(Tally(10, 1.0), Asker(Model(), Limiter()), Budget(Model()))
    began = progress._began
    for second in range(30_000):
        monkeypatch.setattr(progress_module.time, "monotonic", lambda second=second: began + second)
        progress.sample()
    at = [sample[0] for sample in progress.snapshot()["samples"]]
    assert at[0] == 0
    assert at[-1] > 29_000
    assert len(at) <= progress_module.SAMPLES
    steps = [after - before for before, after in pairwise(at)]
    assert max(steps) <= 2 * min(steps)
