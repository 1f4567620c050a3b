"""A DAG with a task class of its own, which a test edits."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_distil.conversation import ChatType, Row, user
from airflow_distil.operators import DistilOperator
from airflow_distil.tasks import Task

HERE = os.environ.get("DISTIL_TEST_FOLDER", "/nowhere")


class Classify(Task):
    """Asks for a word; "maybe" is none."""

    @property
    def inputs(self) -> list[str]:
        return ["instruction"]

    @property
    def outputs(self) -> list[str]:
        return ["word"]

    def format_input(self, input: Row) -> ChatType:
        return [user(f"One word: {input['instruction']}")]

    def format_output(self, output: str | None, input: Row) -> Row:
        return {"word": None if output == "maybe" else output}


with DAG("edited", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None):
    DistilOperator(
        task_id="classify",
        source=[{"instruction": f"row {number}"} for number in range(6)],
        task=Classify(max_parse_retries=0),
        destination=f"{HERE}/edited",
        max_failure_ratio=0.5,
    )
