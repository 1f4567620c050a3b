"""One DAG run on the Celery stack: its own source, destination, fake LLM and connection, and the judgement of it."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from airflow_distil import open_dataset
from airflow_distil.datasets.stores import open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import NotPublished
from airflow_distil.testing import FakeLLM
from tests.chaos.verdict import judge
from tests.system.celery_stack import BUCKET, CeleryStack
from tests.system.component import Component

__all__ = ["ROWS", "TIMEOUT", "CeleryRun", "celery_run"]

# About 70 answers per second: 11 s, twice as long as what may be lost with a worker. Who began anew would break the bound.
ROWS = 800
LATENCY = 0.2
CONCURRENCY = 16
# Share of the answers after which a scripted fault strikes: late enough for an upload, with work left for Airflow to stop.
SCRIPTED = 0.75
# As the engine's: what a lost worker may not have uploaded, or a superseded attempt not have seen. One second for the upload.
UNSEEN = 5.0 + 1.0
# A task waits for a slot, a lost one for its heartbeat (20 s), and a message that was lost with a worker for 20 s more.
TIMEOUT = 180.0
# A superseded attempt looks every 5 s, and then ends.
ZOMBIE_TIMEOUT = 40.0

_serial = itertools.count(1)


class CeleryRun:
    """A DAG run that something will happen to.

    :param stack: where it runs.
    :param llm: its model.
    :param journal: times of the model's answers.
    :param sources: one file, or one for each mapped task.
    :param moment: share of the answers after which the fault strikes.
    """

    task_id = "text"

    def __init__(
        self,
        stack: CeleryStack,
        llm: FakeLLM,
        journal: Path,
        connection: str,
        sources: Sequence[Path],
        moment: float,
        dag_id: str,
    ) -> None:
        self.stack, self.llm, self.journal, self.moment, self.dag_id = stack, llm, journal, moment, dag_id
        self.sources = sources
        self.destination = f"gs://{BUCKET}/chaos/{journal.stem}"
        self.conf = {"destination": self.destination, "llm": connection, "source": str(sources[0])}
        if self.mapped:
            self.conf["sources"] = [str(source) for source in sources]
        self.rows = ROWS
        self.needed = ROWS
        self.problems: list[str] = []
        self.run_id = ""
        self._ends = 0
        self._not_uploaded = 0
        self._unseen = 0
        self._pids: set[int] = set()

    @property
    def mapped(self) -> bool:
        """Whether it is a run of the mapped DAG."""
        return len(self.sources) > 1

    # What happens

    def start(self) -> None:
        """Trigger it."""
        self.run_id = self.stack.trigger(self.dag_id, self.conf)

    def until_the_moment(self) -> None:
        """Wait for the moment of the fault."""
        self.llm.wait_for(max(2, round(self.moment * self.rows)), timeout=TIMEOUT)

    def pid(self, try_number: int = 1) -> int:
        """Return the process id of the task itself, while it runs."""
        pid = self.stack.task_pid(self.dag_id, self.run_id, self.task_id, try_number=try_number, timeout=TIMEOUT)
        self._pids.add(pid)
        return pid

    def supervisor(self) -> psutil.Process:
        """Return the process that supervises the running task: one of the Celery worker's pool."""
        parent = psutil.Process(self.pid()).parent()
        assert parent is not None
        return parent

    def worker(self) -> Component:
        """Return the worker that holds the running task."""
        return self.stack.worker_of(self.pid())

    def clear(self) -> None:
        """Clear the task, as a user does in the UI."""
        self.stack.clear(self.dag_id, self.run_id, [self.task_id])

    def finish(self, expected: str = "success") -> str:
        """Wait for the run to end, and say how it came to that."""
        state = self.stack.wait(self.dag_id, self.run_id, timeout=TIMEOUT)
        if state != expected:
            self.problems.append(f"the run is {state}, not {expected}: {self.last_words()}")
        if self.mapped:
            tries = [each["try_number"] for each in self._instances()]
            return f"{sum(number > 1 for number in tries)} of {len(tries)} mapped tasks were retried and finished"
        number = self._instances()[0]["try_number"]
        return "the first try finished" if number == 1 else f"try {number} finished"

    def _instances(self) -> list[dict[str, Any]]:
        return self.stack.until(
            lambda: [each for each in self.stack.task_instances(self.dag_id, self.run_id) if each["task_id"] == self.task_id],
            TIMEOUT,
            f"there is no {self.task_id}",
        )

    def last_words(self) -> str:
        """Return the last lines of the log of its latest try."""
        with suppress(Exception):
            latest = self._instances()[0]
            text = self.stack.logs(
                self.dag_id, self.run_id, self.task_id, try_number=latest["try_number"], map_index=latest["map_index"]
            )
            return " | ".join(text.splitlines()[-6:])[-1500:]
        return "its log cannot be read"

    # What it may cost

    def stopped(self) -> None:
        """Note that an attempt was asked to end: it keeps all but what was on its way."""
        self._ends += 1

    def crash(self) -> None:
        """Note that an attempt ends now without a word: who cannot see its scratch file lacks what it had not uploaded."""
        self._ends += 1
        now = time.time()
        self._not_uploaded += sum(now - UNSEEN < each <= now for each in self._answers())

    def superseded(self) -> None:
        """Note that an attempt goes on, beside its successor, until it looks: it asks for some seconds what it would anyway."""
        self._ends += 1
        self._unseen += round(CONCURRENCY / LATENCY * UNSEEN)

    def moved(self) -> bool:
        """Return whether not all tries ran on one worker, as their logs say."""
        return len({name for name, _ in self._starts()}) > 1

    def _starts(self) -> list[tuple[str, int]]:
        """Workers and tries, in no order."""
        found = []
        for log in self.stack.folder.glob("worker-*.log"):
            for line in log.read_text(errors="replace").splitlines():
                if "Executing workload" in line and self.run_id in line and (number := re.search(r"try_number=(\d+)", line)):
                    found.append((log.name.split(".")[0], int(number[1])))
        return found

    def _answers(self) -> list[float]:
        return [json.loads(line)["time"] for line in self.journal.read_text().splitlines() if line.endswith("}")]

    # What came of it

    def wait_for_zombies(self) -> None:
        """Wait for every process of its tasks that was looked at to end; one that does not is a problem."""
        deadline = time.monotonic() + ZOMBIE_TIMEOUT
        for pid in self._pids:
            while _runs(pid):
                if time.monotonic() > deadline:
                    self.problems.append(f"an attempt still runs {ZOMBIE_TIMEOUT:g} s after its successor finished")
                    return
                time.sleep(0.1)

    def published(self) -> dict[str, str]:
        """Return the manifests and parts in the destination, with their versions."""
        store = open_store(URI.parse(self.destination))
        return {entry.name: entry.version for folder in ("_distil/manifests/", "data/") for entry in store.list(folder)}

    def claims(self) -> int:
        """Return how many attempts there were."""
        return sum(1 for _ in open_store(URI.parse(self.destination)).list("_distil/claims/"))

    def check_unchanged(self, before: dict[str, str]) -> None:
        """Note a problem if a reader would see something else than before. A part that no manifest names is seen by nobody."""
        after = self.published()
        manifests = [name for name in after if name not in before and name.startswith("_distil/")]
        if manifests or any(after.get(name) != version for name, version in before.items()):
            self.problems.append(f"the dataset changed after it was published: {manifests or 'other files'}")

    def bill(self) -> tuple[int, int]:
        """Return how many answers were paid, and how many that may be."""
        if not self.mapped and self.claims() < 2:
            return self.llm.answered.calls, self.needed  # nothing interrupted it
        unseen = min(self._unseen, self._beside()) + (self._not_uploaded if self.moved() else 0)
        in_flight = min(self.llm.peak_in_flight, CONCURRENCY)
        return self.llm.answered.calls, self.needed + self._ends * in_flight + unseen

    def _beside(self) -> int:
        """Return how many answers came in the seconds after a later claim: a superseded attempt may have got some of these."""
        store = open_store(URI.parse(self.destination))
        claims = [json.loads(store.get(entry.name)) for entry in store.list("_distil/claims/")]
        times = sorted(dt.datetime.fromisoformat(claim["created_at"]).timestamp() for claim in claims)
        return sum(any(time <= each <= time + UNSEEN for time in times[1:]) for each in self._answers())

    def judge(self) -> tuple[int, int]:
        """Return how many rows are lost, and how many doubled; what else is wrong is kept as a problem."""
        share = self.rows // len(self.sources)
        places = (
            [f"{self.destination}/map-{index:05}" for index in range(len(self.sources))] if self.mapped else [self.destination]
        )
        lost = doubled = 0
        for place in places:
            try:
                published = open_dataset(place).to_table().to_pylist()
            except NotPublished:
                self.problems.append(f"{place} is not published though its task is green")
                lost += share
                continue
            gone, twice, problems = judge(published, share)
            lost, doubled = lost + gone, doubled + twice
            self.problems += problems
        return lost, doubled


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def celery_run(
    stack: CeleryStack, chance: random.Random, *, scripted: bool, dag_id: str, mapped: int = 1
) -> Iterator[CeleryRun]:
    """Give a run that has not started yet, and close its model behind it."""
    name = f"celery_chaos_{next(_serial)}"
    folder = stack.folder / "chaos"
    folder.mkdir(exist_ok=True)
    share = ROWS // mapped
    sources = [folder / f"{name}-{index}.jsonl" for index in range(mapped)]
    for source in sources:
        source.write_text("".join(json.dumps({"instruction": f"question {n}"}) + "\n" for n in range(share)))
    journal = folder / f"{name}.journal"
    journal.touch()
    with FakeLLM(latency=LATENCY, keep=0, journal=journal) as llm:
        extra = {"model": "fake"}
        stack.until(
            lambda: stack.connect(name, "distil_llm", host=llm.base_url, extra=extra) is None,
            TIMEOUT,
            "cannot make a connection",
        )
        yield CeleryRun(stack, llm, journal, name, sources, SCRIPTED if scripted else chance.uniform(0.05, 0.95), dag_id)
