"""Facts: what is known of requests that were sent, as records in a local file and as immutable segments beside the output.

A *fact* is an answer, or a permanent failure, of one request of one conversation. It never changes; where the same question
was asked twice there are two facts, told apart by their ids. A fact travels in two forms: a frame in a local scratch file,
written at once (a killed process loses nothing of what its host keeps), and a row of an Arrow segment in the destination's
log. Both carry the same fields, so that any attempt, anywhere, can go on from them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import ipc

__all__ = ["MOST_BYTES", "Fact", "Kind", "Scratch", "decode_segment", "encode_segment"]

log = logging.getLogger(__name__)


class Kind(IntEnum):
    """What became of a request."""

    ANSWER = 0
    """The model answered."""
    BAD_ROW = 1
    """The endpoint refused this request for good. Holds within its ask only."""
    TRANSIENT = 2
    """All retries failed. Not a fact: it stays in its attempt's scratch file, and the next attempt asks again."""


class Fact(NamedTuple):
    """What is known of one request.

    :param key: hash of the conversation up to and including the request; see `airflow_distil.engine.dialogue`.
    :param nonce: with `number`, the id: nonce of the claim under which it was paid. Copies share the id.
    :param number: running number within that claim.
    :param claim: number of that claim; of several facts with one key the highest claim's counts.
    :param ask: 16 bytes that name the ask, see `Identity.ask`.
    :param work: 16 bytes that name fingerprint and round: facts of one work have the same requests at the same places.
    :param ordinal: row of the source, from 0.
    :param sample: which of the row's generations, from 0.
    :param step: position of the request in its conversation, from 0.
    :param kind: answer or failure.
    :param body: the answer or the error, as JSON.
    """

    key: bytes
    nonce: bytes
    number: int
    claim: int
    ask: bytes
    work: bytes
    ordinal: int
    sample: int
    step: int
    kind: Kind
    body: bytes


_KINDS = {int(kind): kind for kind in Kind}
# Rows are told in about the order in which their facts came, so what is asked for next mostly stands near. A block holds some
# fifty facts, and is read nearly as fast as one; several, because rows that were in flight together lie in any order.
NEAR = 2**14
NEAR_BLOCKS = 8
# A megabyte holds a thousand of them, and is read as fast as one.
BLOCK = 2**20

_HEAD = struct.Struct("<16s8sQI16s16sQIIB")
_FRAME = struct.Struct("<II")  # length and CRC-32 of what follows


def _pack(fact: Fact) -> bytes:
    content = _HEAD.pack(*fact[:-1]) + fact.body
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


def _unpack(content: bytes) -> Fact:
    key, nonce, number, claim, ask, work, ordinal, sample, step, kind = _HEAD.unpack_from(content)
    return Fact(key, nonce, number, claim, ask, work, ordinal, sample, step, _KINDS[kind], content[_HEAD.size :])


def _content(block: bytes, at: int) -> bytes | None:
    """Return the content of the frame that stands there, if all of it is in the block."""
    start = at + _FRAME.size
    if len(block) < start:
        return None
    end = start + int(_FRAME.unpack_from(block, at)[0])
    return block[start:end] if end <= len(block) else None


