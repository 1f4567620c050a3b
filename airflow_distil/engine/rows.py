"""A row of the source: its dialogues, and what their outcomes make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from io import BufferedRandom, FileIO
from pathlib import Path
from typing import Any, NamedTuple

from airflow_distil.conversation import Row
from airflow_distil.datasets.diskmap import DiskMap
from airflow_distil.engine.dialogue import Dialogue, Outcome, Speech
from airflow_distil.exceptions import one_line

__all__ = ["Fate", "Twins", "dialogues", "fates", "is_skipped", "skipped"]

# From best to worst: a row that groups samples has the worst of theirs.
_STATUSES = ("ok", "skipped", "unparsed", "failed")
_GIVEN_UP = frozenset(_STATUSES) - {"ok"}


# Bytes of names that are only noted, read and written at a time; a whole number of them.
BUFFER_BYTES = 2**16
# Half of each hash: two that begin alike by chance would be counted as twins in every attempt, which does no harm.
NAME = 8


class Twins:
    """Counts, within one pass over the source, how many rows so far start with a request.

    As long as each row begins as one earlier work has logged it, requests are only noted: what was the first of its kind there
    is so here. A replay of all that is known counts nothing. (Who can forge that two rows began alike can forge their answers.)

    :param path: of two local files.
    :param expected: how many requests there will be.
    :param opens: tells whether that work logged this as the first request of this row and sample.
    """

    def __init__(
        self, path: Path, expected: int, opens: Callable[[bytes, int, int], bool] = lambda _key, _ordinal, _sample: False
    ) -> None:
        self._map = DiskMap(path, 4, key=NAME, expected=expected)
        self._opens = opens
        self._noted_path = path.with_suffix(".noted")
        self._noted: BufferedRandom | None = BufferedRandom(FileIO(self._noted_path, "w+"), BUFFER_BYTES)

    def count(self, key: bytes, ordinal: int, sample: int) -> int:
        """Return how many earlier rows start so, and count this one.

        :param key: what the request has if there is none.
        """
        name = key[:NAME]
        if self._noted is not None:
            if self._opens(key, ordinal, sample):
                self._noted.write(name)
                return 0
            self._count_noted(self._noted)
        return _number(self._map.update(name, _one_more))

    def close(self) -> None:
        """Forget the counts."""
        self._map.close()
        self._forget_noted()

    def _count_noted(self, noted: BufferedRandom) -> None:
        noted.seek(0)
        while names := noted.read(BUFFER_BYTES):
            for at in range(0, len(names), NAME):
                self._map.update(names[at : at + NAME], _one_more)
        self._forget_noted()

    def _forget_noted(self) -> None:
        if self._noted is not None:
            # Unbuffered: what is thrown away needs no room on a disk that is full.
            self._noted.raw.close()
            self._noted = None
            self._noted_path.unlink()


def _number(count: bytes | None) -> int:
    return int.from_bytes(count or b"", "little")


def _one_more(count: bytes | None) -> bytes:
    return (_number(count) + 1).to_bytes(4, "little")


def is_skipped(row: Row) -> bool:
    """Tell whether an upstream task of ours already gave up on this row."""
    status = row.get("distil_status")
    return isinstance(status, str) and status in _GIVEN_UP


def dialogues(speech: Speech, row: Row, ordinal: int, twins: Twins) -> list[Dialogue]:
    """Return a dialogue for each sample of a row, in order."""
    task = speech.task
    seen = row
    if task.input_mappings:
        seen = {**row, **{name: row[column] for name, column in task.input_mappings.items() if column in row}}
    return [Dialogue(speech, seen, ordinal, sample, twins.count) for sample in range(task.num_generations)]


class Fate(NamedTuple):
    """One output row: its sample (None if it groups them all), status, error, outcomes behind it, and columns.

    :param asked: False if this pass knew it from facts.
    """

    sample: int | None
    status: str
    error: str | None
    outcomes: list[Outcome]
    columns: Mapping[str, Any]
    transient: bool = False
    asked: bool = False


def skipped(speech: Speech, row: Row) -> list[Fate]:
    """Make output rows of a source row that an upstream task of ours gave up on."""
    task = speech.task
    samples = [None] if task.group_generations else list(range(task.num_generations))
    error = row.get("distil_error")
    # Of a column that anybody can have written.
    return [Fate(sample, "skipped", None if error is None else _shown(str(error)), [], {}) for sample in samples]


def fates(speech: Speech, outcomes: list[Outcome], *, asked: bool = False) -> Iterator[Fate]:
    """Make output rows of the outcomes of one source row."""
    if not speech.task.group_generations:
        for sample, outcome in enumerate(outcomes):
            yield Fate(sample, outcome.status, _shown(outcome.error), [outcome], outcome.columns, outcome.transient, asked)
        return
    names = speech.outputs
    bad = _worst(outcomes)
    columns = {name: [outcome.columns.get(name) for outcome in outcomes] for name in names}
    transient = any(outcome.transient for outcome in outcomes)
    yield Fate(None, bad.status, _shown(bad.error), outcomes, columns, transient, asked)


def _shown(error: str | None) -> str | None:
    """Return an error as every place may show it: it often quotes the row, the answer or the endpoint."""
    return None if error is None else one_line(error)


def _worst(outcomes: list[Outcome]) -> Outcome:
    """Return the worst outcome, the first of several."""
    return max(outcomes, key=lambda outcome: _STATUSES.index(outcome.status))
