"""A map from hashes to fixed-width values, in a file: a million facts must not become a million Python objects."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

__all__ = ["DiskMap"]

# Open addressing with linear probing stays at about two probes up to this load; beyond it they grow fast.
MAX_LOAD = 0.6
FIRST_SLOTS = 4096
# Slots read at a time: mostly one is enough, and four cost no more.
PROBED = 4
# Slots copied at a time when the table grows.
COPIED = 4096
_FIRST = struct.Struct("<Q").unpack_from


class DiskMap:
    """An open-addressing hash table in a file. Keys are hashes already, so their first bytes choose the slot.

    Read and written, not mapped: the pages of a mapped table count as memory of the process, and a disk that is full ends it by
    SIGBUS where a write is an `OSError`.

    :param path: file to make; it is removed on `close`. The table is derived from the log, so it need not survive a crash.
    :param width: bytes of a value.
    :param key: bytes of a key, at least 8. One of zeros cannot be stored.
    :param expected: how many keys there will be, if that is known; more only take longer. Room costs nothing until it is used.
    """

    def __init__(self, path: Path, width: int, key: int = 16, expected: int = 0) -> None:
        self._path = path
        self._key = key
        self._empty = bytes(key)
        self._record = key + width
        self._count = 0
        slots = FIRST_SLOTS
        while expected > slots * MAX_LOAD:
            slots *= 2
        self._resize(slots)
        self._file = self._make(path, slots)

    def __len__(self) -> int:
        return self._count

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        # Most runs begin without a log, and need not look into a file to see that.
        return self._find(key)[1] if self._count else None

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key.

        :raises OSError: if the disk is full.
        """
        self.update(key, lambda _: value)

    def update(self, key: bytes, change: Callable[[bytes | None], bytes]) -> bytes | None:
        """Set the value of a key to what `change` makes of the one that it has, or of None. Return the one that it had.

        :raises OSError: if the disk is full.
        """
        at, before = self._find(key)
        value = change(before)
        if before is None:
            if self._count >= self._most:
                self._grow()
                at, _ = self._find(key)
            self._count += 1
        os.pwrite(self._file, key + value, at)
        return before

    def close(self) -> None:
        """Remove the file."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)

    def _find(self, key: bytes) -> tuple[int, bytes | None]:
        """Return where a key stands, or would, and its value."""
        record, width = self._record, self._key
        slot = _FIRST(key)[0] & self._mask
        while True:
            start = slot * record
            block = os.pread(self._file, PROBED * record, start)
            for at in range(0, len(block), record):
                found = block[at : at + width]
                if found == key:
                    return start + at, block[at + width : at + record]
                if found == self._empty:
                    return start + at, None
            slot = (slot + len(block) // record) & self._mask

    def _resize(self, slots: int) -> None:
        self._mask = slots - 1
        self._most = int(slots * MAX_LOAD)

    def _grow(self) -> None:
        old, slots, path = self._file, self._mask + 1, self._path.with_suffix(".larger")
        larger = self._make(path, slots * 2)
        try:
            self._file = larger
            self._resize(slots * 2)
            for start in range(0, slots, COPIED):
                block = os.pread(old, COPIED * self._record, start * self._record)
                for at in range(0, len(block), self._record):
                    if (key := block[at : at + self._key]) != self._empty:
                        os.pwrite(larger, block[at : at + self._record], self._find(key)[0])
        except OSError:
            # With the new number of slots and the old file, every key would be looked for in the wrong place.
            self._file = old
            self._resize(slots)
            os.close(larger)
            path.unlink()
            raise
        os.close(old)
        path.replace(self._path)

    def _make(self, path: Path, slots: int) -> int:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(file, slots * self._record)
        return file
