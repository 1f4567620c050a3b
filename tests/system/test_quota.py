"""Waiting for a quota, and the retry policy, with a real scheduler."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

from airflow_distil import open_dataset
from airflow_distil.testing import FakeLLM, Fault
from tests.system.airflow_standalone import Standalone

DAG = '''
"""A task that waits for its quota, and plain tasks with the retry policy."""
from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_distil.exceptions import Fatal, RateLimited
from airflow_distil.operators import DistilRetryPolicy, TextGenerationOperator

with DAG("quota", schedule=None):
    TextGenerationOperator(
        task_id="patient",
        source="{{ dag_run.conf['source'] }}",
        destination="{{ dag_run.conf['destination'] }}",
        llm_conn_id="quota_llm",
        max_concurrency=4,
        on_quota="reschedule",
        retries=0,
        # Airflow 3.3.2 fails a task that is due again before its scheduler has heard that it waits ("finished externally").
        retry_delay=timedelta(seconds=15),
    )

    @task(retries=1, retry_delay=timedelta(hours=1), retry_policy=DistilRetryPolicy())
    def told(ti=None):
        if ti.try_number == 1:
            raise RateLimited("come back soon", 1.0)

    @task(retries=3, retry_delay=timedelta(seconds=0), retry_policy=DistilRetryPolicy())
    def wrong_key():
        raise Fatal("no such key")

    told()
    wrong_key()
'''
ROWS = 40


def test_quota_is_waited_for_without_a_try_and_told_times_are_kept(airflow: Standalone, tmp_path: Path):
    """A quota that was gone at 2 a.m. used up all retries by 2:15, and the dataset of the night was missing."""
    source, destination = tmp_path / "rows.jsonl", f"file://{tmp_path}/out"
    source.write_text("".join(json.dumps({"instruction": f"question {n}"}) + "\n" for n in range(ROWS)))
    (airflow.dags / "quota.py").write_text(DAG)
    asked = count(1)
    gone = Fault(
        status=429,
        body={"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}},
        when=lambda _: next(asked) == ROWS // 2,
    )
    with FakeLLM(latency=0.02, faults=[gone]) as llm:
        airflow.connect("quota_llm", "distil_llm", host=llm.base_url, password="sk-quota", extra={"model": "fake"})
        run = airflow.trigger("quota", {"source": str(source), "destination": destination})
        assert airflow.wait("quota", run, timeout=180) == "failed"  # by `wrong_key`
        tasks = {each["task_id"]: each for each in airflow.task_instances("quota", run)}
        assert {name: each["state"] for name, each in tasks.items()} == {
            "patient": "success",
            "told": "success",
            "wrong_key": "failed",
        }
        assert {name: each["try_number"] for name, each in tasks.items()} == {"patient": 1, "told": 2, "wrong_key": 1}
        assert "going on in 0:00:15" in airflow.logs("quota", run, "patient")
        assert llm.answered.calls == ROWS
    rows = open_dataset(destination).to_table().to_pylist()
    assert [row["distil_row"] for row in rows] == list(range(ROWS))
    assert {row["distil_status"] for row in rows} == {"ok"}
