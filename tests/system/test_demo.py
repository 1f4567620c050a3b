"""The front door: what somebody sees who has just cloned the project."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

PROJECT = Path(__file__).resolve().parents[2]
TIMEOUT = 600


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the demo needs, in a path with a space, so that a demo of the developer's is left alone."""
    copy = tmp_path / "a clone"
    (copy / "tests").mkdir(parents=True)
    (copy / "dags").symlink_to(PROJECT / "dags")
    (copy / "tests" / "system").mkdir()
    for module in (PROJECT / "tests" / "system").glob("*.py"):
        (copy / "tests" / "system" / module.name).write_bytes(module.read_bytes())
    return copy


@contextmanager
def demo(project: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo as `make` starts it, without a terminal."""
    command = [sys.executable, "-m", "tests.system.demo"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()  # it stops what it has started


def left_over(project: Path) -> list[psutil.Process]:
    """Processes that work in the demo's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(project)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_demo_shows_rows_and_where_they_are(project: Path):
    """A demo that ends well without rows, or names files that are not there, would show a newcomer nothing."""
    with demo(project) as process:
        output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    [parquet] = re.findall(r"^Parquet +file://(.+)$", output, re.MULTILINE)[-1:]
    [manifest] = re.findall(r"^Manifest +file://(.+)$", output, re.MULTILINE)[-1:]
    assert list(Path(parquet).glob("*.parquet")), output
    assert json.loads(Path(manifest).read_text()), output
    assert re.search(r"^  question +\S.*\?", output, re.MULTILINE), output
    assert re.search(r"^  summary +\S", output, re.MULTILINE), output
    assert re.search(r"^UI +http://127\.0\.0\.1:\d+/dags/nightly_summaries/runs/", output, re.MULTILINE), output
    assert left_over(project) == []


@pytest.mark.parametrize("moment", ["Starting a small", "Starting Airflow", "DAG nightly_summaries runs"])
def test_interrupted_demo_leaves_nothing_running(project: Path, moment: str):
    """A scheduler that outlives Ctrl-C would hold its memory and its ports for as long as the machine is up."""
    with demo(project) as process:
        assert process.stdout is not None
        assert any(moment in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert left_over(project) == []
