"""Tasks whose connections hold keys, and fail in all the ways in which an endpoint can throw a key back."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_distil.operators import TextGenerationOperator

CASES = ("works", "wrong_key", "bad_rows", "unreachable", "in_url", "in_query", "typo")
HERE = os.environ.get("DISTIL_TEST_FOLDER", "/nowhere")

with DAG("leaks", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None):
    for case in CASES:
        TextGenerationOperator(
            task_id=case,
            source=[{"instruction": f"{case} {number}"} for number in range(2)],
            llm_conn_id=f"leak_{case}",
            destination=f"{HERE}/leaks/{case}",
            max_failure_ratio=1 if case in ("bad_rows", "unreachable") else 0,
            add_raw_input=True,
            add_raw_output=True,
        )
    TextGenerationOperator.partial(task_id="mapped", llm_conn_id="leak_works").expand(source=[[{"instruction": "m"}]])
