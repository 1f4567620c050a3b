"""JSON: one object a line, an array of objects, or a single one; and Python rows, which follow the same rules."""

from __future__ import annotations

import codecs
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from airflow_distil.datasets.readers.base import BATCH_BYTES, BATCH_ROWS, Contents, Opener
from airflow_distil.datasets.readers.text import decompressed, undecodable
from airflow_distil.exceptions import SourceError, one_line

__all__ = [
    "DEEPEST",
    "JSON",
    "Framing",
    "JSONReader",
    "Located",
    "array_of_objects",
    "fits_parquet",
    "infer",
    "lines",
    "located",
    "nested",
    "rows_to_batch",
    "without_surrogates",
]

log = logging.getLogger(__name__)

# Arrow's own type for it, which Parquet and duckdb know too.
JSON = pa.json_()
# Read from an array at a time; an object longer than this is completed by reading more.
CHUNK = 2**18

# No data is nested so deep, and what is (a thousand brackets in a row) ends a process by its recursion: here, in a copy of the
# row, or in who reads the output.
DEEPEST = 100
# Readers of Parquet refuse files nested over 100 levels, of which a list is two. Without this a green task would leave a
# dataset behind that nobody can open.
DEEPEST_TYPE = 32


class Located(NamedTuple):
    """A row and where it stands.

    :param place: for errors: "line 3" or "row 2".
    :param size: bytes of its text.
    """

    place: str
    size: int
    value: dict[str, Any]


Framing: TypeAlias = Callable[[Opener, str], Iterator[Located]]


@dataclass(frozen=True)
class JSONReader:
    """Types are unified over all rows: an integer widens to a float, null to anything, objects to the union of their keys.

    Values that have no common type stay what they are, in a column of type JSON: a task that cannot use one fails that row.
    So do values that are nested too deep for a column of their own.

    Two things JSON can say and Parquet cannot: an object without keys, in a column where none has any, reads as null; half
    of a surrogate pair reads as U+FFFD. Of equal keys in one object the last counts.

    :param framing: `lines` or `array_of_objects`.
    """

    framing: Framing
    rows: int = BATCH_ROWS
    bytes: int = BATCH_BYTES

    def scan(self, file: Opener, name: str, limit: int | None = None) -> Contents:
        """Read the file once; twice if a column starts as integers and a float comes later."""
        count, schema, widened = 0, pa.schema([]), False
        for rows in self._groups(islice(self.framing(file, name), limit)):
            before, schema = schema, infer(rows, schema, name)
            widened = widened or any(
                before.field(known).type not in {pa.null(), schema.field(known).type} for known in before.names
            )
            count += len(rows)
        schema = pa.schema([field.with_type(storable(field.type)) for field in schema])
        if widened:
            # Integers above 2^53 have no exact float: found now, and not when half of the rows are paid for.
            for rows in self._groups(islice(self.framing(file, name), limit)):
                rows_to_batch(rows, schema, name)
        return Contents(count, schema)

    def batches(self, file: Opener, name: str, schema: pa.Schema, limit: int | None = None) -> Iterator[pa.RecordBatch]:
        """Parse and convert as it goes."""
        for rows in self._groups(islice(self.framing(file, name), limit)):
            yield rows_to_batch(rows, schema, name)

    def _groups(self, rows: Iterable[Located]) -> Iterator[list[Located]]:
        group: list[Located] = []
        size = 0
        for row in rows:
            group.append(row)
            size += row.size
            if len(group) >= self.rows or size >= self.bytes:
                yield group
                group, size = [], 0
        if group:
            yield group


def lines(file: Opener, name: str) -> Iterator[Located]:
    """Yield one row a line; empty lines are none."""
    for number, line in enumerate(decompressed(file()), 1):
        place = f"line {number}"
        try:
            # Only "\n" ends a line: U+2028 and the like are text in JSON.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text.strip():
                continue
            value = json.loads(text)
        except UnicodeDecodeError as error:
            raise SourceError(f"{name}, {undecodable(file)}: not JSON in UTF-8.") from error
        except (ValueError, RecursionError) as error:
            raise _broken(name, place, error) from error
        yield _row(value, text, place, name)


def array_of_objects(file: Opener, name: str) -> Iterator[Located]:
    """Yield the objects of an array, or objects that follow one another (a single one, or JSON Lines)."""
    text = _Text(file, name)
    in_array = text.skip("[")
    number = 0
    while not (text.skip("]") if in_array else text.at_end()):
        if number and in_array:
            text.expect(",")
        number += 1
        yield text.value(f"row {number}")
    if in_array and not text.at_end():
        raise SourceError(f"{name}, line {text.line}: there is more after the array's end.")


