"""The night of a preference-data engineer, on a fake model and on a real one: approved, published, and cleared."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_distil import open_dataset
from airflow_distil.tasks import templates
from airflow_distil.tasks.evol_instruct import INSTRUCTION_MUTATIONS
from airflow_distil.tasks.self_instruct import SelfInstruct
from airflow_distil.tasks.ultrafeedback import UltraFeedback
from airflow_distil.testing import FakeLLM, sensible
from tests.system.airflow_standalone import Standalone
from tests.system.dagtest import load
from tests.system.dagtest import run as run_dag
from tests.system.local_llm import LocalLLM

DAGS = Path(__file__).resolve().parents[2] / "dags"
DAG = "nightly_preferences"
MODEL_TASKS = ["ask", "evolve", "answer", "answer_second", "judge"]
TASKS = ["topics", "instructions", "prompts", "candidates", *MODEL_TASKS, "pairs"]


@pytest.fixture(scope="module")
def dag_file(airflow: Standalone) -> None:
    """The DAG as it is shipped, with its text beside it."""
    shutil.copytree(DAGS / "data", airflow.dags / "data", dirs_exist_ok=True)
    shutil.copy(DAGS / f"{DAG}.py", airflow.dags)


def approve(airflow: Standalone, run: str, timeout: float = 120) -> dict[str, Any]:
    """Wait for the run to ask a person, say yes, and return what was asked."""
    states = ["awaiting_input", "failed", "upstream_failed"]
    ti = airflow.wait_for_task(DAG, run, "approve", states, timeout=timeout)
    assert ti["state"] == "awaiting_input", ti
    # No person answers within milliseconds. Where a test does, the scheduler learns of the pause after the answer, and takes it
    # for a task that was lost (Airflow 3.3.2); only its log tells when it knows.
    noticed = re.compile(rf"TaskInstance Finished: .*ti_id={ti['id']},")
    deadline = time.monotonic() + timeout
    while not noticed.search((airflow.home / "standalone.log").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    path = f"dags/{DAG}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    asked: dict[str, Any] = airflow.get(path)
    airflow.patch(path, {"chosen_options": ["Approve"], "params_input": {}})
    return asked


def clear(airflow: Standalone, run: str) -> None:
    """Clear the whole run, as the UI's button at the run does."""
    airflow.post(f"dags/{DAG}/dagRuns/{run}/clear", {"dry_run": False, "only_failed": False})


def summaries(airflow: Standalone, run: str) -> dict[str, Any]:
    """Return each task's summary."""
    return {task: airflow.xcom(DAG, run, task) for task in TASKS}


def rows_of(summary: Any) -> list[dict[str, Any]]:
    """Return the rows of a published dataset."""
    rows: list[dict[str, Any]] = open_dataset(summary).to_table().to_pylist()
    return rows


def asset_events(airflow: Standalone, run: str) -> list[dict[str, Any]]:
    """Return what the run told of its asset."""
    events: list[dict[str, Any]] = airflow.get("assets/events", source_dag_id=DAG, source_run_id=run)["asset_events"]
    return events


@pytest.mark.usefixtures("dag_file")
def test_night_on_a_fake_model(airflow: Standalone):
    """A join that mixes rows, a pair of equals, an approval without figures; or a clear that pays for answers it has."""
    with FakeLLM(sensible) as llm, FakeLLM(sensible) as second:
        for name, server in (("default", llm), ("second", second)):
            airflow.connect(f"distil_llm_{name}", "distil_llm", host=server.base_url, extra={"model": f"fake-{name}"})
        run = airflow.trigger(DAG, {"topics": 12})
        asked = approve(airflow, run)
        assert airflow.wait(DAG, run) == "success"
        done = summaries(airflow, run)
        assert [done[task]["ok"] for task in MODEL_TASKS] == [12, 36, 36, 36, 36]

        judged, pairs = rows_of(done["judge"]), rows_of(done["pairs"])
        assert {tuple(row["models"]) for row in judged} == {("fake-default",) * 2 + ("fake-second",) * 2}
        differ = [row for row in judged if len(set(row["ratings"])) > 1]
        assert 0 < len(pairs) == len(differ) < len(judged)
        for pair, row in zip(pairs, differ, strict=True):
            assert pair["instruction"] == row["instruction"]
            assert pair["chosen_rating"] > pair["rejected_rating"]
            rated = set(zip(row["generations"], row["models"], row["ratings"], strict=True))
            assert {
                tuple(pair[f"{which}{of}"] for of in ("", "_model", "_rating")) for which in ("chosen", "rejected")
            } <= rated

        assert run in asked["subject"]
        assert "| 36 of 36 | 0 | 0 |" in asked["body"]
        assert f"{done['judge']['numbers']['ratings']['mean']:.2f}" in asked["body"]
        [event] = asset_events(airflow, run)
        assert event["extra"] == done["pairs"]

        paid = (dict(llm.calls), dict(second.calls))
        assert sum(paid[1].values()) == 36
        clear(airflow, run)
        approve(airflow, run)
        assert airflow.wait(DAG, run) == "success"
        assert (dict(llm.calls), dict(second.calls)) == paid
        assert summaries(airflow, run) == done


