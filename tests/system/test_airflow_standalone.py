"""The harness itself: a system test must be able to trust that a run, a kill and a clear are what it says they are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.system.airflow_standalone import Standalone

DAG = '''
"""A task whose first try tells its process id and waits until the file is gone, so that it can be killed there."""
import os
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.bases.hook import BaseHook


@dag(schedule="@daily")
def waits():
    @task(retries=1, retry_delay=timedelta(seconds=0))
    def wait_in_first_try(marker: str):
        context = get_current_context()
        attempt = context["ti"].try_number
        print("this is try", attempt)
        if attempt == 1:
            Path(marker + ".new").write_text(str(os.getpid()))
            Path(marker + ".new").rename(marker)
        while attempt == 1 and Path(marker).exists():
            time.sleep(0.05)
        return {"try": attempt, "host": BaseHook.get_connection("somewhere").host}

    wait_in_first_try("{{ dag_run.conf['marker'] }}")


waits()
'''


@pytest.fixture(scope="module")
def waits(airflow: Standalone) -> str:
    """The DAG above, known to Airflow."""
    (airflow.dags / "waits.py").write_text(DAG)
    airflow.connect("somewhere", "http", host="first.example")
    airflow.connect("somewhere", "http", host="second.example", extra={"a": 1})
    airflow.wait_for_dag("waits")
    return "waits"


def test_killed_task_runs_again_and_can_be_cleared(airflow: Standalone, waits: str, tmp_path: Path):
    """A kill that hit the supervisor, or a clear that did nothing, would let every test of resuming pass without resuming."""
    marker = tmp_path / "marker"
    run = airflow.trigger(waits, {"marker": str(marker)})
    while not marker.exists():
        airflow.wait_for_task(waits, run, "wait_in_first_try", ["running"])
    pid = airflow.task_pid(waits, run, "wait_in_first_try")
    assert pid == int(marker.read_text())
    os.kill(pid, signal.SIGKILL)
    assert airflow.wait(waits, run) == "success"
    assert airflow.xcom(waits, run, "wait_in_first_try") == {"try": 2, "host": "second.example"}
    assert "this is try 1" in airflow.logs(waits, run, "wait_in_first_try", try_number=1)
    assert "this is try 2" in airflow.logs(waits, run, "wait_in_first_try", try_number=2)

    [cleared] = airflow.clear(waits, run, ["wait_in_first_try"])
    assert cleared["task_id"] == "wait_in_first_try"
    assert airflow.wait(waits, run) == "success"
    assert airflow.xcom(waits, run, "wait_in_first_try") == {"try": 3, "host": "second.example"}


def test_only_triggered_runs_exist(airflow: Standalone, waits: str):
    """A run that the schedule started would call the model a second time and make counts of calls differ by day."""
    runs = airflow.get(f"dags/{waits}/dagRuns")["dag_runs"]
    assert {each["run_type"] for each in runs} <= {"manual"}


def test_changed_dag_file_is_seen(airflow: Standalone, waits: str):
    """A test that changes a DAG and clears its run would otherwise see the old code run, and call that a success."""
    file = airflow.dags / "waits.py"
    file.write_text(DAG.replace('schedule="@daily"', 'schedule="@daily", description="changed"'))
    airflow.until(lambda: airflow.get(f"dags/{waits}")["description"] == "changed", 30, "the old DAG is still there")
