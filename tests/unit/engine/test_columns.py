"""Types of output columns: whatever the rows hold, they can be written, and read back."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import math
import sys
import typing
from typing import Any, Literal

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from pydantic import BaseModel
from typing_extensions import TypedDict

from airflow_distil.conversation import Unparsed, Vector
from airflow_distil.engine.columns import Columns, arrow_type
from airflow_distil.exceptions import TaskDefinitionError

# What a model can put into JSON, numbers without end and halves of surrogate pairs among it.
texts = st.text(st.characters(codec=None), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


class Point(BaseModel):
    x: int
    label: str | None = None


class Pair(TypedDict):
    a: str
    b: list[float]


def written(columns: Columns, name: str, values: list[Any]) -> list[Any]:
    """Write values as a column, to Parquet and back."""
    table = pa.table({name: columns.array(name, values)})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    found: list[Any] = pq.read_table(sink)[name].to_pylist()
    return found


def learnt(*values: Any) -> tuple[Columns, list[Any]]:
    columns = Columns(["x"], {})
    return columns, [columns.read({"x": value})["x"] for value in values]


class TestLearnt:
    @given(values=st.lists(json_values, max_size=6))
    @settings(max_examples=300, deadline=None)
    def test_anything_can_be_written(self, values):
        """The type is known only after the last row is paid; a value that does not fit it then stopped every attempt."""
        columns, read = learnt(*values)
        found = written(columns, "x", read)
        assert len(found) == len(values)
        for value, back in zip(values, found, strict=True):
            assert value is not None or back is None

    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            (["a", None], pa.string()),
            ([1, 2], pa.int64()),
            ([1, 2.5], pa.float64()),
            ([2.5, 1], pa.float64()),
            ([True], pa.bool_()),
            ([None, None], pa.string()),
            ([["a"], [], None], pa.list_(pa.string())),
            ([[1], [0.5]], pa.list_(pa.float64())),
            ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
            ([{}, {}], pa.string()),
            (["a", 1], pa.string()),
            ([["a"], "b"], pa.string()),
        ],
    )
    def test_type_is_that_of_all_rows(self, values, kind):
        """The type of the first row alone would cut the others to it."""
        columns, _ = learnt(*values)
        assert columns.type("x") == kind

    def test_values_survive(self):
        """Widening changes a type, not what was said."""
        columns, read = learnt(1, 2.5, None, 2**53)
        assert written(columns, "x", read) == [1.0, 2.5, None, float(2**53)]

    def test_large_integers_among_floats(self):
        """Arrow refuses an integer that a float cannot hold exactly; the last row then failed the dataset."""
        columns, read = learnt(2**60 + 1, 0.5)
        assert written(columns, "x", read) == [float(2**60), 0.5]

    def test_mixed_is_text(self):
        """What is not text becomes JSON, so that it can be read again."""
        columns, read = learnt("a", 1, {"b": [None, "c"]}, None, Point(x=1))
        assert columns.mixed == {"x"}
        assert written(columns, "x", read) == [
            "a",
            "1",
            '{"b": ["c"]}'.replace('["c"]', '[null, "c"]'),
            None,
            '{"x": 1, "label": null}',
        ]

    def test_integers_of_any_length_are_text(self):
        """A model can write sixty digits."""
        columns, read = learnt(10**60, 1)
        assert written(columns, "x", read) == [str(10**60), "1"]

    def test_list_of_different_things_is_text(self):
        """Arrow infers a list's type from its first element, and fails on the second when it is written."""
        columns, read = learnt([1.5, "x"])
        assert written(columns, "x", read) == ['[1.5, "x"]']

    def test_models_and_tuples_and_sets(self):
        """What a custom task returns is not always JSON."""
        columns, read = learnt([Point(x=1, label="\ud83d")])
        assert written(columns, "x", read) == [[{"x": 1, "label": "\ufffd"}]]
        columns, read = learnt((1, 2))
        assert written(columns, "x", read) == [[1, 2]]
        columns, read = learnt({3})
        assert written(columns, "x", read) == [[3]]

    def test_replayed_rows_have_the_same_type(self):
        """Both passes read every row; reading twice must not widen."""
        columns, _ = learnt(1, 2)
        before = columns.type("x")
        columns.read({"x": 1})
        assert columns.type("x") == before