class Scratch:
    """An append-only file of facts. Every append is one `write`: a killed process leaves whole frames and at most one torn one.

    :param path: the file; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self._file).st_size
        self._near: dict[int, bytes] = {}

    def append(self, facts: Iterable[Fact]) -> list[int]:
        """Write facts, and return where each stands."""
        offsets, frames, at = [], [], self.size
        for fact in facts:
            frame = _pack(fact)
            offsets.append(at)
            frames.append(frame)
            at += len(frame)
        data = b"".join(frames)
        written = os.write(self._file, data)
        if written < len(data):
            # A short write means a full disk. Cut it off, so that the frames before it stay readable.
            os.ftruncate(self._file, self.size)
            raise OSError(f"disk full: could not append {len(data)} bytes to {self.path}")
        self.size = at
        return offsets

    def at(self, offset: int) -> Fact:
        """Return the fact that stands at an offset."""
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
            length = _FRAME.unpack(os.pread(self._file, _FRAME.size, offset))[0]
            content = os.pread(self._file, length, offset + _FRAME.size)
        return _unpack(content)

    def read(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, Fact]]:
        """Yield (offset, fact) from `start`, up to the end or the first frame that is torn."""
        end = os.fstat(self._file).st_size if end is None else end
        offset, block, at = start, b"", 0
        while offset + _FRAME.size <= end:
            if len(block) < at + _FRAME.size:
                block, at = os.pread(self._file, BLOCK, offset), 0
            length, checksum = _FRAME.unpack_from(block, at)
            after = offset + _FRAME.size + length
            # The length is looked at first: a torn one may say 4 GB, and reading would make room for them.
            torn = length < _HEAD.size or after > end
            if not torn and len(block) < at + _FRAME.size + length:
                block, at = os.pread(self._file, max(BLOCK, _FRAME.size + length), offset), 0
            content = b"" if torn else block[at + _FRAME.size : at + _FRAME.size + length]
            if torn or zlib.crc32(content) != checksum:
                log.info("%s ends in a torn record at byte %d; the facts before it are used", self.path, offset)
                return
            yield offset, _unpack(content)
            offset, at = after, at + _FRAME.size + length

    def close(self) -> None:
        """Close the file and keep it."""
        os.close(self._file)

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        self.path.unlink(missing_ok=True)


SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("nonce", pa.binary(8), nullable=False),
        pa.field("number", pa.uint64(), nullable=False),
        pa.field("claim", pa.uint32(), nullable=False),
        pa.field("ask", pa.binary(16), nullable=False),
        pa.field("work", pa.binary(16), nullable=False),
        pa.field("ordinal", pa.uint64(), nullable=False),
        pa.field("sample", pa.uint32(), nullable=False),
        pa.field("step", pa.uint32(), nullable=False),
        pa.field("kind", pa.uint8(), nullable=False),
        pa.field("body", pa.large_binary(), nullable=False),
    ]
)
# The Arrow stream ends by itself, and readers ignore what follows it, so a segment opens in any Arrow tool.
_TRAILER = b"distil-1"
_CHECKSUM = 32

# As Python objects a megabyte or two at a time, and enough of them to be packed well.
BATCH_FACTS = 1024
# Our segments hold 8 MiB of facts, and one more fact, whose answer is as long as the endpoint made it. What others wrote may be
# any size, and unpack to a thousand times that; and several are read at a time.
MOST_BYTES = 64 * 2**20
_COVERED = re.compile(r"_distil/log/[A-Za-z0-9-]+/[A-Za-z0-9-]+\.arrow")


def encode_segment(facts: Iterable[Fact], covers: list[str] | None = None) -> bytes:
    """Return a log segment.

    :param facts: taken one batch after the other: as Python objects they are several times as large as in the segment.
    :param covers: for a compaction, names of the segments whose facts it holds.
    """
    schema = SCHEMA.with_metadata({"covers": "\n".join(covers)} if covers else None)
    sink = io.BytesIO()
    facts = iter(facts)
    with ipc.new_stream(sink, schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        while values := list(zip(*islice(facts, BATCH_FACTS), strict=True)):
            columns = [pa.array(column, field.type) for column, field in zip(values, SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    sink.write(hashlib.sha256(sink.getbuffer()).digest() + _TRAILER)
    return sink.getvalue()


def decode_segment(data: bytes) -> tuple[list[Fact], list[str]]:
    """Return the facts of a segment, and the names of the segments that it covers.

    Others can write where it was, so nothing is taken on trust: a checksum tells damage from data, not friend from foe.

    :raises ValueError: if it is damaged, too large, or of another format.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
    body, checksum, trailer = (
        data[: -_CHECKSUM - len(_TRAILER)],
        data[-_CHECKSUM - len(_TRAILER) : -len(_TRAILER)],
        data[-len(_TRAILER) :],
    )
    if trailer != _TRAILER or hashlib.sha256(body).digest() != checksum:
        raise ValueError("checksum or format differs")
    try:
        if _unpacked_size(body) > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_BYTES // 2**20} MiB")
        table = ipc.open_stream(body).read_all()
        # Offsets that lead out of their buffer read the memory of this process.
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise ValueError(f"it is no Arrow stream: {type(error).__name__}") from error
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"columns differ: {table.schema.names}")
    if any(column.null_count for column in table.columns):
        raise ValueError("it has nulls")
    columns = [table.column(name).to_pylist() for name in SCHEMA.names]
    *_, kinds, _bodies = columns
    columns[-2] = [Kind(kind) for kind in kinds]
    covers = (table.schema.metadata or {}).get(b"covers", b"").decode()
    names = covers.split("\n") if covers else []
    if not all(map(_COVERED.fullmatch, names)):
        raise ValueError("it covers what is no segment")
    return [Fact(*values) for values in zip(*columns, strict=True)], names


def _unpacked_size(stream: bytes) -> int:
    """Return how many bytes a stream's compressed buffers say they unpack to; Arrow makes room for that many.

    pyarrow has no bound for it, and does not tell the places of the buffers, so they are looked up in the messages' metadata,
    a FlatBuffer: see https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc.
    """
    total = 0
    for message in ipc.MessageReader.open_stream(pa.py_buffer(stream)):
        if message.type == "schema":
            continue
        if message.type != "record batch":
            raise ValueError(f"it holds a {message.type}")
        metadata, body = message.metadata.to_pybytes(), memoryview(message.body)
        batch = _follow(metadata, _field(metadata, _follow(metadata, 0), 2))
        buffers = _follow(metadata, _field(metadata, batch, 2))
        (count,) = struct.unpack_from("<I", metadata, buffers)
        for at in range(buffers + 4, buffers + 4 + 16 * count, 16):
            offset, length = struct.unpack_from("<qq", metadata, at)
            (unpacked,) = struct.unpack_from("<q", body, offset) if length else (0,)
            total += max(unpacked, 0)  # -1: not packed
    return total


def _follow(buffer: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", buffer, at)[0])


def _field(buffer: bytes, table: int, number: int) -> int:
    """Return where a field of a FlatBuffer's table stands."""
    fields = table - int(struct.unpack_from("<i", buffer, table)[0])
    return table + int(struct.unpack_from("<H", buffer, fields + 4 + 2 * number)[0])
