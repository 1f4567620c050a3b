"""Arrow's values as Python's: the same ones on every host, and something for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from airflow_distil.datasets.readers import DEEPEST, JSON, nested

__all__ = ["python_values"]

# With pandas installed, Arrow gives its own types for these, and a prompt would depend on what else a worker has.
_NANOSECONDS: dict[int, Callable[[pa.DataType], pa.DataType]] = {
    pa.timestamp("ns").id: lambda of: pa.timestamp("us", of.tz),
    pa.duration("ns").id: lambda _: pa.duration("us"),
    pa.time64("ns").id: lambda _: pa.time64("us"),
}
# What Arrow raises for a value that Python's type does not hold.
_UNHELD = (ValueError, OverflowError, LookupError)


def python_values(array: pa.Array) -> list[Any]:
    """Return the values of a column; those of JSON columns are parsed.

    What no value of Python's holds (nanoseconds, the year 10,000, a time zone that this host does not know) is text, as Arrow
    writes it: who reads that column can use it, and who does not need not care.
    """
    if array.type == JSON:
        return [None if text is None else _parsed(text) for text in array.to_pylist()]
    with suppress(pa.ArrowInvalid):  # not a whole number of microseconds
        array = _in_microseconds(array)
    if not _has_nanoseconds(array.type):
        with suppress(*_UNHELD):
            values: list[Any] = array.to_pylist()
            return values
    return [_value(scalar) for scalar in array]


def _parsed(text: str) -> Any:
    # Others may have called anything JSON; it is text then.
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if nested(value) <= DEEPEST else text


def _value(scalar: pa.Scalar) -> Any:
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.ExtensionScalar) and _has_nanoseconds(scalar.type.storage_type):
        scalar = scalar.value
    if isinstance(scalar, pa.StructScalar):
        return {name: _value(scalar[name]) for name in scalar}
    if isinstance(scalar, pa.MapScalar):
        return [(_value(entry["key"]), _value(entry["value"])) for entry in scalar.values]
    if isinstance(scalar, pa.ListScalar):
        return [_value(item) for item in scalar.values]
    try:
        return _in_microseconds(scalar).as_py()
    except _UNHELD:
        return _text(scalar)


def _text(scalar: pa.Scalar) -> str:
    if pa.types.is_duration(scalar.type):
        return str(scalar.cast(pa.int64()))
    if pa.types.is_timestamp(scalar.type) and scalar.type.tz:
        return f"{scalar.cast(pa.timestamp(scalar.type.unit)).cast(pa.string())}Z"
    return str(scalar.cast(pa.string()))


def _in_microseconds(value: Any) -> Any:
    """Return an array or a scalar of nanoseconds in what Python counts in; others as they are."""
    kind = value.type
    return value.cast(_NANOSECONDS[kind.id](kind)) if kind.id in _NANOSECONDS and kind.unit == "ns" else value


def _has_nanoseconds(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return getattr(kind, "unit", None) == "ns" or any(_has_nanoseconds(kind.field(at).type) for at in range(kind.num_fields))
