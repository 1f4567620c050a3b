"""A DAG of one task over a thousand rows; run as a script, it is one attempt at it, always at the same logical date."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from airflow_distil.operators import TextGenerationOperator

WHEN = datetime(2026, 1, 1, tzinfo=UTC)

with DAG("thousand", schedule=None, start_date=WHEN) as dag:
    TextGenerationOperator(
        task_id="text",
        source=os.environ.get("THOUSAND_SOURCE", ""),
        destination=os.environ.get("THOUSAND_DESTINATION"),
        max_concurrency=int(os.environ.get("THOUSAND_CONCURRENCY", "16")),
        execution_timeout=timedelta(seconds=float(os.environ["THOUSAND_TIMEOUT"]))
        if "THOUSAND_TIMEOUT" in os.environ
        else None,
    )

if __name__ == "__main__":
    run = dag.test(logical_date=WHEN, run_after=WHEN)
    sys.exit(0 if run.state == "success" else 1)
