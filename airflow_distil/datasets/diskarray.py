"""An array of records in a file, for what is set and asked for nearly in order: a page of it is one read, or write."""

from __future__ import annotations

import os
from pathlib import Path
from struct import Struct
from typing import Any

__all__ = ["DiskArray"]

# Records read and written at a time: tens of kilobytes.
PAGE = 4096
# Of what was in flight together, one may finish long after its neighbours; it must not throw their page out.
PAGES = 4


class DiskArray:
    """An array in a file. Room costs nothing until it is used, and what was never set is zeros.

    :param path: file to make; it is removed on `close`.
    :param record: form of a record.
    """

    def __init__(self, path: Path, record: Struct) -> None:
        self._path = path
        self._record = record
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._pages: dict[int, bytearray] = {}
        self._changed: set[int] = set()

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        page, at = divmod(number, PAGE)
        return self._record.unpack_from(self._pages.get(page) or self._read(page), at * self._record.size)

    def __setitem__(self, number: int, values: tuple[Any, ...]) -> None:
        page, at = divmod(number, PAGE)
        self._record.pack_into(self._pages.get(page) or self._read(page), at * self._record.size, *values)
        self._changed.add(page)

    def clear(self) -> None:
        """Set everything to zeros."""
        os.ftruncate(self._file, 0)
        self._pages.clear()
        self._changed.clear()

    def close(self) -> None:
        """Remove the file."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)

    def _read(self, page: int) -> bytearray:
        if len(self._pages) == PAGES:
            self._put_away(next(iter(self._pages)))
        size = PAGE * self._record.size
        self._pages[page] = records = bytearray(os.pread(self._file, size, page * size).ljust(size, b"\0"))
        return records

    def _put_away(self, page: int) -> None:
        if page in self._changed:
            records = self._pages[page]
            if os.pwrite(self._file, records, page * len(records)) < len(records):
                raise OSError(f"disk full: could not write to {self._path}")
            self._changed.remove(page)
        del self._pages[page]
