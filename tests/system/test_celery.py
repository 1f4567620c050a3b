"""The main job on the Celery stack: a worker is lost, and the other goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_distil import open_dataset
from airflow_distil.testing import FakeLLM
from tests.chaos.verdict import judge
from tests.system.celery_stack import BUCKET, CeleryStack, celery_stack

# At 160 answers per second this takes 12 s: two uploads happen before the worker is lost, and there is work left after it.
ROWS, LOST_AT = 2000, 1700
CONCURRENCY, LATENCY = 16, 0.1
# Scratch goes to the destination every 5 s; an upload takes its time, too.
UNSAVED = 6.0


@pytest.fixture(scope="module")
def stack() -> Iterator[CeleryStack]:
    """The stack, with the DAGs for it, and the emulator of Google's storage for this process as well."""
    with celery_stack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", stack.storage_url)
        shutil.copy(Path(__file__).with_name("dags") / "celery_runs.py", stack.dags)
        yield stack


def test_worker_is_lost_and_the_other_goes_on(stack: CeleryStack, tmp_path: Path, capsys):
    """The promise of the package: a host is gone with its scratch file, and no answer that was uploaded is paid again."""
    source = stack.folder / "rows.jsonl"
    source.write_text("".join(json.dumps({"instruction": f"question {n}"}) + "\n" for n in range(ROWS)))
    destination = f"gs://{BUCKET}/lost-worker"
    journal = tmp_path / "journal.jsonl"
    with FakeLLM(latency=LATENCY, keep=0, journal=journal) as llm:
        stack.connect("celery_llm", "distil_llm", host=llm.base_url, extra={"model": "fake"})
        conf = {"source": str(source), "destination": destination, "llm": "celery_llm"}
        run = stack.trigger("celery_text", conf)
        llm.wait_for(LOST_AT, timeout=120)
        lost = stack.worker_of(stack.task_pid("celery_text", run, "text"))
        lost.kill()
        killed = time.time()
        second = stack.worker_of(stack.task_pid("celery_text", run, "text", try_number=2, timeout=120))
        assert second is not lost
        assert stack.wait("celery_text", run, timeout=120) == "success"
        paid = llm.answered.calls
        times = [json.loads(line)["time"] for line in journal.read_text().splitlines()]
    lost.start()

    unsaved = sum(killed - UNSAVED < each <= killed for each in times)
    before = sum(each <= killed for each in times)
    with capsys.disabled():
        again = f"{paid - ROWS} paid again, of at most {llm.peak_in_flight} + {unsaved}"
        print(f"\n{before} answers before {lost.name} was lost, {paid} in all: {again}")
    assert judge(open_dataset(destination).to_table().to_pylist(), ROWS) == (0, 0, [])
    assert ROWS <= paid <= ROWS + llm.peak_in_flight + unsaved
    (task,) = stack.task_instances("celery_text", run)
    assert (task["state"], task["try_number"]) == ("success", 2)
    assert stack.xcom("celery_text", run, "text")["edition"] == 1


def test_stack_is_the_compose_file(stack: CeleryStack):
    """A command of the file that nobody runs may have ceased to exist; so may a health check, and nothing gets healthy."""
    run = {part.name: part.command for part in stack.airflow}
    commands = {
        "worker-1" if name == "worker" else name: service.command
        for name, service in stack.services.items()
        if service.ours and name not in ("migrate", "llm")
    }
    assert run == {**commands, "worker-2": run["worker-1"]}
    for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
        assert stack.is_well(name), name
    assert stack.is_well("worker", 1)
    assert stack.is_well("worker", 2)
    assert not stack.is_well("worker", 3)
