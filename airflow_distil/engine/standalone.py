"""A task run by itself: the same engine over rows in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from pyarrow import BufferReader

from airflow_distil.conversation import LLM, Row
from airflow_distil.datasets.manifest import Identity
from airflow_distil.datasets.source import Source, numbered, open_source
from airflow_distil.datasets.stores import open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine.asking import Asker
from airflow_distil.engine.job import Job
from airflow_distil.tasks.generator import GeneratorTask

if TYPE_CHECKING:
    from airflow_distil.tasks.base import Task

__all__ = ["process", "run_aside"]


def process(task: Task, rows: list[Row]) -> list[Row]:
    """Run a task over rows (a generator over none) and return them with its columns; see `Task.process`."""
    source = numbered(task.candidates) if isinstance(task, GeneratorTask) else None
    if task.llm is None or not (rows or source):
        return []
    with tempfile.TemporaryDirectory(prefix="airflow-distil-") as scratch:
        _, written = run_aside(task, task.llm, source or open_source(rows, stores=open_store), Path(scratch))
    return [_row(rows, each, task) for each in written]


def run_aside(task: Task, llm: LLM, source: Source, folder: Path) -> tuple[Asker, list[Row]]:
    """Run a task over a source as it always runs, but to a folder that nobody keeps.

    :return: what asked, and the rows of the dataset.
    """
    destination = URI.parse(str(folder)).join("dataset")
    store = open_store(destination)
    identity = Identity(task_id=task.name)
    job = Job(
        task=task,
        llm=llm,
        source=source,
        store=store,
        destination=str(destination),
        identity=identity,
        ask=identity.ask(0, ""),
        # People want to see what they got; there is nothing to publish that could be half done.
        max_failure_ratio=1.0,
        scratch=folder,
    )
    manifest = job.run(report=lambda _: None)
    written = [row for part in manifest.parts for row in pq.read_table(BufferReader(store.get(part.path))).to_pylist()]
    return job.progress.asker, written


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
