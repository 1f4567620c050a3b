"""An append-only file of frames: content of any length, behind its length and its checksum."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["Frames"]

log = logging.getLogger(__name__)

# What is asked for next mostly stands near. A block holds some fifty frames, and is read nearly as fast as one; several,
# because rows that were in flight together lie in any order.
NEAR = 2**14
NEAR_BLOCKS = 8
# Some fifty frames, read nearly as fast as one. Not more: what is larger than 128 kB comes from the system, and once such a
# block was freed, glibc puts others of its size among the small ones.
BLOCK = 2**16

_HEAD = struct.Struct("<II")  # length and CRC-32 of what follows


class Frames:
    """An append-only file of frames.

    Every append is one `write`: a killed process leaves whole frames and at most one torn one.

    :param path: the file; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self._file).st_size
        self._near: dict[int, bytes] = {}

    def append(self, contents: Iterable[bytes]) -> list[int]:
        """Write frames, and return the offset of each.

        :raises OSError: if the disk is full; nothing of them is in the file then.
        """
        pieces: list[bytes] = []
        offsets, at = [], self.size
        for content in contents:
            offsets.append(at)
            pieces += (_HEAD.pack(len(content), zlib.crc32(content)), content)
            at += _HEAD.size + len(content)
        data = b"".join(pieces)
        written = os.write(self._file, data)
        if written < len(data):
            # A short write means a full disk. Cut it off, so that the frames before it stay readable.
            os.ftruncate(self._file, self.size)
            raise OSError(f"disk full: could not append {len(data)} bytes to {self.path}")
        self.size = at
        return offsets

    def at(self, offset: int) -> bytes:
        """Return the content of the frame at an offset."""
        number, at = divmod(offset, NEAR)
        block = self._near.get(number, b"")
        content = _content(block, at)
        if content is None and len(block) < NEAR:  # not read yet, or before more was appended
            self._near.pop(number, None)
            if len(self._near) == NEAR_BLOCKS:
                del self._near[next(iter(self._near))]
            self._near[number] = block = os.pread(self._file, NEAR, number * NEAR)
            content = _content(block, at)
        if content is None:  # it reaches into the next block
            length = _HEAD.unpack(os.pread(self._file, _HEAD.size, offset))[0]
            content = os.pread(self._file, length, offset + _HEAD.size)
        return content

    def read(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, content) from `start`, up to the end or the first frame that is torn."""
        end = os.fstat(self._file).st_size if end is None else end
        offset, block, at = start, b"", 0
        while offset + _HEAD.size <= end:
            if len(block) < at + _HEAD.size:
                block, at = os.pread(self._file, BLOCK, offset), 0
            length, checksum = _HEAD.unpack_from(block, at)
            after = offset + _HEAD.size + length
            # The length is looked at first: a torn one may say 4 GB, and reading would make room for them. Zero is what a file
            # system leaves of a block that it had no time to write.
            torn = not length or after > end
            if not torn and len(block) < at + _HEAD.size + length:
                block, at = os.pread(self._file, max(BLOCK, _HEAD.size + length), offset), 0
            content = b"" if torn else block[at + _HEAD.size : at + _HEAD.size + length]
            if torn or zlib.crc32(content) != checksum:
                log.info("%s ends in a torn record at byte %d; what stands before it is used", self.path, offset)
                return
            yield offset, content
            offset, at = after, at + _HEAD.size + length

    def close(self) -> None:
        """Close the file and keep it."""
        os.close(self._file)

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        self.path.unlink(missing_ok=True)


def _content(block: bytes, at: int) -> bytes | None:
    """Return the content of the frame that stands there, if all of it is in the block."""
    start = at + _HEAD.size
    if len(block) < start:
        return None
    end = start + int(_HEAD.unpack_from(block, at)[0])
    return block[start:end] if end <= len(block) else None
