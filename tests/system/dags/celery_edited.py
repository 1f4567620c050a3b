"""A DAG whose prompt is changed while its first try sleeps."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_distil.operators import TextGenerationOperator

with DAG("celery_edited", schedule=None, max_active_runs=8):
    TextGenerationOperator(
        task_id="text",
        source="{{ dag_run.conf['source'] }}",
        destination="{{ dag_run.conf['destination'] }}",
        llm_conn_id="{{ dag_run.conf['llm'] }}",
        template="{{ instruction }}",
        max_concurrency=16,
        retries=2,
        retry_delay=timedelta(seconds=2),
    )
