"""`python -m airflow_distil preview dags/my_dag.py my_task`: look at a task of a DAG file before it runs."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from airflow_distil import preview
from airflow_distil.engine.preview import unanswered
from airflow_distil.exceptions import DistilError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 1 if no row that was asked was answered, 2 if what it was given is wrong."""
    parser = argparse.ArgumentParser(prog="python -m airflow_distil", description="airflow-distil on the command line.")
    commands = parser.add_subparsers(dest="command", required=True)
    look = commands.add_parser(
        "preview", help="show prompts of a task, ask the model some of them, and estimate the cost of all"
    )
    look.add_argument("file", type=Path, help="the DAG file")
    look.add_argument("task", help="id of the task; with --dag if several DAGs of the file have one")
    look.add_argument("--dag", help="id of the DAG")
    look.add_argument("--source", help="URI of the rows, where the task's source is a template or comes from upstream")
    look.add_argument("--rows", type=int, default=5, help="rows to show")
    look.add_argument("--ask", type=int, default=0, help="how many to ask; they are shown, and paid for")
    given = parser.parse_args(arguments)
    try:
        # Airflow logs to standard output, among what was asked for.
        with redirect_stdout(sys.stderr):
            found = preview(_task(given.file, given.task, given.dag), given.source, rows=given.rows, ask=given.ask)
    except (DistilError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    sys.stdout.write(f"{found!r}\n")
    return int(unanswered(found.samples))


def _task(file: Path, task_id: str, dag_id: str | None) -> Any:
    """Return a task of a DAG file, which is parsed as Airflow does."""
    from airflow_distil.exceptions import SourceError, TaskDefinitionError

    # Before Airflow is imported: connections are looked for where its own command line does, which is also in the database, if
    # this machine may reach it.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
    if not file.is_file():
        raise SourceError(f"There is no DAG file {file}.")
    from airflow.dag_processing.dagbag import DagBag

    sys.path.append(str(file.resolve().parent))  # as Airflow does with the DAGs folder
    bag = DagBag(str(file))
    if bag.import_errors:
        why = next(iter(bag.import_errors.values())).strip().rpartition("\n")[2]  # Airflow has logged the whole of it
        raise TaskDefinitionError(f"{file} cannot be imported: {why}")
    dags = [dag for dag in bag.dags.values() if dag_id in (None, dag.dag_id)]
    found = [dag.task_dict[task_id] for dag in dags if task_id in dag.task_dict]
    if len(found) == 1:
        return found[0]
    there = ", ".join(sorted(f"{dag.dag_id}.{name}" for dag in bag.dags.values() for name in dag.task_dict)) or "none"
    if found:
        raise TaskDefinitionError(f"Several DAGs of {file} have a task {task_id!r}: say which with --dag. Tasks: {there}.")
    raise TaskDefinitionError(f"{file} has no task {task_id!r}{f' in a DAG {dag_id!r}' if dag_id else ''}. It has: {there}.")


if __name__ == "__main__":
    sys.exit(main())
