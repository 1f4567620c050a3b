"""What every format offers: what is in a file, and its rows as a stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, Protocol, TypeAlias

import pyarrow as pa

from airflow_distil.exceptions import SourceError

__all__ = ["BATCH_BYTES", "BATCH_ROWS", "Contents", "Opener", "Reader", "cast_to", "distinct"]

# Enough rows that the cost per batch vanishes, few enough that the rows behind one are nothing beside what is in flight.
BATCH_ROWS = 1024

# A thousand rows of long documents would be gigabytes, so a batch also ends at this many bytes of source text.
BATCH_BYTES = 8 * 2**20


Opener: TypeAlias = Callable[[], BinaryIO]
"""Opens a file; called once for each pass over it, as buffers close what they read from."""


class Contents(NamedTuple):
    """What is in a file.

    :param rows: rows; no more than were asked for.
    :param schema: the columns of those rows.
    """

    rows: int
    schema: pa.Schema


class Reader(Protocol):
    """A format. Both methods take what opens the file, seekable and at its start, and the name to call it in errors.

    :raises SourceError: if the content is broken, with the place.
    """

    def scan(self, file: Opener, name: str, limit: int | None = None) -> Contents:
        """Count the rows, up to `limit`, and learn their schema, in bounded memory."""

    def batches(self, file: Opener, name: str, schema: pa.Schema, limit: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the file's order, in batches of bounded rows and bytes.

        :param schema: some or all of the columns that `scan` gave, with those types; at least one.
        :param limit: rows to read; what comes after them is not looked at, as `scan` did not.
        """


def cast_to(array: pa.Array, type: pa.DataType) -> pa.Array:
    """Return the array as that type.

    Arrow's own cast to the same type is not a no-op: it breaks nulls inside lists (pyarrow 26).
    """
    if array.type == type:
        return array
    if isinstance(type, pa.BaseExtensionType):
        storage = array.storage if isinstance(array, pa.ExtensionArray) else array
        return pa.ExtensionArray.from_storage(type, cast_to(storage, type.storage_type))
    return array.cast(type)


def distinct(names: list[str], name: str) -> list[str]:
    """Return the column names.

    :raises SourceError: if one appears twice.
    """
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise SourceError(f"{name} has several columns named {', '.join(map(repr, twice))}. Rename them in the file.")
    return names
