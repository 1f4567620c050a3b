"""A DAG of one task over many rows; run as a script, it is one attempt at it, always at the same logical date."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from airflow_distil.operators import TextGenerationOperator

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def option(name: str, default: str = "") -> str:
    """Return what this attempt is told in its environment."""
    return os.environ.get(f"THOUSAND_{name}", default)


with DAG("thousand", schedule=None, start_date=WHEN) as dag:
    TextGenerationOperator(
        task_id="text",
        source=option("SOURCE"),
        destination=option("DESTINATION") or None,
        system_prompt=option("PROMPT") or None,
        on_existing=option("ON_EXISTING", "reuse"),  # type: ignore[arg-type]
        max_concurrency=int(option("CONCURRENCY", "16")),
        execution_timeout=timedelta(seconds=float(option("TIMEOUT"))) if option("TIMEOUT") else None,
    )

if __name__ == "__main__":
    if days := option("CLEARED"):
        # A cleared run starts at another time; the one that `dag.test` makes each time starts at its logical date.
        from airflow.models import dagrun

        create = dagrun.get_or_create_dagrun
        again = WHEN + timedelta(days=float(days))
        dagrun.get_or_create_dagrun = lambda **arguments: create(**{**arguments, "start_date": again})
    when = WHEN + timedelta(hours=float(option("RUN", "0")))
    run = dag.test(logical_date=when, run_after=when)
    sys.exit(0 if run.state == "success" else 1)
