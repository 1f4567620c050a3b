"""The write pass: tell every row again, in order, from the facts alone, and write it down with its fate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any

import pyarrow as pa

from airflow_distil.conversation import Row
from airflow_distil.datasets.log import Kind
from airflow_distil.datasets.numbers import Numbers
from airflow_distil.datasets.source import rows_of
from airflow_distil.engine.columns import Columns
from airflow_distil.engine.dialogue import Dialogue, Outcome, Speech, Turn
from airflow_distil.engine.facts import Facts
from airflow_distil.engine.rows import Fate, Twins, dialogues, fates, is_skipped, skipped
from airflow_distil.engine.selection import Selection
from airflow_distil.engine.stop import Stop
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.generator import GeneratorTask

__all__ = ["OURS", "Bill", "WritePass", "replaced_columns"]

# A source batch times many generations would be many answers in memory at a time.
ROWS_AT_ONCE = 512
_ENTRY = pa.schema(
    [
        pa.field("task", pa.string()),
        pa.field("model", pa.string()),
        pa.field("input_tokens", pa.int64()),
        pa.field("output_tokens", pa.int64()),
        pa.field("cost_usd", pa.float64()),
        pa.field("finish_reason", pa.string()),
        pa.field("latency_s", pa.float64()),
        pa.field("attempts", pa.int32()),
        pa.field("error", pa.string()),
        pa.field("raw_input", pa.string()),
        pa.field("raw_output", pa.string()),
    ]
)
METADATA = pa.list_(pa.struct(list(_ENTRY)))
_NAMES = _ENTRY.names
OURS: dict[str, pa.DataType] = {
    "distil_row": pa.int64(),
    "distil_map": pa.int32(),
    "distil_sample": pa.int32(),
    "distil_status": pa.string(),
    "distil_error": pa.string(),
    "distil_metadata": METADATA,
}
"""Our own columns, after the task's."""


# What Arrow raises for a value of another type.
_UNFIT = (pa.ArrowException, OverflowError)


def replaced_columns(task: Task, schema: pa.Schema) -> set[str]:
    """Return the source columns that give way to ours.

    A generator reads nothing but numbers of candidates. `distil_…` is ours. The `model_name` of an upstream task gives way too,
    unless this task's is mapped to another name; where no task of ours was upstream, the name is the user's own.
    """
    if isinstance(task, GeneratorTask):
        return set(schema.names)
    chained = "distil_status" in schema.names and "model_name" not in task.output_mappings
    return {*OURS, "model_name"} if chained else {*OURS}


@dataclass(slots=True)
class Bill:
    """Tokens and dollars behind the rows, each answer counted once. None where the endpoint or the price is unknown."""

    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cost_usd: float | None = 0.0

    def add(self, body: dict[str, Any]) -> None:
        """Add an answer."""
        tokens_in, tokens_out = body.get("usage", (None, None))
        self.input_tokens = _plus(self.input_tokens, tokens_in)
        self.output_tokens = _plus(self.output_tokens, tokens_out)
        self.cost_usd = _plus(self.cost_usd, body.get("cost"))