@contextmanager
def recorded(target: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Stand between Airflow and a model; gives a base URL, and the bodies of the requests that come.

    Adds a seed to them: a bad row is then bad again, and what came of the others stays as it was.
    """
    bodies: list[dict[str, Any]] = []

    class Passing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            path = self.path.removeprefix("/v1")
            reply = httpx.post(target + path, json={**body, "seed": 1}, timeout=300, trust_env=False)
            self.send_response(reply.status_code)
            self.send_header("Content-Type", reply.headers["Content-Type"])
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def first_message(body: dict[str, Any]) -> tuple[str, str]:
    """Return what a conversation began with: the model, and the user's first message."""
    return body["model"], next(each["content"] for each in body["messages"] if each["role"] == "user")


def answered_in(done: dict[str, Any]) -> set[tuple[str, str]]:
    """Return how the conversations about rows that are ok began, worked out without the engine."""
    found: set[tuple[str, str]] = set()
    for task in MODEL_TASKS:
        for row in rows_of(done[task]):
            if row["distil_status"] != "ok":
                continue
            match task:
                case "ask":
                    asked = [SelfInstruct(num_instructions=3).format_input(row)[-1]["content"]]
                case "evolve":
                    asked = [templates.render(each, prompt=row["instruction"]) for each in INSTRUCTION_MUTATIONS.values()]
                case "judge":
                    asked = [UltraFeedback(structured_output=True).format_input(row)[-1]["content"]]
                case _:
                    asked = [row["instruction"]]
            found |= {(row["model_name"], each) for each in asked}
    return found


@pytest.mark.usefixtures("dag_file")
def test_night_on_a_real_model(airflow: Standalone, tmp_path: Path):
    """A small model answers as it likes: its bad rows must not stop the night, and a clear asks them again and no others."""
    with LocalLLM(tmp_path) as llm, recorded(llm.base_url) as (url, bodies):
        for name in ("default", "second"):
            airflow.connect(f"distil_llm_{name}", "distil_llm", host=url, extra={"model": f"{llm.model}-{name}"})
        run = airflow.trigger(DAG, {"topics": 1})
        approve(airflow, run, timeout=180)
        assert airflow.wait(DAG, run) == "success"
        first, paid = summaries(airflow, run), len(bodies)
        bad = {task: first[task]["unparsed"] + first[task]["failed"] for task in MODEL_TASKS}
        assert first["ask"]["rows"] == 1
        assert first["answer"]["ok"] > 0
        answered = answered_in(first)
        began = set(map(first_message, bodies))
        assert len(answered & began) >= first["ask"]["ok"] + first["answer"]["ok"]

        clear(airflow, run)
        approve(airflow, run, timeout=180)
        assert airflow.wait(DAG, run) == "success"
        again = set(map(first_message, bodies[paid:]))
        assert bool(again) == any(bad.values()), bad
        assert again & answered == set()


def test_a_task_of_ones_own(airflow_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The example that shows how to write any task does not run, or is longer than it says."""
    file = DAGS / "draft_and_improve.py"
    assert len(file.read_text().splitlines()) < 30
    shutil.copytree(DAGS / "data", airflow_db / "dags" / "data", dirs_exist_ok=True)
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path))
    with FakeLLM(sensible) as llm, llm.as_connection():
        done = run_dag(load(airflow_db, file)["draft_and_improve"])
    assert done.state == "success"
    assert llm.answered.choices == 40
    rows = rows_of(done.xcoms["explain"])
    assert all(row["draft"] != row["explanation"] for row in rows)
    assert llm.requests[-1]["messages"][1]["content"] in {row["draft"] for row in rows}
