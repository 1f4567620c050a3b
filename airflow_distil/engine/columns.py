"""Types of output columns: declared by the task, or learnt from all its rows."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import is_typeddict  # typing's own does not know those of typing_extensions, which pydantic wants

from airflow_distil.conversation import Row, Unparsed, Vector
from airflow_distil.datasets.readers import DEEPEST, fits_parquet, nested, storable, without_surrogates
from airflow_distil.exceptions import TaskDefinitionError

__all__ = ["UNFIT", "Columns", "arrow_type"]

_SCALARS: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    dt.datetime: pa.timestamp("us", tz="UTC"),
    dt.date: pa.date32(),
    decimal.Decimal: pa.decimal128(38, 9),
    Vector: pa.list_(pa.float32()),
}


def arrow_type(annotation: Any) -> pa.DataType:
    """Return the Arrow type of a Python type: scalars, vectors, lists, dicts of one value type, typed dicts, models, Optional.

    :raises TaskDefinitionError: if there is none.
    """
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        inner = [arg for arg in args if arg is not type(None)]
        if len(inner) == 1:
            return arrow_type(inner[0])
    elif origin is typing.Literal:
        return arrow_type(type(args[0]))
    elif origin in {list, tuple, set} and args:
        return pa.list_(arrow_type(args[0]))
    elif origin is dict and args:
        return pa.map_(arrow_type(args[0]), arrow_type(args[1]))
    elif is_typeddict(annotation) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return pa.struct([pa.field(name, arrow_type(hint)) for name, hint in get_type_hints(annotation).items()])
    raise TaskDefinitionError(
        f"output_types: {annotation!r} has no Arrow type; use str, int, float, bool, list[...], a TypedDict, …"
    )


class Columns:
    """The output columns of one run.

    :param names: output columns, under the task's names.
    :param declared: Python types of some of them.
    """

    def __init__(self, names: list[str], declared: Mapping[str, Any]) -> None:
        if unknown := sorted(set(declared) - set(names)):
            raise TaskDefinitionError(
                f"output_types names {', '.join(unknown)}, which are not among the outputs {', '.join(names)}."
            )
        self._names = names
        self._declared = {name: arrow_type(hint) for name, hint in declared.items()}
        try:
            self._adapters: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(hint) for name, hint in declared.items()}
        except PydanticUserError as error:
            raise TaskDefinitionError(f"output_types: {error.message}") from error
        self._texts = {name for name, hint in declared.items() if hint is str}
        self._sizes: dict[str, set[int]] = {name: set() for name, hint in declared.items() if hint == Vector}
        self._learnt: dict[str, pa.DataType] = dict.fromkeys(names, pa.null())
        self._mixed: set[str] = set()
        self.has_gaps = False
        """Whether some rows have no vector. Rows without any outputs are not read here: who counts them, sets it."""

    def read(self, row: Row) -> Row:
        """Check declared types and learn the others.

        :raises Unparsed: if a value is not of its declared type; the rest is kept.
        """
        checked, wrong = {}, []
        for name, value in row.items():
            if type(value) is str and name in self._texts and value.isascii():
                checked[name] = value  # what most answers are, and nothing can be wrong with it
                continue
            try:
                checked[name] = self._checked(name, value)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                wrong.append(f"{'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}")
            except UNFIT as error:
                # A number of any length is an int to Python; a model that writes one must not stop the whole dataset.
                wrong.append(f"{name}: {error}")
        if wrong:
            raise Unparsed("; ".join(wrong), {name: value for name, value in checked.items() if value is not None})
        for name in checked.keys() - self._declared.keys():
            if checked[name] is not None:
                checked[name] = self._learn(name, checked[name])
        return checked

    def _checked(self, name: str, value: Any) -> Any:
        """Return a value in its declared type, if it has one."""
        adapter = self._adapters.get(name)
        if adapter is None and nested(value) > DEEPEST:
            raise ValueError(f"nested over {DEEPEST} levels deep")
        if value is None or adapter is None:
            self.has_gaps |= name in self._sizes
            return value
        fitting, _ = _fitting(adapter.validate_python(value), self._declared[name])
        if name in self._sizes:
            self._sizes[name].add(len(fitting))
        return fitting

    def type(self, name: str) -> pa.DataType:
        """Return the Arrow type of a column; a column without any value is a string."""
        # A null among lists of fixed size is a file that pyarrow before 24 cannot read.
        if len(sizes := self._sizes.get(name, set())) == 1 and not self.has_gaps:
            return pa.list_(pa.float32(), *sizes)
        known = storable(self._declared.get(name) or self._learnt[name])
        return _STRING if name in self._mixed or pa.types.is_null(known) else known

    def array(self, name: str, values: list[Any]) -> pa.Array:
        """Return the values of a column."""
        kind = self.type(name)
        if name in self._mixed:
            values = [
                value if value is None or isinstance(value, str) else json.dumps(_plain(value), default=str) for value in values
            ]
        try:
            return pa.array(values, kind)
        except UNFIT:
            return pa.array([_as(value, kind) for value in values], kind)

    @property
    def mixed(self) -> set[str]:
        """Columns whose values have no common type: they are written as text, what is not text as JSON."""
        return self._mixed

    def _learn(self, name: str, value: Any) -> Any:
        """Widen the column's type by a value; return the value as it is to be stored."""
        learnt = self._learnt[name]
        if type(value) is str:
            value = without_surrogates(value)
            if learnt == _STRING:
                return value
        if name in self._mixed:
            return value
        try:
            value, found = _fitting(value)
            fields = [pa.schema([pa.field(name, kind)]) for kind in (learnt, found)]
            both = pa.unify_schemas(fields, promote_options="permissive").field(0).type
        except UNFIT:
            both = None
        # What a model nests deeper, no reader of Parquet takes.
        if both is None or not fits_parquet(both):
            self._mixed.add(name)
        else:
            self._learnt[name] = both
        return value


_STRING = pa.string()
# What Arrow raises for a value that does not fit a type: its own errors, and those of Python's conversions.
UNFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)


def _fitting(value: Any, kind: pa.DataType | None = None) -> tuple[Any, pa.DataType]:
    """Return a value in a form that Arrow takes, and the type it has there."""
    # Really converted: Arrow infers the type of a list from its first element alone.
    try:
        return value, pa.array([value], kind).type
    except UNFIT:
        value = _plain(value)
        return value, pa.array([value], kind).type


def _plain(value: Any) -> Any:
    """Return a value in lists, dicts and scalars, its text in what UTF-8 can hold."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return without_surrogates(value) if isinstance(value, str) else value


def _as(value: Any, kind: pa.DataType) -> Any:
    """Return a value as a type that was widened after it: Arrow does not turn large integers into floats by itself."""
    if value is None or value == {} or pa.types.is_null(kind):
        return None
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_struct(kind):
        return {field.name: _as(value.get(field.name), field.type) for field in kind}
    return [_as(item, kind.value_type) for item in value] if pa.types.is_list(kind) else value
