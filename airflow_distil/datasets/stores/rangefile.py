"""An object as a file, so that the same code reads every store."""

# ruff: noqa: D102 - the methods are those of every file

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from airflow_distil.datasets.stores.base import Entry, Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["RangeFile"]


class RangeFile(io.RawIOBase):
    """A seekable file over ranges of one version of an object. Wrap it in `io.BufferedReader` for small reads.

    :param entry: the object as it was listed; every read asks for that version, and raises `SourceError` after a change.
    """

    def __init__(self, store: Store, entry: Entry) -> None:
        super().__init__()
        self.name = f"{store}/{entry.name}"
        self._store = store
        self._entry = entry
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._entry.size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start of {self.name}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._entry.size - self._position, 0)
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return b""
        content = self._store.get(self._entry.name, self._position, length, self._entry.version)
        self._position += len(content)
        return content

    def readall(self) -> bytes:
        return self.read()
