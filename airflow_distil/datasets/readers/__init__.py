"""The formats that rows are read from. Each gives the same stream of Arrow batches, in the file's order."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa

from airflow_distil.datasets.readers.base import BATCH_ROWS, Contents, Opener, Reader, cast_to, distinct
from airflow_distil.datasets.readers.csv import CSVReader
from airflow_distil.datasets.readers.json import (
    DEEPEST,
    JSON,
    JSONReader,
    Located,
    array_of_objects,
    fits_parquet,
    infer,
    lines,
    located,
    nested,
    rows_to_batch,
    storable,
    without_surrogates,
)
from airflow_distil.datasets.readers.parquet import ParquetReader
from airflow_distil.exceptions import TaskDefinitionError

__all__ = [
    "BATCH_ROWS",
    "DEEPEST",
    "JSON",
    "CSVReader",
    "Contents",
    "JSONReader",
    "Located",
    "Opener",
    "ParquetReader",
    "Reader",
    "array_of_objects",
    "cast_to",
    "distinct",
    "fits_parquet",
    "format_of",
    "infer",
    "lines",
    "located",
    "nested",
    "reader_for",
    "rows_to_batch",
    "storable",
    "without_surrogates",
]

SUFFIXES = {"parquet": "parquet", "jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "csv": "csv"}


def format_of(name: str) -> str:
    """Return the format that a file's suffix stands for: `parquet`, `jsonl`, `json` or `csv`.

    :raises TaskDefinitionError: if it is none of them.
    """
    bare = re.sub(r"\.(gz|zst)$", "", name.lower())
    found = SUFFIXES.get(bare.rpartition(".")[2])
    # Parquet compresses inside; a whole file that was compressed again cannot be read in parts.
    if found is None or (found == "parquet" and bare != name.lower()):
        known = ", ".join(f".{suffix}" for suffix in SUFFIXES)
        raise TaskDefinitionError(
            f"cannot tell the format of {name}. Known are {known}; all but Parquet also with .gz or .zst. "
            "Name the files that are meant with a pattern, such as folder/*.parquet."
        )
    return found


def reader_for(format: str, types: Mapping[str, pa.DataType]) -> Reader:
    """Return the reader of a format.

    :param types: declared types; only CSV, which has none of its own, reads by them.
    """
    match format:
        case "parquet":
            return ParquetReader()
        case "csv":
            return CSVReader(types)
        case "jsonl":
            return JSONReader(lines)
        case "json":
            return JSONReader(array_of_objects)
    raise ValueError(format)