class _Text:
    """A window on a JSON text, that grows to hold the value it stands at."""

    decoder = json.JSONDecoder()
    space = re.compile(r"[ \t\r\n]*")

    def __init__(self, file: Opener, name: str) -> None:
        self.name = name
        self.line = 1
        self._open = file
        self._file = decompressed(file())
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._at = 0
        self._ended = False

    def value(self, row: str) -> Located:
        """Take one object."""
        self._skip_space()
        while True:
            try:
                value, end = self.decoder.raw_decode(self._text, self._at)
                break
            except (ValueError, RecursionError) as error:
                if self._ended or not self._cut_off(error):
                    raise _broken(self.name, self._place(error, row), error) from error
                # Doubling, so that a long object is parsed a few times and not once a chunk.
                self._grow(max(CHUNK, len(self._text) - self._at))
        located = _row(value, self._text[self._at : end], f"{row}, line {self.line}", self.name)
        self._take(end)
        return located

    def skip(self, mark: str) -> bool:
        """Take the mark if it comes next."""
        self._skip_space()
        found = self._text.startswith(mark, self._at)
        if found:
            self._take(self._at + len(mark))
        return found

    def expect(self, mark: str) -> None:
        """Take the mark, which must come next."""
        if not self.skip(mark):
            where = "the end of the file" if self.at_end() else repr(self._text[self._at : self._at + 20])
            raise SourceError(f"{self.name}, line {self.line}: expected {mark!r} or ']' before {where}.")

    def at_end(self) -> bool:
        """Tell whether nothing but space is left."""
        self._skip_space()
        return self._at == len(self._text)

    def _skip_space(self) -> None:
        while True:
            found = self.space.match(self._text, self._at)
            self._take(found.end() if found else self._at)
            if self._at < len(self._text) or self._ended:
                return
            self._grow(CHUNK)

    def _take(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _grow(self, size: int) -> None:
        data = self._file.read(size)
        self._ended = not data
        try:
            self._text = self._text[self._at :] + self._decode(data, self._ended)
        except UnicodeDecodeError as error:
            raise SourceError(f"{self.name}, {undecodable(self._open)}: not JSON in UTF-8.") from error
        self._at = 0

    def _cut_off(self, error: Exception) -> bool:
        """Tell an object that goes on in the next chunk from a broken one, which would pull in the whole file."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        # The parser stops at the end of the window, at the start of a string that has no end, or a little before: at the
        # longest token it takes in one piece ("-Infinity", an escaped surrogate pair).
        return error.msg.startswith("Unterminated string") or len(self._text) - error.pos < 16

    def _place(self, error: Exception, row: str) -> str:
        stop = error.pos if isinstance(error, json.JSONDecodeError) else self._at
        return f"{row}, line {self.line + self._text.count(chr(10), self._at, stop)}"


def infer(rows: Sequence[Located], known: pa.Schema, name: str) -> pa.Schema:
    """Return the schema that also holds these rows. A column that would need two types is one of JSON values.

    :param known: schema of the rows before.
    """
    free = pa.schema([field for field in known if field.type != JSON])
    values = [row.value for row in rows]
    mixed = {field.name for field in known} - set(free.names)
    try:
        found = _unified(free, _schema([{key: value for key, value in row.items() if key not in mixed} for row in values]))
    except (pa.ArrowException, OverflowError, TypeError):
        found = free
        for row in rows:
            found = _with_row(row, found, name, mixed)
    order = [*known.names, *(column for column in found.names if column not in known.names)]
    return pa.schema([known.field(column) if column in mixed else found.field(column) for column in order])


def rows_to_batch(rows: Sequence[Located], schema: pa.Schema, name: str) -> pa.RecordBatch:
    """Return the rows as a batch of exactly this schema; keys that it does not have are left out."""
    arrays = [_array(rows, field, name) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(rows: Sequence[Located], field: pa.Field, name: str) -> pa.Array:
    values = [row.value.get(field.name) for row in rows]
    if field.type == JSON:
        texts = [None if value is None else _dumped(value) for value in values]
        return pa.ExtensionArray.from_storage(JSON, pa.array(texts, JSON.storage_type))
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, TypeError):
        values = [_without_empty(value, field.type) for value in values]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, TypeError):
        for row, value in zip(rows, values, strict=True):
            try:
                pa.array([value], field.type)
            except (pa.ArrowException, OverflowError, TypeError) as error:
                raise SourceError(f"{name}, {row.place}: column {field.name!r} is {field.type} elsewhere: {error}.") from error
        raise


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    columns = dict.fromkeys(column for row in rows for column in row)
    return pa.schema([(column, _type([row.get(column) for row in rows])) for column in columns])


def _type(values: list[Any]) -> pa.DataType:
    found = pa.array(values).type
    if not fits_parquet(found):
        raise TypeError(f"values are nested over {DEEPEST_TYPE} levels deep")
    return found


def fits_parquet(type: pa.DataType) -> bool:
    """Tell whether readers of Parquet take a column of this type, by how deep it is nested."""
    level, depth = [type], 0
    while level:
        depth += 1
        level = [inner.field(index).type for inner in level for index in range(inner.num_fields)]
    return depth <= DEEPEST_TYPE


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    """Return the value with text for what Python reads and JSON cannot say: NaN, Infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _with_row(row: Located, known: pa.Schema, name: str, mixed: set[str]) -> pa.Schema:
    for column, value in row.value.items():
        index = known.get_field_index(column)
        if column in mixed or (index >= 0 and known.field(index).type == JSON):
            continue
        try:
            known = _unified(known, pa.schema([(column, _type([value]))]))
        except (pa.ArrowException, OverflowError, TypeError) as error:
            log.warning(
                "%s: column %r has values without a common type and is read as JSON: %s",
                one_line(f"{name}, {row.place}"),
                column,
                one_line(str(error)),
            )
            field = pa.field(column, JSON)
            known = known.set(index, field) if index >= 0 else known.append(field)
    return known


def _unified(known: pa.Schema, new: pa.Schema) -> pa.Schema:
    return pa.unify_schemas([known, new], promote_options="permissive")


def _row(value: Any, text: str, place: str, name: str) -> Located:
    if not isinstance(value, dict):
        raise SourceError(f"{name}, {place}: a row is an object {{…}}, this is {text.strip()[:40]!r}.")
    # Looked at only where it could be: so many brackets are rare.
    if text.count("[") + text.count("{") > DEEPEST and nested(value) > DEEPEST:
        raise _too_deep(name, place)
    if HALF_PAIR.search(text):
        value = without_surrogates(value)
    return Located(place, len(text), value)


def located(place: str, row: Mapping[str, Any], name: str) -> Located:
    """Return a Python row as one that was read.

    :raises SourceError: if it is nested too deep.
    """
    if nested(row) > DEEPEST:
        raise _too_deep(name, place)
    return Located(place, 0, without_surrogates(dict(row)))


def nested(value: Any) -> int:
    """Return how many objects and lists are inside one another."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list | tuple)]:
        depth += 1
        if depth > DEEPEST:  # Python's values can even hold themselves
            break
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _too_deep(name: str, place: str) -> SourceError:
    return SourceError(f"{name}, {place}: the row is nested over {DEEPEST} levels deep.")


# An escaped surrogate. Most are halves of a good pair; the value is looked at again to tell.
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def without_surrogates(value: Any) -> Any:
    """Return the value with U+FFFD for each half of a surrogate pair: UTF-8, and so Arrow, has no form for it."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return [without_surrogates(item) for item in value] if isinstance(value, list) else value


def storable(type: pa.DataType) -> pa.DataType:
    """Return the type with null for objects without keys: Parquet cannot write those."""
    if pa.types.is_struct(type):
        return pa.struct([field.with_type(storable(field.type)) for field in type]) if type.num_fields else pa.null()
    return pa.list_(storable(type.value_type)) if pa.types.is_list(type) else type


def _without_empty(value: Any, type: pa.DataType) -> Any:
    if pa.types.is_null(type):
        return None if value == {} else value
    if isinstance(value, dict) and pa.types.is_struct(type):
        return {field.name: _without_empty(value.get(field.name), field.type) for field in type}
    if isinstance(value, list) and pa.types.is_list(type):
        return [_without_empty(item, type.value_type) for item in value]
    return value


def _broken(name: str, place: str, error: Exception) -> SourceError:
    if isinstance(error, RecursionError):
        return _too_deep(name, place)
    reason = f"{error.msg}, at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return SourceError(f"{name}, {place}: not JSON in UTF-8: {reason}.")
