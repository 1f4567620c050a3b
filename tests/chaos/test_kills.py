"""Kill, pause and stop attempts, and see that nothing is lost, doubled or paid for without need."""

from __future__ import annotations

import hashlib
import random
import signal
from pathlib import Path

import pytest

from tests.chaos.attempts import ROWS, assert_whole, attempts
from tests.contracts.stores.conftest import s3_environment, s3_root, s3_url

__all__ = ["s3_environment", "s3_root", "s3_url"]

SEED = 20261123


def published(folder: Path) -> dict[str, str]:
    """Return the hash of every published file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ("manifests" in path.parts or path.suffix == ".parquet")
    }


@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_killed_five_times(airflow_db, tmp_path, capsys, request, scheme):
    """A crash that lost answers, or doubled rows, would show in the rows or in the bill."""
    chance = random.Random(SEED)
    destination = str(request.getfixturevalue("s3_root")) if scheme == "s3" else f"file://{tmp_path}/out"
    with attempts(airflow_db, tmp_path, destination) as work:
        kills = 5
        for moment in sorted(chance.sample(range(20, ROWS - 20), kills)):
            process = work.start()
            work.llm.wait_for(moment, timeout=60)
            work.kill(process)
        work.finish()
        paid, in_flight = work.llm.answered.calls, work.llm.peak_in_flight
        bound = ROWS + kills * in_flight  # the scratch file is on this host: no answer waits for a flush
        assert_whole(work.rows())
        with capsys.disabled():
            print(
                f"\nseed {SEED}: {ROWS} rows, {kills} kills, at most {in_flight} in flight: {paid} answers paid, "
                f"bound {bound}, overpaid {paid - ROWS}"
            )
        assert paid <= bound


def test_killed_and_continued_on_another_host(airflow_db, tmp_path, capsys):
    """What was flushed to the destination must be enough to go on; only the seconds since then may be paid again."""
    with attempts(airflow_db, tmp_path, f"file://{tmp_path}/out", latency=0.1) as work:
        process = work.start()
        work.llm.wait_for(ROWS - 100, timeout=90)
        work.kill(process)
        before = work.llm.answered.calls
        work.finish(AIRFLOW__DISTIL__SCRATCH_DIR=str(tmp_path / "another host"))
        paid, in_flight = work.llm.answered.calls, work.llm.peak_in_flight
        unflushed = 16 / 0.1 * 6  # concurrency ÷ latency × seconds between two flushes, one more for the flush itself
        with capsys.disabled():
            again = in_flight + unflushed
            print(f"\n{before} answers before the kill, {paid} in all: {paid - ROWS} paid again of at most {again:.0f}")
        assert_whole(work.rows())
        assert paid <= ROWS + in_flight + unflushed


def test_paused_attempt_changes_nothing(airflow_db, tmp_path):
    """A zombie that wakes up after its successor has published must neither change the dataset nor go on spending."""
    with attempts(airflow_db, tmp_path, f"file://{tmp_path}/out") as work:
        first = work.start()
        work.llm.wait_for(300, timeout=60)
        first.send_signal(signal.SIGSTOP)
        work.finish()
        before, paid = published(tmp_path / "out"), work.llm.answered.calls
        assert_whole(work.rows())
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) != 0
        assert "Superseded" in work.log.read_text()
        assert published(tmp_path / "out") == before
        # Answers that were on their way when it was paused may still arrive; new requests may not leave.
        assert work.llm.answered.calls - paid <= 16


def test_sigterm_keeps_what_is_paid_and_is_no_success(airflow_db, tmp_path):
    """Airflow 3.3 ends a task that returns after SIGTERM as a success: it must raise, and nothing half may be published."""
    with attempts(airflow_db, tmp_path, f"file://{tmp_path}/out") as work:
        process = work.start()
        work.llm.wait_for(300, timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) != 0
        assert "Stopped" in work.log.read_text()
        assert published(tmp_path / "out") == {}
        work.finish()
        assert_whole(work.rows())
        assert work.llm.answered.calls == ROWS


def test_execution_timeout_keeps_what_is_paid(airflow_db, tmp_path):
    """A task that is too slow for its execution_timeout gets on with every try, instead of paying for the same rows again."""
    with attempts(airflow_db, tmp_path, f"file://{tmp_path}/out", latency=0.2, rows=200) as work:
        process = work.start(THOUSAND_TIMEOUT="2.5")
        assert process.wait(60) != 0
        assert 0 < work.llm.answered.calls < 200
        assert published(tmp_path / "out") == {}
        work.finish()
        assert_whole(work.rows(), 200)
        assert work.llm.answered.calls == 200
