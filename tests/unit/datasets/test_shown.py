from __future__ import annotations

import datetime as dt
import decimal
import json
import math

import pyarrow as pa
import pytest

from airflow_distil.datasets.shown import cells, kind_of, plain, whole


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.int64(), "number"),
        (pa.decimal128(5, 2), "number"),
        (pa.bool_(), "flag"),
        (pa.timestamp("us", "UTC"), "time"),
        (pa.string(), "text"),
        (pa.list_(pa.string()), "list"),
        (pa.list_(pa.float64()), "list"),
        (pa.list_(pa.float32(), 3), "vector"),
        (pa.list_(pa.float32()), "vector"),
        (pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})), "chat"),
        (pa.map_(pa.string(), pa.int64()), "other"),
    ],
)
def test_kinds(kind, expected):
    """A conversation was shown as JSON, or a vector as 1,500 numbers."""
    assert kind_of(kind) == expected


def test_cells_are_short_whatever_is_in_them():
    """A table of fifty rows of ten megabytes went to the browser whole."""
    long = "x" * 1_000_000
    rows = pa.table(
        {
            "text": [long, None],
            "list": [[long], []],
            "chat": [[{"role": "user", "content": long}], None],
            "vector": pa.array([[0.5] * 3000, None], pa.list_(pa.float32())),
            "number": [2**60, 1],
            "float": [math.nan, 0.5],
        }
    )
    shown = cells(rows)
    assert all(len(str(value)) < 400 for row in shown for value in row.values())
    assert shown[0]["vector"] == "3000 numbers"
    assert shown[1] == {"text": None, "list": "[]", "chat": None, "vector": None, "number": 1, "float": 0.5}


def test_values_are_what_json_and_a_browser_hold():
    """NaN is no JSON, and 2**60 + 1 is another number in a browser."""
    value = {
        "nan": math.nan,
        "inf": -math.inf,
        "big": 2**60 + 1,
        "bytes": b"abc",
        "when": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        "decimal": decimal.Decimal("1.50"),
        "flag": True,
        "list": (1, [None]),
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "nan": "nan",
        "inf": "-inf",
        "big": "1152921504606846977",
        "bytes": "3 bytes",
        "when": "2026-01-02T00:00:00+00:00",
        "decimal": "1.50",
        "flag": True,
        "list": [1, [None]],
    }


def test_long_texts_say_that_they_are_cut():
    """A text that ends in the middle looked like the model's mistake."""
    shown = whole({"a": ["y" * 150], "v": [0.5] * 100}, 100)
    assert shown["a"][0].startswith("y" * 100 + "… (50 more characters")
    assert shown["v"][-1] == "… 100 numbers"
