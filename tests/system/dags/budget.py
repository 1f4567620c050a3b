"""A DAG with a budget, which a test raises."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_distil.operators import TextGenerationOperator

HERE = os.environ.get("DISTIL_TEST_FOLDER", "/nowhere")
MAX_COST_USD = 12.0

with DAG("budget", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None):
    TextGenerationOperator(
        task_id="answers",
        source=[{"instruction": f"row {number}"} for number in range(30)],
        destination=f"{HERE}/budget",
        max_cost_usd=MAX_COST_USD,
        retries=3,
    )
