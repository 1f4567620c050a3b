"""The Parquet files of one attempt: written locally, then put into its own folder of the destination."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_distil.datasets.manifest import Part
from airflow_distil.datasets.memory import give_back
from airflow_distil.datasets.stores import Store, create
from airflow_distil.exceptions import DestinationError

__all__ = ["PartWriter"]

# A part this large reads well in parallel, and its upload can be repeated without much loss.
PART_BYTES = 256 * 1024 * 1024
# Row groups are the unit that readers hold in memory, and so do we, twice: as it is gathered and as it is packed.
GROUP_ROWS = 64 * 1024
GROUP_BYTES = 8 * 1024 * 1024


class PartWriter:
    """Writes record batches, in order, as Parquet parts. Used as a context: nothing is put once it has ended.

    :param store: the destination.
    :param folder: this attempt's folder under it, e.g. `data/000001-0123456789abcdef`.
    :param local: folder for the part that is being written.
    :param schema: schema of all batches.
    :param before_upload: called before each part is put, in the thread that packs; `write` or `finish` raises what it raises.
    """

    def __init__(
        self, store: Store, folder: str, local: Path, schema: pa.Schema, before_upload: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._folder = folder
        self._local = local
        self._schema = schema
        self._before_upload = before_upload
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        # Packing needs no Python, and putting mostly waits: meanwhile the next group is gathered. The rest is that thread's.
        self._packer = ThreadPoolExecutor(1, "airflow-distil-pack")
        self._packing: Future[None] | None = None
        self._parts: list[Part] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0
        self._given_up = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._given_up.set()
        self._packer.shutdown(cancel_futures=True)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch.

        All that is raised may be about the group before.

        :raises OSError: if the disk is full or the store fails.
        :raises DestinationError: if the place of a part is taken.
        """
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
            self._end_group(PART_BYTES)
        give_back()

    def finish(self) -> list[Part]:
        """Put what is left, and return all parts. There is at least one, for its schema."""
        self._end_group(0)
        self._settle()
        return self._parts

    @property
    def _path(self) -> Path:
        return self._local / f"part-{len(self._parts):05d}.parquet"

    def _end_group(self, part_bytes: int) -> None:
        self._settle()
        self._packing = self._packer.submit(self._pack, self._waiting, part_bytes)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def _settle(self) -> None:
        """Wait until the last group is written."""
        if self._packing is not None:
            self._packing.result()
            self._packing = None

    def _pack(self, batches: list[pa.RecordBatch], part_bytes: int) -> None:
        """Write a group, and end the part if it has so many bytes."""
        if batches or (self._writer is None and not self._parts):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
            table = pa.Table.from_batches(batches, self._schema)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
            self._rows += table.num_rows
            del table
            batches.clear()
            give_back()
        if self._writer is not None and self._path.stat().st_size >= part_bytes:
            self._writer.close()
            self._writer = None
            self._put()

    def _put(self) -> None:
        path = self._path
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        part = Part(path=f"{self._folder}/{path.name}", rows=self._rows, bytes=path.stat().st_size, sha256=checksum)
        self._before_upload()
        if self._given_up.is_set():
            return
        if not create(self._store, part.path, path):
            raise DestinationError(
                f"{self._store}/{part.path} exists already with other content. The next attempt uses a new folder."
            )
        path.unlink()
        self._parts.append(part)
        self._rows = 0
