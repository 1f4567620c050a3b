"""The rows of a query as a file: one Parquet file, or a JSON object a line."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from airflow_distil.datasets.shown import plain
from airflow_distil.datasets.table import Query, Table

__all__ = ["FORMS", "download"]

FORMS = {"parquet": "application/vnd.apache.parquet", "jsonl": "application/jsonl"}
"""Names of the forms, which are also endings of files, and their media types."""

CHUNK = 2**20


def download(table: Table, query: Query, form: str) -> Iterator[bytes]:
    """Yield a file, of one of `FORMS`; large ones never are in memory as a whole."""
    return _parquet(table, query) if form == "parquet" else _jsonl(table, query)


def _parquet(table: Table, query: Query) -> Iterator[bytes]:
    # A Parquet file ends with what is known only when it is whole, and the parts are several.
    with tempfile.TemporaryFile(prefix="airflow-distil-") as file:
        with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
            for batch in table.select(query):
                writer.write_batch(batch)
        file.seek(0)
        while chunk := file.read(CHUNK):
            yield chunk


def _jsonl(table: Table, query: Query) -> Iterator[bytes]:
    for batch in table.select(query):
        lines = [json.dumps(_exported(row), ensure_ascii=False) for row in batch.to_pylist()]
        if lines:
            yield ("\n".join(lines) + "\n").encode()


def _exported(value: Any) -> Any:
    match value:
        case bool() | int():
            return value  # as large as it is: not every reader is a browser
        case bytes():
            return base64.b64encode(value).decode()
        case Mapping():
            return {str(key): _exported(item) for key, item in value.items()}
        case list() | tuple():
            return [_exported(item) for item in value]
    return plain(value)
