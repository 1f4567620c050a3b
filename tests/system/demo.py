"""What `make demo` runs: a real small model, a real Airflow, and the DAG `nightly_summaries` on real text.

Attached to a terminal it leaves the UI up until Ctrl-C; otherwise it stops what it started and exits (0: the run succeeded).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tests.system.airflow_standalone import Standalone
from tests.system.local_llm import LocalLLM
from tests.system.rest import FINAL

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / ".demo"
HOME = FOLDER / "airflow"
DATASETS = FOLDER / "datasets"
DAG_ID = "nightly_summaries"
# Two calls for each of 40 passages take about 40 s on two cores. Retries and a busy machine are allowed for.
RUN_TIMEOUT = 900.0
SHOWN_ROWS = 3
SHOWN_LOG_LINES = 40


def main() -> int:
    """Run the demo and return its exit code."""
    FOLDER.mkdir(exist_ok=True)
    with only_demo():
        # A run that an interrupted demo left behind would be taken up by this one's scheduler. Datasets stay.
        shutil.rmtree(HOME, ignore_errors=True)
        # This process reads the datasets as one of Airflow's would, without making a home in the user's folder.
        os.environ["AIRFLOW_HOME"] = str(HOME)
        say("Starting a small language model (SmolLM2-135M, llama.cpp) …")
        with LocalLLM(FOLDER) as llm:
            say(f"It answers at {llm.base_url}. Starting Airflow (about 20 s) …")
            connection = {"conn_type": "distil_llm", "host": llm.base_url, "extra": {"model": llm.model}}
            with Standalone(
                HOME,
                PROJECT / "dags",
                connections={"distil_llm_default": connection},
                env={"AIRFLOW__DISTIL__DATASET_ROOT": f"file://{DATASETS}"},
            ) as airflow:
                return run(airflow)


def run(airflow: Standalone) -> int:
    """Trigger the DAG, show how it goes and what came of it; return the exit code."""
    run_id = airflow.trigger(DAG_ID)
    url = airflow.run_url(DAG_ID, run_id)
    say(f"DAG {DAG_ID} runs; watch it at {url}")
    state = follow(airflow, run_id)
    if state != "success":
        show_failure(airflow, run_id, state)
    else:
        for task in airflow.task_instances(DAG_ID, run_id):
            summary = airflow.xcom(DAG_ID, run_id, task["task_id"])
            if isinstance(summary, Mapping) and "manifest" in summary:
                show_dataset(task["task_id"], summary)
        say(f"UI        {url}")
    if sys.stdout.isatty():
        say("\nAirflow stays up until you press Ctrl-C.")
        try:
            signal.pause()
        except KeyboardInterrupt:
            say("Stopping …")
    return 0 if state == "success" else 1


def follow(airflow: Standalone, run_id: str) -> str:
    """Print what changes until the run has ended; return its state."""
    deadline = time.monotonic() + RUN_TIMEOUT
    shown: dict[str, str] = {}
    while time.monotonic() < deadline:
        state: str = airflow.get(f"dags/{DAG_ID}/dagRuns/{run_id}")["state"]
        for task in airflow.task_instances(DAG_ID, run_id):
            line = progress(airflow, run_id, task)
            if line and shown.get(task["task_id"]) != line:
                say(f"  {task['task_id']}: {line}")
                shown[task["task_id"]] = line
        if state in FINAL:
            return state
        time.sleep(1)
    return f"not ended after {RUN_TIMEOUT:g} s"


def progress(airflow: Standalone, run_id: str, task: Mapping[str, Any]) -> str:
    """Return where a task instance stands, in a few words; empty while it has not begun."""
    if task["state"] in (None, "scheduled", "queued"):
        return ""
    now = airflow.xcom(DAG_ID, run_id, task["task_id"], "distil_progress") if task["state"] == "running" else None
    return f"{now['done']}/{now['total']} rows, {now['rows_per_s']} rows/s" if now and "done" in now else str(task["state"])


def show_dataset(task_id: str, summary: Mapping[str, Any]) -> None:
    """Print the first rows of a published dataset, and where it is."""
    import airflow_distil

    table = airflow_distil.open_dataset(summary).head(SHOWN_ROWS)
    say(f"\n{task_id}: {summary['rows']} rows, the first {table.num_rows}:")
    for row in table.to_pylist():
        say("")
        for name, value in row.items():
            if name != "distil_metadata" and value is not None:
                say(f"  {name:14} {textwrap.shorten(str(value), 140, placeholder=' …')}")
    say(f"\nParquet   {summary['data_uri']}\nManifest  {summary['manifest']}")


def show_failure(airflow: Standalone, run_id: str, state: str) -> None:
    """Print how the run ended, and the end of the log of what failed."""
    say(f"\nThe run is {state}.")
    for task in airflow.task_instances(DAG_ID, run_id):
        if task["state"] in ("failed", "up_for_retry", "running"):
            log = airflow.logs(DAG_ID, run_id, task["task_id"], task["try_number"], task["map_index"])
            say(f"\nThe end of the log of {task['task_id']}, try {task['try_number']}:")
            say("\n".join(log.splitlines()[-SHOWN_LOG_LINES:]))
    say(f"\nAirflow's own log: {HOME / 'standalone.log'}")


@contextmanager
def only_demo() -> Iterator[None]:
    """Keep a second demo from clearing away the home of this one."""
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"Another demo is running in {FOLDER}. Stop it first, with Ctrl-C in its terminal.")
        yield


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def interrupt(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that what was started is stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("Stopped.")
        sys.exit(130)
