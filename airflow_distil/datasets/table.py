"""The rows of a published dataset, read in pieces: a page of them, those that match, one of them, all of them in order."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_distil.datasets.stores import RangeFile, Store
from airflow_distil.exceptions import SourceError

__all__ = ["Found", "Query", "Table", "is_list", "is_number"]

# Footers are read side by side: each takes some round trips of 50 ms.
LOOKERS = 16
# What is decoded at a time. A page of rows at the top of a group needs a hundredth of it.
BATCH_BYTES = 4 * 2**20
MOST_BATCH_ROWS = 8192
# How much of a column is fetched at a time: little on a disk, few round trips to a bucket.
BUFFER_BYTES = 2**20
# All of a column is in memory to be sorted, and its order after it: 16 bytes a row.
MOST_SORTED = 5_000_000
# A person waits that long for a search; what was found until then is shown, and that it is not all.
PATIENCE = 20.0
SELECTED_ROWS = 1024

Positions: TypeAlias = Sequence[int]


@dataclass(frozen=True)
class Query:
    """Which rows, in which order.

    :param statuses: values of `distil_status`; empty for all.
    :param text: is contained in a text of the row, in whatever case; empty for all.
    :param sort: column of numbers to sort by; None for the order of the dataset.
    """

    statuses: frozenset[str] = frozenset()
    text: str = ""
    sort: str | None = None
    descending: bool = False

    @property
    def is_everything(self) -> bool:
        """Whether these are all rows, as they stand."""
        return not (self.statuses or self.text or self.sort)


@dataclass(frozen=True)
class Found:
    """The positions of the rows of a query.

    :param complete: False if the search took too long, and only the first rows were looked at.
    """

    positions: pa.Int64Array | range
    complete: bool = True

    def page(self, offset: int, limit: int) -> list[int]:
        """Return some of the positions."""
        part = self.positions[offset : offset + limit]
        return list(part) if isinstance(part, range) else part.to_pylist()


@dataclass(frozen=True)
class _Group:
    file: int
    number: int
    rows: int
    bytes: int


class Table:
    """The rows of some Parquet files, by their position from 0. Safe to use from several threads.

    :param parts: stores and the names in them, in order.
    :raises SourceError: if a file is gone or no Parquet.
    """

    def __init__(self, parts: Iterable[tuple[Store, Sequence[str]]]) -> None:
        named = [(store, name) for store, names in parts for name in names]
        if not named:
            raise SourceError("the dataset has no parts.")
        with ThreadPoolExecutor(min(LOOKERS, len(named))) as lookers:
            self._files = list(lookers.map(lambda each: _File(*each), named))
        self.schema = _union([file.schema for file in self._files])
        self._groups = [group for number, file in enumerate(self._files) for group in file.groups(number)]
        self._starts = [0]
        for group in self._groups:
            self._starts.append(self._starts[-1] + group.rows)
        self.rows = self._starts[-1]

    def read(self, positions: Positions, columns: Sequence[str]) -> pa.Table:
        """Return rows, in the order of their positions."""
        wanted = sorted(set(positions))
        schema = self._chosen(columns)
        pieces: list[pa.RecordBatch] = []
        for index, some in groupby(wanted, key=lambda position: bisect_right(self._starts, position) - 1):
            start = self._starts[index]
            pieces += self._pick(self._groups[index], [position - start for position in some], schema)
        if not pieces:
            return schema.empty_table()
        found = pa.Table.from_batches(pieces, schema)
        places = {position: place for place, position in enumerate(wanted)}
        return found.take(pa.array([places[position] for position in positions], pa.int64()))

    def scan(self, columns: Sequence[str], most_rows: int | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (position of its first row, batch), over all rows.

        :param most_rows: at about how many rows to stop looking: whole row groups, evenly spread, are left out. None for all.
        """
        schema = self._chosen(columns)
        step = 1 if most_rows is None else max(1, math.ceil(self.rows / most_rows))
        for index in range(0, len(self._groups), step):
            position = self._starts[index]
            for batch in self._decode(self._groups[index], schema):
                yield position, batch
                position += batch.num_rows

    def select(self, query: Query) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query, all columns, in its order."""
        if query.sort:
            positions = self.find(query).positions
            for start in range(0, len(positions), SELECTED_ROWS):
                found = self.read(Found(positions).page(start, SELECTED_ROWS), self.schema.names)
                yield from found.to_batches()
            return
        texts = self._texts(query)
        for _, batch in self.scan(self.schema.names):
            yield batch if query.is_everything else batch.filter(_matching(batch, query, texts))

    def find(self, query: Query) -> Found:
        """Return where the rows of a query are.

        :raises SourceError: if it cannot be sorted so.
        """
        if query.is_everything:
            return Found(range(self.rows))
        if query.sort and self.rows > MOST_SORTED:
            raise SourceError(f"the dataset has {self.rows} rows, and at most {MOST_SORTED} are sorted here. Use SQL on it.")
        if query.sort and not (query.sort in self.schema.names and is_number(self.schema.field(query.sort).type)):
            raise SourceError("only columns of numbers can be sorted by.")
        texts = self._texts(query)
        columns = [*texts, *(["distil_status"] if query.statuses else []), *([query.sort] if query.sort else [])]
        until = time.monotonic() + PATIENCE
        positions, values, complete = [], [], True
        for start, batch in self.scan(list(dict.fromkeys(columns))):
            matching = _matching(batch, query, texts)
            positions.append(pc.add(pc.indices_nonzero(matching).cast(pa.int64()), start))
            if query.sort:
                values.append(batch.column(query.sort).filter(matching))
            if time.monotonic() > until:
                complete = start + batch.num_rows == self.rows
                break
        found = pa.concat_arrays(positions) if positions else pa.array([], pa.int64())
        if query.sort and values:
            order = "descending" if query.descending else "ascending"
            # Arrow sorts stably: equal rows stay in the order of the dataset.
            found = found.take(pc.sort_indices(pa.concat_arrays(values), sort_keys=[("", order)]))
        return Found(found, complete)

    def _texts(self, query: Query) -> list[str]:
        return [field.name for field in self.schema if query.text and _has_text(field)]

    def _chosen(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in columns])

    def _decode(self, group: _Group, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        size = min(MOST_BATCH_ROWS, max(1, BATCH_BYTES * group.rows // max(1, group.bytes)))
        yield from self._files[group.file].batches(group, schema, size)

    def _pick(self, group: _Group, wanted: list[int], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield rows of a group, by their rising positions in it, and decode no more than to the last of them."""
        start, at = 0, 0
        for batch in self._decode(group, schema):
            end = start + batch.num_rows
            here = []
            while at < len(wanted) and wanted[at] < end:
                here.append(wanted[at] - start)
                at += 1
            if here:
                yield batch.take(pa.array(here, pa.int64()))
            if at == len(wanted):
                return
            start = end


