"""The write pass: every row of the source, in order, beside what was told of it, in columns whose types are known now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_distil.datasets.numbers import Numbers
from airflow_distil.datasets.values import python_values
from airflow_distil.engine.columns import Columns
from airflow_distil.engine.metadata import METADATA, Entry, earlier_entries, metadata_array
from airflow_distil.engine.progress import Progress
from airflow_distil.engine.stop import Stop
from airflow_distil.engine.told import Line, Told
from airflow_distil.exceptions import SourceError
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.generator import GeneratorTask

__all__ = ["OURS", "WritePass", "replaced_columns"]

# As Python objects at a time, some megabytes of answers.
ROWS_AT_ONCE = 512
OURS: dict[str, pa.DataType] = {
    "distil_row": pa.int64(),
    "distil_map": pa.int32(),
    "distil_sample": pa.int32(),
    "distil_status": pa.string(),
    "distil_error": pa.string(),
    "distil_metadata": METADATA,
}
"""Our own columns, after the task's."""


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
class WritePass:
    """One write pass; iterate `batches` once.

    :param source: batches of the source, from the first row.
    :param schema: schema of the source.
    :param told: what became of its rows.
    :param map_index: map index of the task instance, None if it is not mapped.
    """

    task: Task
    model: str
    columns: Columns
    source: Iterator[pa.RecordBatch]
    schema: pa.Schema
    told: Told
    progress: Progress
    stop: Stop
    map_index: int | None
    numbers: Numbers = field(default_factory=Numbers)

    @property
    def output_schema(self) -> pa.Schema:
        """Schema of the output: what the source has and is not replaced, the task's columns, the model, ours."""
        kept = [self.schema.field(name) for name in self._kept()]
        return pa.schema([*kept, *(pa.field(name, kind) for name, kind in self._output_types().items())])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the output.

        :raises Stopped: if it was told to stop.
        :raises SourceError: if the source has not as many rows as were told of.
        """
        told = iter(self.told)
        schema = self.output_schema
        # A source batch times many generations would be many answers in memory at a time.
        most = max(1, ROWS_AT_ONCE // self.task.num_generations)
        ordinal = 0
        for batch in self.source:
            for start in range(0, batch.num_rows, most):
                self.stop.check()
                piece = batch.slice(start, most)
                rows = list(islice(told, piece.num_rows))
                if rows:  # else it is a candidate that was not needed
                    written = self._batch(piece, ordinal, rows, schema)
                    ordinal += len(rows)
                    self.progress.written += written.num_rows
                    yield written
        if self.progress.written < self.progress.tally.done:
            raise SourceError("The source has fewer rows than it had a moment ago.")

    def _batch(self, source: pa.RecordBatch, first: int, rows: list[list[Line]], schema: pa.Schema) -> pa.RecordBatch:
        # Source columns are taken over as they are: what Arrow can hold comes out as it went in.
        positions = [position for position, lines in enumerate(rows) for _ in lines]
        lines = list(chain.from_iterable(rows))
        taken = pa.array(positions, pa.int64())
        names = self.task.output_names
        metadata = [[*before, *line.entries] for before, line in zip(self._earlier(source, taken), lines, strict=True)]
        arrays = [source.column(name).take(taken) for name in self._kept()]
        arrays += [self._task_array(name, [line.values[at] for line in lines]) for at, name in enumerate(names)]
        arrays += [
            pa.array([self.model] * len(lines), pa.string()),
            pc.add(taken, first),
            pa.array([self.map_index] * len(lines), pa.int32()),
            pa.array([line.sample for line in lines], pa.int32()),
            pa.array([line.status for line in lines], pa.string()),
            pa.array([line.error for line in lines], pa.string()),
            metadata_array(metadata),
        ]
        batch = pa.record_batch(arrays, schema=schema)
        self.numbers.add(batch, [self.task.output_mappings.get(name, name) for name in names])
        return batch

    def _earlier(self, source: pa.RecordBatch, taken: pa.Array) -> Iterable[list[Entry]]:
        """Return the entries that the rows of the source came with."""
        if "distil_metadata" not in source.schema.names:
            return repeat([], len(taken))
        return map(earlier_entries, python_values(source.column("distil_metadata").take(taken)))

    def _task_array(self, name: str, values: list[Any]) -> pa.Array:
        if not self.task.group_generations:
            return self.columns.array(name, values)
        flat = self.columns.array(name, [sample for samples in values for sample in samples or ()])
        lengths = [None if samples is None else len(samples) for samples in values]
        offsets, at = [], 0
        for length in lengths:
            offsets.append(None if length is None else at)
            at += length or 0
        return pa.ListArray.from_arrays(pa.array([*offsets, at], pa.int32()), flat)

    def _kept(self) -> list[str]:
        replaced = replaced_columns(self.task, self.schema)
        return [name for name in self.schema.names if name not in replaced]

    def _output_types(self) -> dict[str, pa.DataType]:
        task = self.task
        types = {}
        for name in task.output_names:
            kind = self.columns.type(name)
            types[task.output_mappings.get(name, name)] = pa.list_(kind) if task.group_generations else kind
        return {**types, task.output_mappings.get("model_name", "model_name"): pa.string(), **OURS}
