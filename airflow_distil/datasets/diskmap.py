"""A map from hashes to fixed-width values, in a file: a million facts must not become a million Python objects."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

__all__ = ["DiskMap"]

# Open addressing with linear probing stays at about two probes up to this load; beyond it they grow fast.
MAX_LOAD = 0.6
FIRST_SLOTS = 4096


class DiskMap:
    """An open-addressing hash table in a memory-mapped file. Keys are hashes already, so their first bytes choose the slot.

    :param path: file to make; it is removed on `close`. The table is derived from the log, so it need not survive a crash.
    :param width: bytes of a value.
    :param key: bytes of a key, at least 8. One of zeros cannot be stored.
    """

    def __init__(self, path: Path, width: int, key: int = 16) -> None:
        self._path = path
        self._key = key
        self._empty = bytes(key)
        self._record = key + width
        self._count = 0
        self._slots = FIRST_SLOTS
        self._map = self._make(path, self._slots)

    def __len__(self) -> int:
        return self._count

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        return self._value(*self._find(key))

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self.update(key, lambda _: value)

    def update(self, key: bytes, change: Callable[[bytes | None], bytes]) -> bytes | None:
        """Set the value of a key to what `change` makes of the one that it has, or of None. Return the one that it had."""
        at, there = self._find(key)
        before = self._value(at, there)
        value = change(before)
        if not there:
            if self._count >= self._slots * MAX_LOAD:
                self._grow()
                at, _ = self._find(key)
            self._count += 1
        self._map[at : at + self._record] = key + value
        return before

    def close(self) -> None:
        """Remove the file."""
        self._map.close()
        self._path.unlink(missing_ok=True)

    def _value(self, at: int, there: bool) -> bytes | None:  # noqa: FBT001 - as `_find` returns them
        return self._map[at + self._key : at + self._record] if there else None

    def _find(self, key: bytes) -> tuple[int, bool]:
        """Return where a key stands, or would, and whether it is there."""
        mask, record, table, width, empty = self._slots - 1, self._record, self._map, self._key, self._empty
        slot = int.from_bytes(key[:8], "little") & mask
        while True:
            at = slot * record
            found = table[at : at + width]
            if found == key:
                return at, True
            if found == empty:
                return at, False
            slot = (slot + 1) & mask

    def _grow(self) -> None:
        old, end = self._map, self._slots * self._record
        larger = self._path.with_suffix(".larger")
        self._map, self._slots = self._make(larger, self._slots * 2), self._slots * 2
        for start in range(0, end, self._record):
            key = old[start : start + self._key]
            if key != self._empty:
                at, _ = self._find(key)
                self._map[at : at + self._record] = old[start : start + self._record]
        old.close()
        larger.replace(self._path)

    def _make(self, path: Path, slots: int) -> mmap.mmap:
        with path.open("w+b") as file:
            # Real blocks, not a sparse file: a full disk must be an OSError here, not a SIGBUS at some later store. Written,
            # because not every platform has `posix_fallocate`.
            for _ in range(0, slots, FIRST_SLOTS):
                file.write(bytes(FIRST_SLOTS * self._record))
            file.flush()
            return mmap.mmap(file.fileno(), slots * self._record)