class _File:
    """A Parquet file and its footer."""

    def __init__(self, store: Store, name: str) -> None:
        # In sorted order the exact name is the first of those that start with it.
        entry = next(iter(store.list(name)), None)
        if entry is None or entry.name != name:
            raise FileNotFoundError(f"there is no {store}/{name}")
        self._store, self._entry = store, entry
        with self._open(None) as file:
            self._footer = file.metadata
            self.schema: pa.Schema = file.schema_arrow.remove_metadata()

    def groups(self, file: int) -> Iterator[_Group]:
        for number in range(self._footer.num_row_groups):
            group = self._footer.row_group(number)
            yield _Group(file, number, group.num_rows, group.total_byte_size)

    def batches(self, group: _Group, schema: pa.Schema, size: int) -> Iterator[pa.RecordBatch]:
        # Opened anew by each reader: one file object cannot be read by two threads.
        with self._open(self._footer) as file:
            columns = [name for name in schema.names if name in self.schema.names]
            if not columns:
                yield _nothing(group.rows, schema)
                return
            for batch in file.iter_batches(size, row_groups=[group.number], columns=columns, use_threads=False):
                yield pa.record_batch([_column(batch, field) for field in schema], schema=schema)

    def _open(self, footer: pq.FileMetaData | None) -> pq.ParquetFile:
        content = pa.PythonFile(RangeFile(self._store, self._entry), "r")
        return pq.ParquetFile(content, metadata=footer, buffer_size=BUFFER_BYTES, pre_buffer=False)


def _nothing(rows: int, schema: pa.Schema) -> pa.RecordBatch:
    if not len(schema):
        return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
    return pa.record_batch([pa.nulls(rows, field.type) for field in schema], schema=schema)


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(field.name)
    return column if column.type == field.type else column.cast(field.type)


def _union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    distinct: list[pa.Schema] = []
    for schema in schemas:
        if not any(schema.equals(known) for known in distinct):
            distinct.append(schema)
    try:
        return reduce(lambda one, other: pa.unify_schemas([one, other], promote_options="permissive"), distinct)
    except pa.ArrowException as error:
        raise SourceError("the parts of the dataset have columns that do not fit together.") from error


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a type is one of whole or floating numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _has_text(field: pa.Field) -> bool:
    # What `distil_metadata` keeps of prompts and answers is not what a row says.
    return field.name in {"distil_status", "distil_error"} or (not field.name.startswith("distil_") and _is_text(field.type))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_is_text(field.type) for field in kind)
    if is_list(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a type is one of lists, of any or of one size."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _matching(batch: pa.RecordBatch, query: Query, texts: Sequence[str]) -> pa.BooleanArray:
    matching = pa.repeat(pa.scalar(value=True), batch.num_rows)
    if query.statuses:
        statuses = pa.array(sorted(query.statuses), pa.string())
        matching = pc.is_in(batch.column("distil_status"), value_set=statuses)
    if query.text:
        hits = [_contains(batch.column(name), query.text) for name in texts]
        matching = pc.and_(matching, reduce(pc.or_, hits, pa.repeat(pa.scalar(value=False), batch.num_rows)))
    return matching


def _contains(column: pa.Array, text: str) -> pa.BooleanArray:
    """Tell, for each value, whether the text is in it, or in what it is made of."""
    kind = column.type
    none = pa.repeat(pa.scalar(value=False), len(column))
    if not _is_text(kind):
        return none
    if pa.types.is_struct(kind):
        return reduce(pc.or_, (_contains(field, text) for field in column.flatten()), none)
    if is_list(kind):
        parents = pc.list_parent_indices(column).filter(_contains(pc.list_flatten(column), text))
        return pc.is_in(pa.array(range(len(column)), pa.int64()), value_set=parents.cast(pa.int64()))
    return pc.fill_null(pc.match_substring(column, text, ignore_case=True), fill_value=False)
