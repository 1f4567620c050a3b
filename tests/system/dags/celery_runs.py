"""What the Celery stack is asked to do: one task, one with a time limit, and one mapped. A run says where from and where to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, get_current_context, task

from airflow_distil.operators import TextGenerationOperator

GIVEN: dict[str, Any] = {
    "destination": "{{ dag_run.conf['destination'] }}",
    "llm_conn_id": "{{ dag_run.conf['llm'] }}",
    "max_concurrency": 16,
    "retries": 2,
    "retry_delay": timedelta(seconds=2),
}
SOURCE = "{{ dag_run.conf['source'] }}"

with DAG("celery_text", schedule=None, max_active_runs=8):
    TextGenerationOperator(task_id="text", source=SOURCE, **GIVEN)

with DAG("celery_timed", schedule=None, max_active_runs=8):
    # Less than the rows take. On a busy machine half of it is gone before the first request, so there are more tries.
    TextGenerationOperator(task_id="text", source=SOURCE, execution_timeout=timedelta(seconds=8), **(GIVEN | {"retries": 4}))

with DAG("celery_mapped", schedule=None, max_active_runs=8):

    @task
    def sources() -> list[str]:
        """Name the sources of this run, one for each mapped task."""
        named: list[str] = get_current_context()["dag_run"].conf["sources"]
        return named

    TextGenerationOperator.partial(task_id="text", **GIVEN).expand(source=sources())