class TestDeclared:
    @pytest.mark.parametrize(
        ("hint", "kind"),
        [
            (str, pa.string()),
            (int, pa.int64()),
            (float, pa.float64()),
            (bool, pa.bool_()),
            (bytes, pa.binary()),
            (list[str], pa.list_(pa.string())),
            (list[float | None], pa.list_(pa.float64())),
            (int | None, pa.int64()),
            (typing.Optional[int], pa.int64()),  # noqa: UP045 - users write it
            (Literal["a", "b"], pa.string()),
            (tuple[int, ...], pa.list_(pa.int64())),
            (dict[str, int], pa.map_(pa.string(), pa.int64())),
            (Point, pa.struct([("x", pa.int64()), ("label", pa.string())])),
            (Pair, pa.struct([("a", pa.string()), ("b", pa.list_(pa.float64()))])),
            (list[Point], pa.list_(pa.struct([("x", pa.int64()), ("label", pa.string())]))),
            (dt.date, pa.date32()),
        ],
    )
    def test_python_types_have_arrow_types(self, hint, kind):
        """A column declared as one thing and written as another."""
        assert arrow_type(hint) == kind

    @pytest.mark.parametrize("hint", [object, list, dict, int | str, Any])
    def test_types_without_a_counterpart_are_refused(self, hint):
        """Guessing would be found out in the write pass."""
        with pytest.raises(TaskDefinitionError, match="has no Arrow type"):
            arrow_type(hint)

    @pytest.mark.parametrize(
        ("hint", "value", "expected"),
        [
            (str, "a", "a"),
            (float, 1, 1.0),
            (float, 2**70, float(2**70)),
            (int, "3", 3),
            (list[float | None], [1, None], [1.0, None]),
            (Point, {"x": 1}, {"x": 1, "label": None}),
            (Point, Point(x=1, label="a"), {"x": 1, "label": "a"}),
            (list[Point], [Point(x=1), {"x": 2}], [{"x": 1, "label": None}, {"x": 2, "label": None}]),
            (Pair, {"a": "x", "b": [1]}, {"a": "x", "b": [1.0]}),
            (dict[str, int], {"a": 1}, [("a", 1)]),
            (tuple[int, ...], (1, 2), [1, 2]),
            (set[int], [1], [1]),
            (Literal["a", "b"], "b", "b"),
            (bytes, b"\xff", b"\xff"),
            (str, "\ud83d", "\ufffd"),
            (list[str], ["\ud83d"], ["\ufffd"]),
            (decimal.Decimal, "1.5", decimal.Decimal("1.5")),
            (dt.date, "2026-01-01", dt.date(2026, 1, 1)),
        ],
    )
    def test_values_are_read_as_declared(self, hint, value, expected):
        """Numbers arrive as text, models as dicts, and everything must be written in the end."""
        columns = Columns(["x"], {"x": hint})
        read = columns.read({"x": value})["x"]
        found = written(columns, "x", [read, None])
        assert found[0] == pytest.approx(expected) if isinstance(expected, float) else found[0] == expected
        assert found[1] is None

    @pytest.mark.parametrize(
        ("hint", "value"),
        [
            (int, "seven"),
            (int, 2**70),
            (int, 1.5),
            (list[str], "a"),
            (list[int], [2**64]),
            (Literal["a"], "b"),
            (Point, {"x": "no"}),
            (decimal.Decimal, "1e40"),
            (dt.date, "yesterday"),
        ],
    )
    def test_value_of_another_type_is_unparsed_with_its_name(self, hint, value):
        """`2**70` for an int is fine with Python, and stopped the whole dataset when it was written."""
        columns = Columns(["x", "y"], {"x": hint})
        with pytest.raises(Unparsed, match=r"^x") as caught:
            columns.read({"x": value, "y": "kept"})
        assert caught.value.partial == {"y": "kept"}

    def test_typed_dict_that_pydantic_refuses_is_a_mistake_of_the_task(self):
        """On Python 3.11 pydantic wants those of typing_extensions, and its own error was taken for a bug of ours."""
        if sys.version_info >= (3, 12):
            pytest.skip("both are one from Python 3.12 on")
        with pytest.raises(TaskDefinitionError, match="typing_extensions"):
            Columns(["x"], {"x": typing.TypedDict("Old", {"a": int})})

    def test_nan_is_a_float(self):
        """A model that answers NaN is answered NaN."""
        columns = Columns(["x"], {"x": float})
        assert math.isnan(written(columns, "x", [columns.read({"x": "nan"})["x"]])[0])

    def test_declared_type_that_is_no_output_is_refused(self):
        """A typing error in `output_types` leaves the real column unchecked."""
        with pytest.raises(TaskDefinitionError, match=r"output_types names scoers.*outputs scores"):
            Columns(["scores"], {"scoers": int})

    def test_declared_type_holds_without_any_value(self):
        """An edition in which all failed still has the column's type."""
        assert Columns(["x"], {"x": list[float]}).type("x") == pa.list_(pa.float64())


class TestVectors:
    """Embeddings as lists of doubles were twice as large, and no vector index could read lists of unknown length."""

    def columns(self, *vectors):
        columns = Columns(["embedding"], {"embedding": Vector})
        for vector in vectors:
            columns.read({"embedding": vector})
        return columns

    def test_one_size_is_a_fixed_size_list(self):
        columns = self.columns([0.5, 1.0], [2, 3])
        assert columns.type("embedding") == pa.list_(pa.float32(), 2)
        assert columns.array("embedding", [[0.5, 1.0]]).to_pylist() == [[0.5, 1.0]]

    def test_a_missing_one_makes_it_a_list(self):
        """A null among lists of fixed size is a file that most versions of pyarrow cannot read."""
        columns = self.columns([0.5, 1.0], None)
        assert columns.type("embedding") == pa.list_(pa.float32())
        assert columns.array("embedding", [[0.5, 1.0], None]).to_pylist() == [[0.5, 1.0], None]

    def test_several_sizes_are_a_list(self):
        """Two models behind one connection must not make a dataset impossible to write."""
        assert self.columns([0.5], [2.0, 3.0]).type("embedding") == pa.list_(pa.float32())

    def test_no_vector_at_all(self):
        assert self.columns(None).type("embedding") == pa.list_(pa.float32())
