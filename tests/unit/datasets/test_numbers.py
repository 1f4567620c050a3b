"""Mean, least and greatest, whatever the batches."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from airflow_distil.datasets.manifest import Identity, Manifest
from airflow_distil.datasets.numbers import Numbers

values = st.lists(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=6), max_size=5)


def batch(**columns) -> pa.RecordBatch:
    return pa.record_batch(columns)


@given(batches=values)
@settings(max_examples=60, deadline=None)
def test_batches_do_not_matter(batches):
    """A mean of means weighs a batch of one row as much as one of a thousand."""
    numbers = Numbers()
    for column in batches:
        numbers.add(batch(x=pa.array(column, pa.float64())))
    flat = [value for column in batches for value in column if value is not None]
    if not flat:
        assert numbers.summary == {}
        return
    found = numbers.summary["x"]
    assert (found["min"], found["max"], found["count"]) == (min(flat), max(flat), len(flat))
    assert found["mean"] == pytest.approx(sum(flat) / len(flat), abs=1e-6)


def test_only_numbers_are_counted():
    """A boolean, text or vector column has no mean, and must not stop the others."""
    numbers = Numbers()
    numbers.add(
        batch(
            t=["a"], b=[True], l=[["b"]], v=pa.array([[1.0]], pa.list_(pa.float32(), 1)), i=[3], n=pa.array([None], pa.int64())
        )
    )
    assert list(numbers.summary) == ["i"]


def test_only_the_named_columns_are_counted():
    """The source's columns are not this task's news."""
    numbers = Numbers()
    numbers.add(batch(x=[1], y=[2]), ["y"])
    assert list(numbers.summary) == ["y"]


def test_what_is_not_finite_is_left_out():
    """JSON has no NaN: written as null it made a published manifest that nobody could read any more."""
    numbers = Numbers()
    numbers.add(batch(x=[math.nan, math.inf, -math.inf, 1.0], y=[math.nan, None, None, None]))
    assert numbers.summary == {"x": {"min": 1.0, "max": 1.0, "mean": 1.0, "count": 1}}
    made = Manifest(
        edition=1, claim=1, nonce="0" * 16, identity=Identity(), ask="a", round=1, fingerprint="f", numbers=numbers.summary
    )
    assert Manifest.parse(made.to_bytes()).numbers == numbers.summary


def test_lists_of_numbers_count_item_by_item():
    """A summary of a judge's scores, one list per row, had no figures at all."""
    numbers = Numbers()
    numbers.add(pa.record_batch({"scores": pa.array([[1.0, None], None, [4.0, 4.0]])}))
    assert numbers.summary == {"scores": {"min": 1.0, "max": 4.0, "mean": 3.0, "count": 3}}


def test_vectors_of_differing_sizes_are_no_figures():
    """Where a model gives vectors of differing sizes, the mean of all their numbers stood beside that of the scores."""
    numbers = Numbers()
    vectors = pa.array([[1.0], [2.0, 3.0]], pa.list_(pa.float32()))
    numbers.add(batch(embedding=vectors, scores=[[1.0], [3.0]], weight=pa.array([1, 2], pa.float32())))
    assert {name: found["mean"] for name, found in numbers.summary.items()} == {"scores": 2.0, "weight": 1.5}