@dataclass(slots=True)
class WritePass:
    """One write pass; iterate `batches` once.

    :param source: batches of the source, from the first row.
    :param schema: schema of the source.
    :param map_index: map index of the task instance, None if it is not mapped.
    """

    speech: Speech
    columns: Columns
    source: Iterator[pa.RecordBatch]
    schema: pa.Schema
    facts: Facts
    twins: Twins
    selection: Selection
    stop: Stop
    map_index: int | None
    bill: Bill = field(default_factory=Bill)
    numbers: Numbers = field(default_factory=Numbers)

    @property
    def output_schema(self) -> pa.Schema:
        """Schema of the output: what the source has and is not replaced, the task's columns, the model, ours."""
        kept = [self.schema.field(name) for name in self._kept()]
        return pa.schema([*kept, *(pa.field(name, kind) for name, kind in self._output_types().items())])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the output.

        :raises TaskDefinitionError: if a prompt is not the one that was asked.
        :raises TooManyFailures: if the dataset must not be published.
        """
        ordinal = 0
        schema = self.output_schema
        for batch in self.source:
            if not self.selection.missing:
                return
            written: list[tuple[int, int, Row, Fate]] = []
            for position, row in enumerate(rows_of(batch)):
                if not self.selection.missing:
                    break
                told = self.selection.take(ordinal, self._tell(ordinal, row))
                written += [(position, number, row, fate) for number, fate in told]
                ordinal += 1
                if len(written) >= ROWS_AT_ONCE:
                    yield self._batch(batch, written, schema)
                    written = []
            if written:
                yield self._batch(batch, written, schema)

    def _tell(self, ordinal: int, row: Row) -> list[Fate]:
        self.stop.check()
        self.selection.begin()
        if is_skipped(row):
            return skipped(self.speech, row)
        outcomes = [self._outcome(dialogue) for dialogue in dialogues(self.speech, row, ordinal, self.twins)]
        # Also of candidates that become no row: they were paid for.
        for outcome in outcomes:
            for _, fact, body in outcome.trace:
                if fact.kind is Kind.ANSWER or "usage" in body:
                    self.bill.add(body)
        return list(fates(self.speech, outcomes))

    def _outcome(self, dialogue: Dialogue) -> Outcome:
        match dialogue.advance(self.facts.find):
            case Outcome() as outcome:
                return outcome
            case turns:
                raise TaskDefinitionError(
                    f"Task {self.speech.task.name!r} does not make the same prompt twice: row {dialogue.ordinal}, sample "
                    f"{dialogue.sample} now asks {turns[0].prompt}, which was not asked before. Nothing is published; the "
                    "answers are kept. Make format_input, converse and accept depend on what they are given only."
                )

    def _batch(self, batch: pa.RecordBatch, written: list[tuple[int, int, Row, Fate]], schema: pa.Schema) -> pa.RecordBatch:
        # Source columns are taken over as they are: what Arrow can hold comes out as it went in.
        positions, ordinals, rows, told = zip(*written, strict=True)
        task = self.speech.task
        taken = pa.array(positions, pa.int64())
        arrays = [batch.column(name).take(taken) for name in self._kept()]
        arrays += [self._task_array(name, [fate.columns.get(name) for fate in told]) for name in task.output_names]
        arrays += [
            pa.array([self.speech.model] * len(written), pa.string()),
            pa.array(ordinals, pa.int64()),
            pa.array([self.map_index] * len(written), pa.int32()),
            pa.array([fate.sample for fate in told], pa.int32()),
            pa.array([fate.status for fate in told], pa.string()),
            pa.array([fate.error for fate in told], pa.string()),
            _metadata_array(list(map(self._metadata, rows, told))),
        ]
        written_batch = pa.record_batch(arrays, schema=schema)
        self.numbers.add(written_batch, [task.output_mappings.get(name, name) for name in task.output_names])
        return written_batch

    def _task_array(self, name: str, values: list[Any]) -> pa.Array:
        if not self.speech.task.group_generations:
            return self.columns.array(name, values)
        flat = self.columns.array(name, [sample for samples in values for sample in samples or ()])
        lengths = [None if samples is None else len(samples) for samples in values]
        offsets, at = [], 0
        for length in lengths:
            offsets.append(None if length is None else at)
            at += length or 0
        return pa.ListArray.from_arrays(pa.array([*offsets, at], pa.int32()), flat)

    def _metadata(self, row: Row, fate: Fate) -> list[tuple[Any, ...]]:
        """Return an entry for each request behind a row, in the order of `METADATA`."""
        earlier = row.get("distil_metadata")
        entries = []
        if isinstance(earlier, list):
            entries = [tuple(map(entry.get, _NAMES)) for entry in earlier if isinstance(entry, dict)]
        for outcome in fate.outcomes:
            entries += [self._entry(turn, body, keep_raw=outcome.status == "unparsed") for turn, _, body in outcome.trace]
        return entries

    def _entry(self, turn: Turn, body: dict[str, Any], *, keep_raw: bool) -> tuple[Any, ...]:
        task = self.speech.task
        return (
            task.name,
            body.get("model") or turn.request.model,
            *body.get("usage", (None, None)),
            body.get("cost"),
            body.get("finish_reason"),
            body.get("latency"),
            body.get("attempts"),
            body.get("error"),
            turn.prompt if task.add_raw_input else None,
            body.get("text") if task.add_raw_output or keep_raw else None,
        )

    def _kept(self) -> list[str]:
        replaced = replaced_columns(self.speech.task, self.schema)
        return [name for name in self.schema.names if name not in replaced]

    def _output_types(self) -> dict[str, pa.DataType]:
        task = self.speech.task
        types = {}
        for name in task.output_names:
            kind = self.columns.type(name)
            types[task.output_mappings.get(name, name)] = pa.list_(kind) if task.group_generations else kind
        return {**types, task.output_mappings.get("model_name", "model_name"): pa.string(), **OURS}


def _metadata_array(metadata: list[list[tuple[Any, ...]]]) -> pa.Array:
    try:
        entries = _entries(chain.from_iterable(metadata))
    except _UNFIT:
        # The source's own entries can be anybody's; those that are not like ours are left out.
        metadata = [[entry for entry in row if _fits(entry)] for row in metadata]
        entries = _entries(chain.from_iterable(metadata))
    offsets = pa.array([0, *accumulate(map(len, metadata))], pa.int32())
    return pa.ListArray.from_arrays(offsets, entries, METADATA)


def _entries(metadata: Iterable[tuple[Any, ...]]) -> pa.StructArray:
    # Field by field: Arrow takes three times as long to find the fields in each entry.
    columns = list(zip(*metadata, strict=True)) or [()] * len(_ENTRY)
    fields = [pa.array(column, field.type) for column, field in zip(columns, _ENTRY, strict=True)]
    return pa.StructArray.from_arrays(fields, fields=list(_ENTRY))


def _fits(entry: tuple[Any, ...]) -> bool:
    try:
        _entries([entry])
    except _UNFIT:
        return False
    return True


def _plus(total: Any, value: Any) -> Any:
    return None if total is None or value is None else total + value
