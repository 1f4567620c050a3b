"""What a task reads: files, published datasets or rows, as one stream whose content is fixed when it is opened."""

from __future__ import annotations

import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_distil.conversation import Row
from airflow_distil.datasets.files import File, Stores, described, find_files, readable, sorted_out
from airflow_distil.datasets.readers import (
    BATCH_ROWS,
    Contents,
    JSONReader,
    Located,
    Opener,
    Reader,
    cast_to,
    format_of,
    located,
    reader_for,
)
from airflow_distil.datasets.stores import open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.datasets.values import python_values
from airflow_distil.exceptions import SourceError, TaskDefinitionError

__all__ = ["Source", "SourceFile", "numbered", "open_source", "rows_of"]

# Files are looked into before the first call. Each takes a few round trips of 50 ms, so thousands need company; more than
# a few would hold a read-ahead each for nothing, as unpacking and parsing share two cores at best.
LOOKERS = 8

_NOTHING_ASKED = "Nothing was asked in this try. Let upstream write the file anew, or leave it out of the source."


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, in the version that is read.

    :param rows: rows of it that are read.
    """

    uri: URI
    size: int
    version: str
    format: str
    rows: int


@dataclass(frozen=True)
class _Piece:
    """A file, or all literal rows, and how to read it."""

    name: str
    reader: Reader
    open: Callable[[], BinaryIO]
    identity: dict[str, Any]
    file: File | None = None
    contents: Contents = field(default=Contents(0, pa.schema([])))

    def scanned(self, limit: int | None) -> _Piece:
        try:
            with readable(self.name):
                contents = self.reader.scan(self.open, self.name, limit)
            expected = self.file.rows if self.file else None
            if expected is not None and contents.rows != (expected if limit is None else min(expected, limit)):
                raise SourceError(f"{self.name} has {contents.rows} rows; its manifest says {expected}. The file was replaced.")
        except SourceError as error:
            raise SourceError(f"{error} {_NOTHING_ASKED}") from error
        return replace(self, contents=contents)

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the piece's rows with the columns and types of `schema`."""
        read, rows = 0, self.contents.rows
        try:
            with readable(self.name):
                for batch in self._own(schema):
                    yield _conformed(batch, schema, self.name)
                    read += batch.num_rows
            if read != rows:
                raise SourceError(f"{self.name} gives {read} rows, and says that it has {rows}.")
        except SourceError as error:
            raise SourceError(
                f"{error} It was found when {read} of {rows} rows of {self.name} were read. What was answered is kept: once "
                "upstream has written the file anew, the next try asks only what is new."
            ) from error

    def _own(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the rows with those columns of `schema` that the piece has; without any, rows of nothing."""
        rows = self.contents.rows
        if own := [column for column in self.contents.schema if column.name in schema.names]:
            yield from self.reader.batches(self.open, self.name, pa.schema(own), rows)
            return
        for start in range(0, rows, BATCH_ROWS):
            # A batch without columns has no rows either.
            yield pa.record_batch([pa.nulls(min(BATCH_ROWS, rows - start))], [""])


class Source:
    """An opened source: versions are pinned, rows counted, the schema is known.

    :param rows: number of rows.
    :param schema: columns and types of every batch.
    :param identity: JSON-able; equal if the content is the same: names, sizes and versions of files, the hash of literal
        rows, the manifest's hash of published datasets.
    :param files: the files behind it, in order; none for literal rows.
    """

    def __init__(self, pieces: Sequence[_Piece], schema: pa.Schema) -> None:
        self._pieces = pieces
        self.schema = schema
        self.rows = sum(piece.contents.rows for piece in pieces)
        self.identity: dict[str, Any] = {"inputs": _identities(pieces)}
        self.files = [
            SourceFile(file.uri, file.entry.size, file.entry.version, format_of(file.entry.name), piece.contents.rows)
            for piece in pieces
            if (file := piece.file)
        ]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order; the same ones at each call.

        :raises SourceError: if a file cannot be read, or changed since the source was opened.
        """
        for piece in self._pieces:
            yield from piece.batches(self.schema)

    def picked(self, rows: Sequence[int]) -> Source:
        """Return some rows of it, as a source of their own, which reads them once and keeps them.

        :param rows: their numbers, rising.
        """
        return _Picked(self, rows)

    def verify(self) -> None:
        """Check that every file is still the one that was opened. New files beside them do not matter.

        :raises SourceError: if one changed or is gone.
        """
        files = [piece.file for piece in self._pieces if piece.file]
        for _, group in groupby(files, key=lambda file: (id(file.store), file.listing)):
            found = list(group)
            with readable(str(found[0].root)):
                now = {entry.name: entry for entry in found[0].store.list(found[0].listing)}
            for file in found:
                if now.get(file.entry.name) != file.entry:
                    what = "changed" if file.entry.name in now else "was deleted"
                    raise SourceError(
                        f"{file.uri} {what} while it was being read. Answers so far are kept; the next try reads the new "
                        "content and asks only what is new. Let upstream write new files instead of replacing them."
                    )


class _Picked(Source):
    """Some rows of a source."""

    def __init__(self, source: Source, rows: Sequence[int]) -> None:
        super().__init__([], source.schema)
        self._source, self._numbers = source, rows
        self.rows, self.files = len(rows), source.files
        self.identity = {**source.identity, "picked": list(rows)}
        self._kept: list[pa.RecordBatch] | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._kept is None:
            self._kept = list(self._read())
        yield from self._kept

    def _read(self) -> Iterator[pa.RecordBatch]:
        before, wanted = 0, deque(self._numbers)
        for batch in self._source.batches():
            here = []
            while wanted and wanted[0] < before + batch.num_rows:
                here.append(wanted.popleft() - before)
            if here:
                yield batch.take(pa.array(here, pa.int64()))
            if not wanted:
                return
            before += batch.num_rows

    def verify(self) -> None:
        self._source.verify()


def open_source(
    source: Any,
    *,
    stores: Stores = open_store,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    schema: Mapping[str, str] | None = None,
) -> Source:
    """Open a source and look into it, so that what is wrong with it is said before anything is asked.

    :param source: URI of a file, of a folder or of a published dataset, or a pattern (`*` and `?` within a segment, `**`
        for any folders); rows (dicts); a summary of a published dataset; or any sequence of one of these kinds, which
        means their rows in that order. Names that start with `_` or `.` below a folder are skipped.
    :param stores: opens stores.
    :param limit: read the first rows only; files beyond are not looked at.
    :param columns: columns to read, in this order. Default: all.
    :param schema: column to Arrow type name (`int64`, `double`, `string`, `bool`, `timestamp[us]`…).
    :raises SourceError: if there is no row, or something cannot be read, or types do not fit together.
    :raises NotPublished: if a dataset of ours has no edition yet.
    :raises TaskDefinitionError: if the arguments make no sense.
    """
    if limit is not None and limit < 1:
        raise TaskDefinitionError(f"limit={limit}: give at least 1, or None for all rows.")
    if columns is not None and (not columns or len(set(columns)) < len(columns)):
        raise TaskDefinitionError(f"columns={list(columns)}: name at least one column, and each once; None means all.")
    types = {column: _type(column, alias) for column, alias in (schema or {}).items()}
    pieces = _scanned(_pieces(source, stores, types, limit), limit)
    if not sum(piece.contents.rows for piece in pieces):
        raise SourceError(
            f"the source has no rows: {described(source)}. Nothing was asked. If that can happen, let a "
            "@task.short_circuit upstream skip this task."
        )
    return _fitted(pieces, columns, types)


def numbered(count: int) -> Source:
    """Return a source without data: rows 0 to `count` − 1, each with its number as `candidate`."""
    reader = _Numbers(count)
    piece = _Piece("candidates", reader, io.BytesIO, {"candidates": "numbered"}).scanned(None)
    return Source([piece], piece.contents.schema)


class _Numbers:
    """A reader of a file that nobody wrote."""

    def __init__(self, count: int) -> None:
        self._count = count

    def scan(self, _file: Opener, _name: str, _limit: int | None = None) -> Contents:
        return Contents(self._count, pa.schema([pa.field("candidate", pa.int64())]))

    def batches(self, _file: Opener, _name: str, schema: pa.Schema, _limit: int | None = None) -> Iterator[pa.RecordBatch]:
        for start in range(0, self._count, BATCH_ROWS):
            numbers = pa.array(range(start, min(start + BATCH_ROWS, self._count)), pa.int64())
            yield pa.record_batch([numbers], schema=schema)


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """Return the rows of a batch as Python values; see `python_values`."""
    columns = [python_values(array) for array in batch.columns]
    names = batch.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _pieces(source: Any, stores: Stores, types: Mapping[str, pa.DataType], limit: int | None) -> list[_Piece]:
    kind, items = sorted_out(source)
    if kind == "row":
        return [_rows_piece(items[:limit])] if items else []
    return [_file_piece(file, types) for file in find_files(items, stores)]


def _rows_piece(rows: list[Mapping[str, Any]]) -> _Piece:
    content = hashlib.sha256()
    found: list[Located] = []
    for number, row in enumerate(rows):
        if odd := [name for name in row if not isinstance(name, str)]:
            raise TaskDefinitionError(
                f"source: row {number} cannot be hashed: it has a column named {odd[0]!r} ({type(odd[0]).__name__}). Nothing "
                "was asked. Names of columns are text."
            )
        found.append(located(f"row {number}", row, "source"))
        try:
            text = json.dumps(found[-1].value, sort_keys=True, default=_as_text)
        except (TypeError, ValueError) as error:
            raise TaskDefinitionError(
                f"source: row {number} cannot be hashed, as JSON has no form for it: {error}. Nothing was asked. Pass lists, "
                "dicts, text, numbers, bytes, dates and times."
            ) from error
        content.update(text.encode() + b"\n")
    reader = JSONReader(lambda _open, _name: iter(found))
    return _Piece("source", reader, io.BytesIO, {"rows": content.hexdigest()})


def _as_text(value: Any) -> str:
    # The text of a set is in any order, and that of an object without one has its address: another hash in each process.
    if isinstance(value, set | frozenset) or hex(id(value)) in repr(value):
        raise TypeError(f"a {type(value).__name__} has no text that is always the same")
    return str(value)


def _file_piece(file: File, types: Mapping[str, pa.DataType]) -> _Piece:
    entry = file.entry
    identity = {"uri": str(replace(file.uri, conn_id=None)), "size": entry.size, "version": entry.version}
    return _Piece(
        str(file.uri),
        reader_for(format_of(str(file.uri)), types),
        file.open,
        {"manifest": file.manifest} if file.manifest else identity,
        file,
    )


def _identities(pieces: Sequence[_Piece]) -> list[dict[str, Any]]:
    """Return what tells this content from other content; the parts of one edition have one identity, its manifest's."""
    return [
        item
        for first, same in groupby(piece.identity for piece in pieces)
        for item in ([{**first, "parts": len(list(same))}] if "manifest" in first else same)
    ]


def _scanned(pieces: list[_Piece], limit: int | None) -> list[_Piece]:
    if limit is None:
        with ThreadPoolExecutor(min(LOOKERS, max(len(pieces), 1))) as lookers:
            return list(lookers.map(lambda piece: piece.scanned(None), pieces))
    # Enough is enough: ten rows of a terabyte are found in its first file.
    scanned: list[_Piece] = []
    for piece in pieces:
        left = limit - sum(other.contents.rows for other in scanned)
        if left:
            scanned.append(piece.scanned(left))
    return scanned


def _fitted(pieces: list[_Piece], columns: Sequence[str] | None, types: Mapping[str, pa.DataType]) -> Source:
    """Return the source with the one schema that holds all pieces."""
    existing = list(dict.fromkeys(name for piece in pieces for name in piece.contents.schema.names))
    for what, names in (("columns", columns or ()), ("schema", types)):
        if missing := [name for name in names if name not in existing]:
            raise TaskDefinitionError(f"{what} names {missing}, which the source does not have. Its columns are {existing}.")
    if not existing:
        raise SourceError("the source's rows have no columns.")
    schema = pa.schema([])
    for piece in pieces:
        for column in piece.contents.schema:
            if columns is None or column.name in columns:
                schema = _unified(schema, pa.field(column.name, types.get(column.name, column.type)), piece.name)
    schema = pa.schema([schema.field(name) for name in columns or schema.names])
    for column in schema:
        _try_writing(column)
    for piece in pieces:
        _try_casts(piece, schema)
    return Source(pieces, schema)


def _unified(schema: pa.Schema, column: pa.Field, name: str) -> pa.Schema:
    try:
        return pa.unify_schemas([schema, pa.schema([column])], promote_options="permissive")
    except pa.ArrowException as error:
        raise SourceError(
            f"column {column.name!r} is {column.type} in {name}, and {schema.field(column.name).type} in files before. Declare "
            f"its type (schema={{{column.name!r}: 'string'}}), or leave it out with columns=[…]."
        ) from error


def _try_writing(column: pa.Field) -> None:
    """Do with a column what is done with it after every answer is paid for."""
    try:
        rows = pa.nulls(1, column.type).take(pa.array([0]))
        pq.write_table(pa.table([rows], pa.schema([column])), pa.BufferOutputStream())
    except pa.ArrowException as error:
        raise SourceError(
            f"column {column.name!r} is {column.type}, which cannot be written to Parquet: {error}. Nothing was asked. Declare "
            f"another type (schema={{{column.name!r}: 'string'}}), or leave it out with columns=[…]."
        ) from error


def _try_casts(piece: _Piece, schema: pa.Schema) -> None:
    """Read the columns whose type has to change: a value that does not fit must show before half of the rows are paid for."""
    own = piece.contents.schema
    changing = [
        column for column in schema if column.name in own.names and own.field(column.name).type not in {pa.null(), column.type}
    ]
    if changing:
        for _ in piece.batches(pa.schema(changing)):
            pass


def _conformed(batch: pa.RecordBatch, schema: pa.Schema, name: str) -> pa.RecordBatch:
    arrays = []
    for column in schema:
        index = batch.schema.get_field_index(column.name)
        if index < 0 or pa.types.is_null(batch.schema.field(index).type):
            arrays.append(pa.nulls(batch.num_rows, column.type))
            continue
        try:
            arrays.append(cast_to(batch.column(index), column.type))
        except pa.ArrowException as error:
            own = batch.schema.field(index).type
            raise SourceError(
                f"{name}: column {column.name!r} is {own} and cannot be read as {column.type}: {error}."
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _type(column: str, alias: str) -> pa.DataType:
    try:
        return pa.type_for_alias(alias)
    except (ValueError, TypeError) as error:
        raise TaskDefinitionError(
            f"schema: {alias!r} of column {column!r} is no Arrow type. Common ones are string, int64, double, bool, date32, "
            "timestamp[us]."
        ) from error
