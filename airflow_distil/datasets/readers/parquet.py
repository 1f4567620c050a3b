"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_distil.datasets.readers.base import BATCH_BYTES, BATCH_ROWS, Contents, Opener, cast_to, distinct

__all__ = ["ParquetReader"]

# Each column is read through a buffer of this size, so that memory is columns times this and not a row group, which
# writers make as large as 1 GiB.
COLUMN_BUFFER = 2**20


@dataclass(frozen=True)
class ParquetReader:
    """Rows and schema come from the footer; no data is read to count."""

    rows: int = BATCH_ROWS
    bytes: int = BATCH_BYTES

    def scan(self, file: Opener, name: str, limit: int | None = None) -> Contents:
        """Read the footer."""
        with file() as opened:
            parquet = pq.ParquetFile(pa.PythonFile(opened, "r"))
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        distinct(schema.names, name)
        # Categories are a way to store text, and two files seldom have the same ones.
        fields = [field.with_type(_plain(field.type)).remove_metadata() for field in schema]
        return Contents(rows if limit is None else min(rows, limit), pa.schema(fields))

    def batches(self, file: Opener, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:  # noqa: ARG002
        """Decode a few pages of each column at a time."""
        with file() as opened:
            parquet = pq.ParquetFile(pa.PythonFile(opened, "r"), pre_buffer=False, buffer_size=COLUMN_BUFFER)
            size = self._batch_rows(parquet.metadata)
            for batch in parquet.iter_batches(size, columns=schema.names, use_threads=False):
                # Selected by name again: to Parquet, column "a" also means every column "a.…".
                arrays = [cast_to(batch.column(field.name), field.type) for field in schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _batch_rows(self, metadata: pq.FileMetaData) -> int:
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        widest = max((group.total_byte_size / group.num_rows for group in groups if group.num_rows), default=0)
        return max(1, min(self.rows, int(self.bytes // max(widest, 1))))


def _plain(type: pa.DataType) -> pa.DataType:
    return type.value_type if pa.types.is_dictionary(type) else type
