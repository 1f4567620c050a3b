"""Attempts at the DAG `thousand` as processes that can be killed, paused and awakened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from airflow_distil import open_dataset
from airflow_distil.testing import FakeLLM

DAG_FILE = Path(__file__).with_name("thousand.py")
ROWS = 1000


class Attempts:
    """A source of `rows` rows, a destination, a fake LLM, and the processes that work on them.

    :param home: AIRFLOW_HOME, with a migrated database.
    """

    def __init__(self, home: Path, folder: Path, llm: FakeLLM, destination: str, rows: int = ROWS, **environment: str) -> None:
        self.llm = llm
        self.destination = destination
        self.source = folder / "rows.jsonl"
        self.source.write_text("".join(json.dumps({"instruction": f"question {n}"}) + "\n" for n in range(rows)))
        self.script = home / "dags" / DAG_FILE.name
        shutil.copy(DAG_FILE, self.script)
        self.log = folder / "attempts.log"
        self.environment = {
            **os.environ,
            "THOUSAND_SOURCE": str(self.source),
            "THOUSAND_DESTINATION": destination,
            "AIRFLOW__DISTIL__SCRATCH_DIR": str(folder / "scratch"),
            **environment,
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start an attempt."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(self.script)], env={**self.environment, **environment}, stdout=log, stderr=log
            )
        self.running.append(process)
        return process

    def finish(self, **environment: str) -> None:
        """Run an attempt to its end."""
        process = self.start(**environment)
        assert process.wait(120) == 0, self.log.read_text()[-4000:]

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill an attempt with SIGKILL, as the kernel does when memory runs out."""
        process.send_signal(signal.SIGKILL)
        process.wait(30)

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                self.kill(process)

    def rows(self) -> list[dict[str, Any]]:
        """Return the published rows, in order."""
        table: pa.Table = open_dataset(self.destination).to_table()
        return table.to_pylist()


@contextmanager
def attempts(home: Path, folder: Path, destination: str, *, latency: float = 0.02, **options: Any) -> Iterator[Attempts]:
    """Give attempts with a fake LLM that answers after `latency` seconds, and clean up behind them."""
    with FakeLLM(latency=latency, keep=0) as llm, llm.as_connection("distil_llm_default"):
        working = Attempts(home, folder, llm, destination, **options)
        try:
            yield working
        finally:
            working.close()


def assert_whole(rows: list[dict[str, Any]], count: int = ROWS) -> None:
    """Every row once, in order, with the answer to its own question."""
    assert [row["distil_row"] for row in rows] == list(range(count))
    assert [row["instruction"] for row in rows] == [f"question {n}" for n in range(count)]
    assert {row["distil_status"] for row in rows} == {"ok"}
    assert all(row["generation"].endswith(row["instruction"]) for row in rows)
