"""The rows of the output on disk, as they were told: put in whenever each is finished, taken out in order.

A finished row leaves memory, and the types of its columns are known only when all rows are; so it waits here. Nothing depends
on this file: what it holds follows from the facts, and the next attempt tells it again from them.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import ipc

from airflow_distil.datasets.diskarray import DiskArray
from airflow_distil.datasets.frames import Frames
from airflow_distil.datasets.readers import without_surrogates
from airflow_distil.engine.columns import UNFIT
from airflow_distil.engine.metadata import Entry, entries
from airflow_distil.engine.rows import Fate
from airflow_distil.tasks.base import Task

__all__ = ["Line", "Told"]

# A write for each row would cost as much as the rest; nothing is lost with what is not written yet.
BUFFER_BYTES = 2**16
_PLACE = struct.Struct("<Q")


class Line(msgspec.Struct, array_like=True, gc=False):
    """One row of the output.

    :param sample: None if it groups them all.
    :param values: the task's outputs, in the order of their names.
    :param entries: what was asked for it.
    """

    sample: int | None
    status: str
    error: str | None
    values: list[Any]
    entries: list[Entry]


class Told:
    """Rows of the output, by number.

    :param folder: where its two files go; they are removed on `close`.
    :param task: whose rows they are.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self._task = task
        self._names = task.output_names
        self._lines = Frames(folder / "told")
        # Where each row stands, by its number: offsets plus one, so that zero means nowhere.
        self._places = DiskArray(folder / "places", _PLACE)
        self._waiting: list[tuple[int, bytes]] = []
        self._bytes = 0

    def put(self, number: int, fates: list[Fate]) -> None:
        """Keep a row of the source, or a candidate, with the rows of the output that it makes.

        :raises OSError: if the disk is full.
        """
        content = _packed([self._line(fate) for fate in fates])
        self._waiting.append((number, content))
        self._bytes += len(content)
        if self._bytes >= BUFFER_BYTES:
            self._write()

    def __iter__(self) -> Iterator[list[Line]]:
        """Yield what was put, by number, from 0 up to the first one that is missing."""
        self._write()
        for number in count():
            (place,) = self._places[number]
            if not place:
                return
            yield _LINES.decode(self._lines.at(place - 1))

    def close(self) -> None:
        """Remove the files."""
        self._lines.remove()
        self._places.close()

    def _line(self, fate: Fate) -> Line:
        values = [fate.columns.get(name) for name in self._names]
        return Line(fate.sample, fate.status, fate.error, values, entries(self._task, fate.outcomes))

    def _write(self) -> None:
        offsets = self._lines.append(content for _, content in self._waiting)
        for (number, _), offset in zip(self._waiting, offsets, strict=True):
            self._places[number] = (offset + 1,)
        self._waiting, self._bytes = [], 0


def _packed(lines: list[Line]) -> bytes:
    try:
        if all(_PLAIN.issuperset(map(type, line.values)) for line in lines):
            return _ENCODER.encode(lines)
    except (OverflowError, UnicodeEncodeError):
        pass  # a number too large, or a text with half a character
    return _ENCODER.encode([msgspec.structs.replace(line, values=[_held(value) for value in line.values]) for line in lines])


# What comes out as it went in.
_PLAIN = frozenset((str, int, float, bool, bytes, type(None)))
_INT64 = range(-(2**63), 2**63)
_ARROW, _PAIRS = 1, 2


def _held(value: Any) -> Any:
    """Return a value as what comes out as no other, as far as a column can tell; what Arrow does not know is text."""
    kind = type(value)
    if kind in _PLAIN:
        return str(value) if kind is int and value not in _INT64 else without_surrogates(value)
    if isinstance(value, dict):
        if all(type(key) is str for key in value):
            return {without_surrogates(key): _held(item) for key, item in value.items()}
        pairs = [(str(key) if isinstance(key, tuple) else _held(key), _held(item)) for key, item in value.items()]
        return msgspec.msgpack.Ext(_PAIRS, _ENCODER.encode(pairs))
    if isinstance(value, list | tuple | set | frozenset):
        return list(value) if {float} == set(map(type, value)) else [_held(item) for item in value]
    return _as_arrow(value)


def _as_arrow(value: Any) -> Any:
    try:
        column = pa.array([value])
        column.to_pylist()
    except UNFIT:
        return str(value)
    sink = io.BytesIO()
    with ipc.new_stream(sink, pa.schema([("value", column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], ["value"]))
    return msgspec.msgpack.Ext(_ARROW, sink.getvalue())


def _unpacked(code: int, data: memoryview) -> Any:
    if code == _PAIRS:
        return dict(msgspec.msgpack.decode(data, ext_hook=_unpacked))
    return ipc.open_stream(data).read_all().column(0)[0].as_py()


_ENCODER = msgspec.msgpack.Encoder()
_LINES = msgspec.msgpack.Decoder(list[Line], ext_hook=_unpacked)
