"""CSV files with a header."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from airflow_distil.datasets.readers.base import BATCH_BYTES, BATCH_ROWS, Contents, Opener, distinct
from airflow_distil.datasets.readers.text import decompressed, undecodable
from airflow_distil.exceptions import SourceError

__all__ = ["CSVReader"]

# The module's own limit is 128 KiB per value, which a long document exceeds. It is one setting for the whole process; it
# is only ever raised here.
csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))


@dataclass(frozen=True)
class CSVReader:
    """Every column is text, unless a type is declared: "007" and "1e5" are as often codes as numbers.

    An empty text is an empty string, an empty value of another type is null. Python's own parser is used, in strict mode:
    it alone says at which line a quote is never closed, where others swallow the rest of the file as one value.

    :param types: column to Arrow type; columns that the file does not have are ignored.
    """

    types: Mapping[str, pa.DataType] = dataclasses.field(default_factory=dict)
    rows: int = BATCH_ROWS
    bytes: int = BATCH_BYTES

    def scan(self, file: Opener, name: str, limit: int | None = None) -> Contents:
        """Read the file once, values too, so that a bad one is found before any row is used."""
        lines = _records(file, name)
        header = distinct(next(lines, (0, []))[1], name)
        schema = pa.schema([(column, self.types.get(column, pa.string())) for column in header])
        count = sum(batch.num_rows for batch in self._convert(islice(lines, limit), header, name, schema))
        return Contents(count, schema)

    def batches(self, file: Opener, name: str, schema: pa.Schema, limit: int | None = None) -> Iterator[pa.RecordBatch]:
        """Parse and convert as it goes."""
        lines = _records(file, name)
        header = next(lines, (0, []))[1]
        yield from self._convert(islice(lines, limit), header, name, schema)

    def _convert(
        self, lines: Iterator[tuple[int, list[str]]], header: list[str], name: str, schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        wanted = [(header.index(column.name), column) for column in schema]
        rows: list[tuple[int, list[str]]] = []
        size = 0
        for number, values in lines:
            if len(values) != len(header):
                raise SourceError(
                    f"{name}, line {number}: {len(values)} values in {len(header)} columns ({', '.join(map(repr, header))})."
                )
            rows.append((number, values))
            size += sum(map(len, values))
            if len(rows) >= self.rows or size >= self.bytes:
                yield _batch(rows, wanted, schema, name)
                rows, size = [], 0
        if rows:
            yield _batch(rows, wanted, schema, name)


def _records(file: Opener, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which it starts, values) of each record, the header first; empty lines are no records."""
    text = io.TextIOWrapper(decompressed(file()), encoding="utf-8-sig", newline="")
    records = csv.reader(text, strict=True)
    while True:
        line = records.line_num + 1
        try:
            values = next(records, None)
        except csv.Error as error:
            raise SourceError(f"{name}, record from line {line}: not CSV in UTF-8: {error}.") from error
        except UnicodeDecodeError as error:
            # The text is decoded far ahead of the record.
            raise SourceError(f"{name}, {undecodable(file)}: not CSV in UTF-8.") from error
        if values is None:
            return
        if values:
            yield line, values


def _batch(
    rows: list[tuple[int, list[str]]], wanted: list[tuple[int, pa.Field]], schema: pa.Schema, name: str
) -> pa.RecordBatch:
    arrays = [_column([values[index] for _, values in rows], field.type) for index, field in wanted]
    for array, (index, field) in zip(arrays, wanted, strict=True):
        if array is None:
            line, value = next((line, values[index]) for line, values in rows if _column([values[index]], field.type) is None)
            raise SourceError(f"{name}, line {line}: {value[:100]!r} in column {field.name!r} is no {field.type}.")
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(values: list[str], type: pa.DataType) -> pa.Array | None:
    try:
        if pa.types.is_string(type) or pa.types.is_large_string(type):
            return pa.array(values, type)
        return pa.array([value or None for value in values], pa.string()).cast(type)
    except pa.ArrowException:
        return None
