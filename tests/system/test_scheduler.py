"""The main job through a real scheduler: killed, retried, cleared, on a file system and on Google Cloud Storage."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_distil import open_dataset
from airflow_distil.testing import FakeLLM, Fault
from tests.contracts.stores.backends import BUCKET
from tests.system.airflow_standalone import Standalone

DAG = '''
"""One task over the rows and to the destination that the run is given."""
from datetime import timedelta

from airflow.sdk import DAG

from airflow_distil.operators import TextGenerationOperator

with DAG("generate", schedule=None):
    TextGenerationOperator(
        task_id="text",
        source="{{ dag_run.conf['source'] }}",
        destination="{{ dag_run.conf['destination'] }}",
        on_existing="{{ dag_run.conf.get('on_existing', 'reuse') }}",
        llm_conn_id="scheduled_llm",
        max_concurrency=8,
        max_failure_ratio=0.5,
        retries=1,
        retry_delay=timedelta(seconds=0),
    )
'''
ROWS = 160


@pytest.fixture
def llm(airflow: Standalone) -> Iterator[FakeLLM]:
    """A fake LLM that Airflow has a connection to."""
    (airflow.dags / "generate.py").write_text(DAG)
    with FakeLLM(latency=0.05) as llm:
        airflow.connect("scheduled_llm", "distil_llm", host=llm.base_url, password="sk-scheduled", extra={"model": "fake"})
        yield llm


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Rows to ask about."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"question {n}"}) + "\n" for n in range(ROWS)))
    return path


def rows_of(uri: str) -> list[dict[str, Any]]:
    """Return the rows of a published dataset."""
    return open_dataset(uri).to_table().to_pylist()


@pytest.mark.parametrize("scheme", ["file", "gs"])
def test_killed_task_goes_on_and_a_clear_costs_nothing(airflow: Standalone, llm: FakeLLM, source: Path, tmp_path: Path, scheme):
    """The promise of the package: SIGKILL in the middle, Airflow's own retry, and only unanswered requests are asked."""
    destination = f"file://{tmp_path}/out" if scheme == "file" else f"gs://{BUCKET}/{tmp_path.name}/out"
    run = airflow.trigger("generate", {"source": str(source), "destination": destination})
    llm.wait_for(ROWS // 2, timeout=120)
    os.kill(airflow.task_pid("generate", run, "text"), signal.SIGKILL)
    assert airflow.wait("generate", run, timeout=120) == "success"
    (task,) = airflow.task_instances("generate", run)
    assert task["try_number"] == 2

    rows = rows_of(destination)
    assert [row["instruction"] for row in rows] == [f"question {n}" for n in range(ROWS)]
    assert [row["distil_row"] for row in rows] == list(range(ROWS))
    assert all(row["generation"].endswith(row["instruction"]) for row in rows)
    paid = llm.answered.calls
    assert ROWS <= paid <= ROWS + llm.peak_in_flight

    summary = airflow.xcom("generate", run, "text")
    assert (summary["edition"], summary["rows"], summary["ok"]) == (1, ROWS, ROWS)
    assert "sk-scheduled" not in airflow.logs("generate", run, "text", try_number=2)

    airflow.clear("generate", run, ["text"])
    assert airflow.wait("generate", run, timeout=120) == "success"
    assert llm.answered.calls == paid
    assert airflow.xcom("generate", run, "text") == summary


def test_clear_asks_the_failed_and_unparsed_rows_and_no_other(airflow: Standalone, llm: FakeLLM, source: Path, tmp_path: Path):
    """A clear that asked everything would cost the whole dataset again; one that asked nothing would keep the bad rows."""
    bad = {f"question {n}" for n in (3, 50, 159)}
    body = {"error": {"message": "no", "code": "content_filter"}}
    llm.fail_next(Fault(status=400, body=body, when=lambda messages: messages[-1]["content"] in bad), times=len(bad))
    destination = f"file://{tmp_path}/out"
    run = airflow.trigger("generate", {"source": str(source), "destination": destination})
    assert airflow.wait("generate", run, timeout=120) == "success"
    first = airflow.xcom("generate", run, "text")
    assert (first["ok"], first["failed"]) == (ROWS - 3, 3)
    assert {row["distil_row"] for row in rows_of(destination) if row["distil_status"] == "failed"} == {3, 50, 159}

    before = dict(llm.calls)
    airflow.clear("generate", run, ["text"])
    assert airflow.wait("generate", run, timeout=120) == "success"
    second = airflow.xcom("generate", run, "text")
    assert (second["edition"], second["ok"], second["failed"]) == (2, ROWS, 0)
    again = {digest for digest, count in llm.calls.items() if count != before.get(digest, 0)}
    assert len(again) == 3
    assert sum(llm.calls.values()) == ROWS + 3


def test_cleared_while_running(airflow: Standalone, llm: FakeLLM, source: Path, tmp_path: Path):
    """Airflow ends the running try with SIGTERM and starts another: what the first had paid for must be there."""
    destination = f"file://{tmp_path}/out"
    run = airflow.trigger("generate", {"source": str(source), "destination": destination})
    llm.wait_for(ROWS // 2, timeout=120)
    airflow.clear("generate", run, ["text"])
    assert airflow.wait("generate", run, timeout=120) == "success"
    assert [row["instruction"] for row in rows_of(destination)] == [f"question {n}" for n in range(ROWS)]
    assert llm.answered.calls <= ROWS + llm.peak_in_flight
