"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_distil.datasets.readers.base import BATCH_BYTES, BATCH_ROWS, Contents, Opener, cast_to, distinct
from airflow_distil.datasets.readers.json import JSON
from airflow_distil.exceptions import SourceError

__all__ = ["ParquetReader"]

# Each column is read through a buffer of this size, so that memory is columns times this and not a row group, which
# writers make as large as 1 GiB.
COLUMN_BUFFER = 2**20
VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


@dataclass(frozen=True)
class ParquetReader:
    """Rows and schema come from the footer; no data is read to count."""

    rows: int = BATCH_ROWS
    bytes: int = BATCH_BYTES

    def scan(self, file: Opener, name: str, limit: int | None = None) -> Contents:
        """Read the footer."""
        try:
            with file() as opened:
                parquet = pq.ParquetFile(pa.PythonFile(opened, "r"))
                rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
            names = distinct(schema.names, name)
        except UnicodeDecodeError as error:
            raise SourceError(f"{name}: the name of a column is not UTF-8: {error}.") from error
        # All may be null: another file may not have the column.
        fields = [
            pa.field(column, _plain(kind, f"{name}, column {column!r}"))
            for column, kind in zip(names, schema.types, strict=True)
        ]
        return Contents(rows if limit is None else min(rows, limit), pa.schema(fields))

    def batches(self, file: Opener, name: str, schema: pa.Schema, limit: int | None = None) -> Iterator[pa.RecordBatch]:
        """Decode a few pages of each column at a time."""
        with file() as opened:
            parquet = pq.ParquetFile(
                pa.PythonFile(opened, "r"), pre_buffer=False, buffer_size=COLUMN_BUFFER, page_checksum_verification=True
            )
            size, read = self._batch_rows(parquet.metadata), 0
            for batch in parquet.iter_batches(size, columns=schema.names, use_threads=False):
                # Selected by name again: to Parquet, column "a" also means every column "a.…".
                arrays = [_checked(batch.column(field.name), field, name, read) for field in schema]
                wanted = pa.RecordBatch.from_arrays(arrays, schema=schema)
                yield wanted if limit is None else wanted.slice(0, limit - read)
                read += batch.num_rows
                if limit is not None and read >= limit:
                    return

    def _batch_rows(self, metadata: pq.FileMetaData) -> int:
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        widest = max((group.total_byte_size / group.num_rows for group in groups if group.num_rows), default=0)
        return max(1, min(self.rows, int(self.bytes // max(widest, 1))))


def _checked(array: pa.Array, field: pa.Field, name: str, first: int) -> pa.Array:
    """Return a column in its own type, if its values are what that says.

    Writers put other bytes into columns of text, and broken pages can unpack to anything; nobody else looks.
    """
    try:
        array.validate(full=True)
        return cast_to(array, field.type)
    except pa.ArrowException as error:
        raise SourceError(
            f"{name}, rows {first} to {first + len(array) - 1}, column {field.name!r}: not {field.type}: {error}."
        ) from error


def _plain(type: pa.DataType, place: str) -> pa.DataType:
    """Return the type without the ways to store text that differ from file to file, and that Arrow can do less with.

    :raises SourceError: if a struct has two fields of one name: no row could hold both.
    """
    if pa.types.is_dictionary(type):
        return _plain(type.value_type, place)
    if isinstance(type, pa.JsonType):
        return JSON
    if pa.types.is_struct(type):
        distinct([field.name for field in type], place)
        return pa.struct([field.with_type(_plain(field.type, place)) for field in type])
    if pa.types.is_list(type):
        return pa.list_(type.value_field.with_type(_plain(type.value_type, place)))
    return VIEWS.get(type, type)
