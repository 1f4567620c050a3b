"""What a system test starts, it can also stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.process_session import ProcessSession

FAMILY = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:  # an orphan, once its parent has ended
    if os.fork() == 0:
        os.setpgid(0, 0)  # as Airflow's supervisor does with a task
pathlib.Path(sys.argv[1], f"{os.getpid()}.pid").touch()
time.sleep(600)
"""


def test_stop_leaves_no_process(tmp_path: Path):
    """A task, or one of its supervisors, that outlives its test would write into the next one's destination."""
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    session = ProcessSession([sys.executable, str(script), str(tmp_path)], tmp_path / "log")
    session.start()
    while len(list(tmp_path.glob("*.pid"))) < 3:
        assert not session.ended, session.tail()
    family = [psutil.Process(int(each.stem)) for each in tmp_path.glob("*.pid")]
    session.stop(grace=0.5)
    assert session.members() == []
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own answer to Ctrl-C: shells start background jobs with it ignored, and Python leaves it so."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("ctrl_c")
def test_interrupt_while_starting_does_not_lose_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C between the start of a process and the line that remembers it would leave it running for good."""
    popen = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = popen(*arguments, **options)
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    session = ProcessSession([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    with pytest.raises(KeyboardInterrupt):
        session.start()
    assert len(session.members()) == 1
    session.stop()
    assert session.ended
    assert session.members() == []
