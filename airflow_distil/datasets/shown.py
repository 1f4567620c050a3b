"""Values of rows in a form that JSON and a browser can hold: short in a table, whole (within reason) for one row."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from airflow_distil.datasets.table import is_list, is_number

__all__ = ["Kind", "cells", "kind_of", "plain", "whole"]

# What fits into a cell of a table, and a bit more for wide screens.
CELL_CHARACTERS = 280
# A browser shows that much text without a pause; a cell of ten megabytes freezes it.
WHOLE_CHARACTERS = 100_000
# Of a vector, nobody reads more.
VECTOR_ITEMS = 8
# What JavaScript holds without rounding.
SAFE_INTEGER = 2**53

Kind: TypeAlias = Literal["number", "text", "chat", "vector", "list", "time", "flag", "other"]


def kind_of(kind: pa.DataType) -> Kind:
    """Return what a column is to a reader."""
    if is_list(kind):
        return _kind_of_list(kind.value_type)
    known: dict[Kind, bool] = {
        "number": is_number(kind) or pa.types.is_decimal(kind),
        "flag": pa.types.is_boolean(kind),
        "time": pa.types.is_temporal(kind),
        "text": pa.types.is_string(kind) or pa.types.is_large_string(kind),
    }
    return next((name for name, fits in known.items() if fits), "other")


def _kind_of_list(item: pa.DataType) -> Kind:
    if pa.types.is_float32(item):  # scores are float64: only vectors are stored at half of that
        return "vector"
    chat = pa.types.is_struct(item) and {"role", "content"} <= {field.name for field in item}
    return "chat" if chat else "list"


def cells(rows: pa.Table, cut: int = CELL_CHARACTERS) -> list[dict[str, Any]]:
    """Return rows for a table: numbers, flags and nulls as they are, everything else as the beginning of its text."""
    columns = {field.name: _cells(rows.column(field.name), kind_of(field.type), cut) for field in rows.schema}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def whole(value: Any, cut: int = WHOLE_CHARACTERS) -> Any:
    """Return a value as JSON has it. Longer texts are cut, and say by how much; of vectors there is the beginning."""
    if isinstance(value, str) and len(value) > cut:
        return f"{value[:cut]}… ({len(value) - cut:,} more characters: download the dataset to read them)"
    if isinstance(value, Mapping):
        return {str(key): whole(item, cut) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > VECTOR_ITEMS and all(isinstance(item, float) for item in value):
            return [*(plain(item) for item in value[:VECTOR_ITEMS]), f"… {len(value)} numbers"]
        return [whole(item, cut) for item in value]
    return plain(value)


def plain(value: Any) -> Any:
    """Return a value of a row, or of an XCom, in what JSON can hold and JavaScript does not round."""
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            # Neither "NaN" nor a number that JavaScript would round goes as a number.
            return value if abs(value) <= SAFE_INTEGER or (isinstance(value, float) and math.isfinite(value)) else str(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def _cells(column: pa.ChunkedArray, kind: Kind, cut: int) -> list[Any]:
    if kind == "text":
        # Cut before it becomes Python's: fifty cells of ten megabytes each must not all be copied.
        column = pc.utf8_slice_codeunits(column, 0, cut + 1)
    return [_cell(value, kind, cut) for value in column.to_pylist()]


def _cell(value: Any, kind: Kind, cut: int) -> Any:
    if value is None:
        return None
    if kind in {"number", "flag"}:
        return plain(value)
    if kind == "vector":
        return f"{len(value)} numbers"
    if kind == "chat":
        value = "  ".join(f"{turn.get('role')}: {turn.get('content')}" for turn in value if isinstance(turn, Mapping))
    elif not isinstance(value, str):
        value = plain(value)
        value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return value if len(value) <= cut else f"{value[:cut]}…"
