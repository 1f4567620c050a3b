"""A task run by itself: the same engine over rows in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from pyarrow import BufferReader

from airflow_distil.conversation import Row
from airflow_distil.datasets.manifest import Identity
from airflow_distil.datasets.source import numbered, open_source
from airflow_distil.datasets.stores import open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine.job import Job
from airflow_distil.tasks.generator import GeneratorTask

if TYPE_CHECKING:
    from airflow_distil.tasks.base import Task

__all__ = ["process"]


def process(task: Task, rows: list[Row]) -> list[Row]:
    """Run a task over rows (a generator over none) and return them with its columns; see `Task.process`."""
    source = numbered(task.candidates) if isinstance(task, GeneratorTask) else None
    if task.llm is None or not (rows or source):
        return []
    identity = Identity(task_id=task.name)
    with tempfile.TemporaryDirectory(prefix="airflow-distil-") as scratch:
        destination = URI.parse(scratch).join("dataset")
        store = open_store(destination)
        manifest = Job(
            task=task,
            llm=task.llm,
            source=source or open_source(rows, stores=open_store),
            store=store,
            destination=str(destination),
            identity=identity,
            ask=identity.ask(0, ""),
            # A notebook wants to see what it got; there is nothing to publish that could be half done.
            max_failure_ratio=1.0,
            scratch=Path(scratch),
        ).run(report=lambda _: None)
        tables = [pq.read_table(BufferReader(store.get(part.path))) for part in manifest.parts]
    return [_row(rows, written, task) for table in tables for written in table.to_pylist()]


def _row(rows: list[Row], written: Row, task: Task) -> Row:
    """Put the outputs beside the row as it was given, which Arrow may have converted."""
    added = [task.output_mappings.get(name, name) for name in (*task.output_names, "model_name")]
    given = rows[written["distil_row"]] if rows else {}
    row = {**given, **{name: written[name] for name in added}}
    if written["distil_status"] != "ok":
        row |= {name: written[name] for name in ("distil_status", "distil_error", "distil_metadata")}
    elif task.add_raw_input or task.add_raw_output:
        row["distil_metadata"] = written["distil_metadata"]
    return row
