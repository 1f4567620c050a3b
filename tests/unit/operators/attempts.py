"""A context like Airflow's, for an operator's attempt without its database: the same fields, in plain objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from airflow_distil.engine.stop import Stop
from airflow_distil.operators.attempt import run


def context(*, map_index: int = -1, try_number: int = 1, max_tries: int = 0, started: str = "monday", **ti: Any) -> Any:
    """Return what `execute` is given; `xcoms` of its task instance holds what was pushed."""
    instance = SimpleNamespace(
        id=f"{map_index}/{try_number}/{max_tries}/{started}/{ti}",
        dag_id="dag",
        task_id="task",
        run_id="run",
        map_index=map_index,
        try_number=try_number,
        max_tries=max_tries,
        xcoms={},
    )
    instance.__dict__.update(ti)
    instance.xcom_push = instance.xcoms.__setitem__
    return {"ti": instance, "dag_run": SimpleNamespace(start_date=started), "outlet_events": {}}


def attempt(operator: Any, **of: Any) -> dict[str, Any]:
    """Run an operator as Airflow would after rendering, and return its summary."""
    operator.source = resolved(operator.source)
    return run(operator, context(**of), Stop())


def resolved(source: Any) -> Any:
    """Return a source as rendering leaves it: without the marks that keep rows from being templates."""
    if isinstance(source, list):
        return [resolved(item) for item in source]
    return source.resolve({}) if hasattr(source, "resolve") else source
