"""Text files, compressed or not."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import pyarrow as pa

from airflow_distil.datasets.readers.base import Opener

__all__ = ["decompressed", "undecodable"]

# Read ahead: one request to a bucket takes some 50 ms, whatever it fetches up to about this size.
READ_AHEAD = 4 * 2**20

# The first bytes decide and not the suffix: a bucket may hold "x.jsonl" compressed (Content-Encoding: gzip), and
# downloads may have unpacked "x.jsonl.gz". No UTF-8 text starts with either mark.
MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


def decompressed(file: BinaryIO) -> BinaryIO:
    """Return the text of a file as a stream of bytes."""
    raw: Any = io.BufferedReader(file, READ_AHEAD)
    head = raw.peek(4)
    for mark, codec in MARKS.items():
        if head.startswith(mark):
            raw = io.BufferedReader(pa.CompressedInputStream(raw, codec), 2**20)
            break
    stream: BinaryIO = raw
    return stream


def undecodable(file: Opener) -> str:
    """Return the place of the first bytes that are no UTF-8, for an error."""
    for number, line in enumerate(decompressed(file()), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return f"line {number}, byte {error.start + 1} (0x{line[error.start]:02x})"
    return "at its end"
