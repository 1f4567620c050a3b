"""Facts: what is known of requests that were sent, as records in a local file and as immutable segments beside the output.

A *fact* is an answer, or a permanent failure, of one request of one conversation. It never changes; where the same question
was asked twice there are two facts, told apart by their ids. A fact travels in two forms: a frame in a local scratch file,
written at once (a killed process loses nothing of what its host keeps), and a row of an Arrow segment in the destination's
log. Both carry the same fields, so that any attempt, anywhere, can go on from them.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from airflow_distil.datasets.frames import Frames

__all__ = ["BATCH_FACTS", "MOST_BYTES", "Fact", "Kind", "Scratch", "Segment", "decode_segment", "encode_segment"]


class Kind(IntEnum):
    """What became of a request."""

    ANSWER = 0
    """The model answered."""
    BAD_ROW = 1
    """The endpoint refused this request for good. Holds within its ask only."""
    TRANSIENT = 2
    """All retries failed. Not a fact: it is written nowhere, and the next attempt asks again."""


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
_HEAD = struct.Struct("<16s8sQI16s16sQIIB")


def _pack(fact: Fact) -> bytes:
    return _HEAD.pack(*fact[:-1]) + fact.body


def _unpack(content: bytes) -> Fact:
    key, nonce, number, claim, ask, work, ordinal, sample, step, kind = _HEAD.unpack_from(content)
    return Fact(key, nonce, number, claim, ask, work, ordinal, sample, step, _KINDS[kind], content[_HEAD.size :])


class Scratch:
    """A local file of facts.

    :param path: the file; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self._frames = Frames(path)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self._frames.size

    def append(self, facts: Iterable[Fact]) -> list[int]:
        """Write facts, and return the offset of each.

        :raises OSError: if the disk is full.
        """
        return self._frames.append(map(_pack, facts))

    def at(self, offset: int) -> Fact:
        """Return the fact at an offset."""
        return _unpack(self._frames.at(offset))

    def read(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, Fact]]:
        """Yield (offset, fact) from `start`, up to the end or the first one that is torn."""
        for offset, content in self._frames.read(start, end):
            if len(content) < _HEAD.size:  # whole, and no fact of ours
                return
            yield offset, _unpack(content)

    def close(self) -> None:
        """Close the file and keep it."""
        self._frames.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self._frames.remove()


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
# Our segments hold some 4 MiB of facts, and one more fact, whose answer is as long as the endpoint made it. What others wrote
# may be any size, and unpack to a thousand times that; and several are read at a time.
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
    with ipc.new_stream(sink, schema, options=ipc.IpcWriteOptions(compression="zstd", use_threads=False)) as writer:
        while values := list(zip(*islice(facts, BATCH_FACTS), strict=True)):
            columns = [pa.array(column, field.type) for column, field in zip(values, SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    sink.write(hashlib.sha256(sink.getbuffer()).digest() + _TRAILER)
    return sink.getvalue()


class Segment(NamedTuple):
    """What a log segment holds.

    :param facts: made as they are taken: a segment's at a time are several times as large as it is.
    :param covers: for a compaction, names of the segments whose facts it holds.
    """

    facts: Iterator[Fact]
    covers: list[str]


def decode_segment(data: bytes) -> Segment:
    """Return what a segment holds.

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
    if table.num_rows and pc.max(table.column("kind")).as_py() not in _KINDS:
        raise ValueError("it has facts of an unknown kind")
    covers = (table.schema.metadata or {}).get(b"covers", b"").decode()
    names = covers.split("\n") if covers else []
    if not all(map(_COVERED.fullmatch, names)):
        raise ValueError("it covers what is no segment")
    return Segment(_facts(table), names)


def _facts(table: pa.Table) -> Iterator[Fact]:
    for batch in filter(len, table.to_batches(BATCH_FACTS)):
        *ids, kinds, bodies = map(_values, batch.columns)
        yield from map(Fact, *ids, map(_KINDS.__getitem__, kinds), bodies)


def _values(column: pa.Array) -> Iterable[Any]:
    # Most of what facts of one attempt say of themselves is the same for all of them.
    if pc.all(pc.equal(column, column[0])).as_py():
        return repeat(column[0].as_py(), len(column))
    values: list[Any] = column.to_pylist()
    return values


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
