"""Who is asking: a task instance as the commit protocol sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_distil.datasets.manifest import Identity

__all__ = ["ask_of", "identity_of"]


def identity_of(context: Mapping[str, Any]) -> Identity:
    """Return whose work it is: the same for every try of a task instance, and after a clear."""
    ti = context["ti"]
    return Identity(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index if ti.map_index is not None else -1,
        # Task loops are new in Airflow 3.4; before, no context has one.
        iteration=getattr(context.get("loop"), "index", -1),
    )


def ask_of(context: Mapping[str, Any]) -> str:
    """Return which "please do it" this is: the same for every retry, another after a clear."""
    ti, dag_run = context["ti"], context["dag_run"]
    return identity_of(context).ask(ti.max_tries, str(dag_run.start_date))
