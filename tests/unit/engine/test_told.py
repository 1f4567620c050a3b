"""What is told comes out in order, and as it went in."""

from __future__ import annotations

import datetime as dt
import decimal
import enum

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from airflow_distil.datasets import diskarray
from airflow_distil.engine import told as told_module
from airflow_distil.engine.rows import Fate
from airflow_distil.engine.told import Told
from airflow_distil.tasks import TextGeneration


def fate(value: object, sample: int | None = 0) -> Fate:
    return Fate(sample, "ok", None, [], {"generation": value})


@pytest.fixture
def told(tmp_path):
    made = Told(tmp_path, TextGeneration())
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


class Colour(enum.StrEnum):
    RED = "red"


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.decimals(allow_nan=False, allow_infinity=False, places=3, max_value=10**9, min_value=-(10**9))
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


class TestValues:
    @given(value=values)
    @settings(max_examples=200, deadline=None)
    def test_column_cannot_tell_the_difference(self, tmp_path_factory, value):
        """A date that comes back as text, or a number as another, is another column than the one that was learnt."""
        told = Told(tmp_path_factory.mktemp("told"), TextGeneration())
        told.put(0, [fate(value)])
        [[line]] = told
        told.close()
        try:
            expected = pa.array([value])
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return  # such a column is text, whatever it holds
        assert pa.array(line.values).equals(expected)

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            ({"a": 1, "b": 2}, pa.map_(pa.string(), pa.int64())),
            ({dt.date(2026, 1, 1): 1}, pa.map_(pa.date32(), pa.int64())),
            ((1, 2), pa.list_(pa.int64())),
            ({3}, pa.list_(pa.int64())),
            ([0.5, 0.25], pa.list_(pa.float32(), 2)),
            (Colour.RED, pa.string()),
            (decimal.Decimal("1.50"), pa.decimal128(38, 9)),
            (float("inf"), pa.float64()),
        ],
    )
    def test_declared_types(self, told, value, kind):
        """`output_types` has more of them than JSON."""
        told.put(0, [fate(value)])
        [[line]] = told
        assert pa.array(line.values, kind).equals(pa.array([value], kind))

    @pytest.mark.parametrize("value", [2**70, object(), {(1, 2): 3}, "half \ud83d", ["half \ud83d"], {"\ud83d": 2**70}])
    def test_what_no_file_can_hold_is_something(self, told, value):
        """A task can return anything; one odd value must not cost the dataset."""
        told.put(0, [fate(value)])
        told.put(1, [fate("next")])
        assert [line.values for [line] in told][1] == ["next"]


class TestOrder:
    @given(numbers=st.permutations(range(40)), size=st.sampled_from([1, 100, 10**6]))
    @settings(max_examples=60, deadline=None)
    def test_rows_come_out_by_number(self, tmp_path_factory, numbers, size):
        """Rows finish in any order."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(told_module, "BUFFER_BYTES", size)
            patch.setattr(diskarray, "PAGE", 7)
            told = Told(tmp_path_factory.mktemp("told"), TextGeneration())
            for number in numbers:
                told.put(number, [fate(number, sample) for sample in range(2)])
            assert [[(line.sample, *line.values) for line in lines] for lines in told] == [
                [(0, number), (1, number)] for number in range(40)
            ]
            told.close()

    def test_it_ends_at_a_gap(self, told):
        """What comes after a row that is missing would be another row's."""
        for number in (0, 1, 3):
            told.put(number, [fate(number)])
        assert [line.values for [line] in told] == [[0], [1]]

    def test_nothing_is_nothing(self, told):
        assert list(told) == []
