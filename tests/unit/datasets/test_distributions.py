from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distil.datasets.distributions import collect, figures, groups_of, histogram
from airflow_distil.datasets.stores import FileStore
from airflow_distil.datasets.table import Table
from airflow_distil.datasets.uri import URI


def table_of(folder: Path, content: pa.Table) -> Table:
    pq.write_table(content, folder / "0.parquet", row_group_size=3)
    return Table([(FileStore(URI.parse(str(folder))), ["0.parquet"])])


def floats(*values: float) -> pa.DoubleArray:
    return pa.array(values, pa.float64())


@given(st.lists(st.lists(st.floats(-1e12, 1e12) | st.integers(-5, 5).map(float), max_size=40), min_size=1, max_size=3))
def test_every_number_is_in_one_bar(groups):
    """The largest value fell off the end, or the smallest before the beginning."""
    arrays = [floats(*group) for group in groups]
    bars = histogram(arrays)
    assert [sum(bar) for bar in bars["bars"]] == [len(group) for group in groups] or not any(groups)
    assert all(len(bar) == max(0, len(bars["edges"]) - 1) for bar in bars["bars"])
    assert bars["edges"] == sorted(bars["edges"])


def test_whole_numbers_have_a_bar_each():
    """Ratings of 1 to 5 in 32 bars are a comb."""
    bars = histogram([floats(1, 2, 2, 5)])
    assert (bars["edges"], bars["bars"], bars["whole"]) == ([0.5, 1.5, 2.5, 3.5, 4.5, 5.5], [[1, 2, 0, 0, 1]], True)


def test_one_far_value_does_not_hide_the_others():
    """A request that took an hour put all others into the first bar."""
    bars = histogram([floats(*(number / 100 for number in range(1000)), 3600.0)])
    assert bars["open"]
    assert bars["edges"][-1] < 11
    assert sum(bars["bars"][0]) == 1001


def test_figures_of_nothing():
    """A column without numbers was a crash."""
    assert figures(floats()) == {"count": 0}
    assert figures(floats(1, 3)) == {"count": 2, "mean": 2.0, "min": 1.0, "max": 3.0, "median": 2.0, "p90": pytest.approx(2.8)}


def test_scores_by_position_and_model(tmp_path):
    """A judge that prefers the first text, or one model's, has the same mean as a fair one."""
    content = pa.table(
        {
            "scores": [[5.0, 1.0], [5.0, None], None, [math.nan, 3.0]],
            "generation_models": [["big", "small"], ["small", "big"], None, ["big", "big"]],
            "total": [6, 5, None, 3],
            "judge_model": ["a", "b", "b", "a"],
            "reason": ["four", "fiver", None, ""],
            "vector": pa.array([[0.1, 0.2]] * 4, pa.list_(pa.float32())),
            "distil_metadata": [
                [{"task": "other", "latency_s": 9.0, "input_tokens": 1}, {"task": "judge", "latency_s": 0.5, "input_tokens": 7}]
            ]
            * 4,
        }
    )
    series = {(each.name, each.what): each for each in collect(table_of(tmp_path, content), content.column_names, "judge")}
    scores = series["scores", "value"]
    assert sorted(scores.all.to_pylist()) == [1.0, 3.0, 5.0, 5.0]
    parts = {(by, name): values.to_pylist() for by, name, values in groups_of(scores)}
    assert parts == {
        ("position", "0"): [5.0, 5.0],
        ("position", "1"): [1.0, 3.0],
        ("model", "big"): [5.0, 3.0],
        ("model", "small"): [1.0, 5.0],
    }
    by_judge = {name: values.to_pylist() for _, name, values in groups_of(series["total", "value"])}
    assert by_judge == {"a": [6.0, 3.0], "b": [5.0]}
    assert series["reason", "length"].all.to_pylist() == [4.0, 5.0, 0.0]
    assert series["latency_s", "request"].all.to_pylist() == [0.5] * 4
    assert series["input_tokens", "request"].all.to_pylist() == [7.0] * 4
    assert ("vector", "value") not in series
