"""DAG files run by `dag.test()` in this process, and what Airflow keeps of them."""

from __future__ import annotations

import shutil
import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import UTC, datetime
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.sdk.definitions.dag import _run_task
from airflow.utils.session import create_session
from sqlalchemy import select

__all__ = ["WHEN", "Finished", "clear", "database_text", "load", "run"]

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class Finished:
    """What a run left behind: states and XComs by task id, lists of mapped instances by map index."""

    def __init__(self, dag: DAG, state: str) -> None:
        self.state = state
        self.states: dict[str, Any] = defaultdict(list)
        self.xcoms: dict[str, Any] = defaultdict(list)
        self.progress: dict[str, Any] = {}
        with create_session() as session:
            for ti in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag.dag_id)):
                self._keep(self.states, ti.task_id, ti.map_index, str(ti.state))
            for xcom in session.scalars(select(XComModel).where(XComModel.dag_id == dag.dag_id)):
                kept = {"return_value": self.xcoms, "distil_progress": self.progress}.get(xcom.key)
                if kept is not None:
                    self._keep(kept, xcom.task_id, xcom.map_index, XComModel.deserialize_value(xcom))

    def _keep(self, kept: dict[str, Any], task_id: str, map_index: int, value: Any) -> None:
        if map_index < 0:
            kept[task_id] = value
            return
        if not isinstance(kept.get(task_id), dict):
            kept[task_id] = {}
        kept[task_id][map_index] = value


def load(home: Path, file: Path) -> dict[str, DAG]:
    """Copy a DAG file into the DAGs folder, and parse it there as Airflow does."""
    target = home / "dags" / file.name
    shutil.copy(file, target)
    # Python believes a compiled file whose source has the same size and second: an edit in a test may have both.
    Path(cache_from_source(str(target))).unlink(missing_ok=True)
    bag = DagBag(str(target), bundle_path=home / "dags", bundle_name="dags-folder")
    assert bag.import_errors == {}
    return dict(bag.dags)


def run(dag: DAG) -> Finished:
    """Run a DAG at its one logical date."""
    return Finished(dag, str(dag.test(logical_date=WHEN, run_after=WHEN).state))


def clear(dag: DAG) -> Finished:
    """Clear the finished run as the UI does, and run its task instances again, in the order of the DAG."""
    with create_session() as session:
        tis = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag.dag_id)).all()
        clear_task_instances(list(tis), session)
    for task in dag.topological_sort():
        with create_session() as session:
            query = select(TaskInstance).where(TaskInstance.dag_id == dag.dag_id, TaskInstance.task_id == task.task_id)
            instances = session.scalars(query.order_by(TaskInstance.map_index)).all()
            for ti in instances:
                ti.try_number += 1
        for ti in instances:
            _run_task(ti=ti, task=dag.task_dict[ti.task_id])
    with create_session() as session:
        state = session.scalar(select(DagRun.state).where(DagRun.dag_id == dag.dag_id))
    return Finished(dag, str(state))


def database_text(home: Path) -> str:
    """Return the whole metadata database as text."""
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        return "\n".join(database.iterdump())
