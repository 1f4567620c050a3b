"""What a run under a fault needs: a source, a fresh destination, a fake LLM, attempts as real processes, and a verdict."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from airflow_distil import open_dataset
from airflow_distil.datasets.log import Kind, decode_segment
from airflow_distil.datasets.stores import Store, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine.ask import CLOCK_JUMP
from airflow_distil.exceptions import NotPublished
from airflow_distil.testing import FakeLLM
from tests.chaos.verdict import Verdict, judge

DAG_FILE = Path(__file__).with_name("thousand.py")
# As the engine's: what a killed attempt may not have uploaded, or a superseded one not have seen. One second for the upload.
UNSEEN = 5.0 + 1.0


def _stands_still(pid: int) -> bool:
    """Tell whether all threads of a process have stopped, or it has ended."""
    ended = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    return all(psutil.Process(thread.id).status() in ended for thread in psutil.Process(pid).threads())


@dataclass(frozen=True)
class Fault:
    """A way in which something goes wrong.

    :param name: short, for a table.
    :param schemes: destinations on which it runs: `file`, `gs`, `s3`.
    :param strike: makes a run of it, and returns in a few words what a user saw.
    :param settings: of the `Bench` that it runs on.
    """

    name: str
    schemes: tuple[str, ...]
    strike: Callable[[Bench, random.Random], str]
    settings: Mapping[str, Any]

    @property
    def description(self) -> str:
        """What goes wrong, and what shall become of it."""
        return " ".join((self.strike.__doc__ or "").split())


@dataclass
class Catalogue:
    """The faults of a module, in its order."""

    faults: list[Fault] = field(default_factory=list)

    def __call__(self, name: str, *schemes: str, **settings: Any) -> Callable[..., Any]:
        """Decorate the `strike` of a fault; its docstring is the description."""

        def listed(strike: Callable[[Bench, random.Random], str]) -> Callable[[Bench, random.Random], str]:
            self.faults.append(Fault(name, schemes, strike, settings))
            return strike

        return listed


class Scripted(random.Random):
    """Chance that always falls in the middle: the fixed points of a fault."""

    def random(self) -> float:
        """Return one half."""
        return 0.5


class CountingLLM(FakeLLM):
    """A fake LLM that knows which attempt got which answer when, by a header that the attempt's connection sends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(keep=0, **options)
        self.times: dict[str, list[float]] = {}

    async def _send(self, request: Any, reply: Any) -> Any:
        response = await super()._send(request, reply)
        self.times.setdefault(request.headers.get("X-Attempt", ""), []).append(time.monotonic())
        return response


class Stage:
    """An Airflow home for one run at a time, and the server that forks attempts in it.

    :param database: a migrated metadata database; each run begins with a copy of it.
    """

    def __init__(self, home: Path, database: Path) -> None:
        self.home = home
        self._fresh = home / "fresh.db"
        self.script = home / "dags" / DAG_FILE.name
        self.script.parent.mkdir(parents=True)
        shutil.copy(DAG_FILE, self.script)
        with closing(sqlite3.connect(database)) as migrated:
            # Not a copy of the file: what was written last may lie beside it.
            migrated.execute("VACUUM INTO ?", (str(self._fresh),))
        self.environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        }
        self.reset()
        self.address = str(home / "forks")
        command = [sys.executable, "-m", "tests.chaos.forks", self.address]
        self._server = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
        )

    def wait(self) -> None:
        """Wait until the server has imported everything."""
        assert self._server.stdout is not None
        while line := self._server.stdout.readline():
            if line == b"ready\n":
                return
        raise RuntimeError("the server of attempts did not start")

    def reset(self) -> None:
        """Forget earlier runs."""
        for name in ("airflow.db-wal", "airflow.db-shm", "airflow.db-journal"):
            (self.home / name).unlink(missing_ok=True)
        shutil.copy(self._fresh, self.home / "airflow.db")

    def close(self) -> None:
        """Stop the server."""
        self._server.kill()
        self._server.wait(10)
        if self._server.stdout is not None:
            self._server.stdout.close()


class Attempt:
    """A process that executes the task once.

    :param number: of this run, from 1.
    :param log: what it says.

    `struck` tells whether it still ran when it was sent its first signal; None if it was sent none.
    """

    def __init__(
        self, number: int, log: Path, pid: int, ended: Callable[[float], int | None], close: Callable[[], None]
    ) -> None:
        self.number = number
        self.log = log
        self.pid = pid
        self.paused = False
        self.struck: bool | None = None
        self._ended = ended
        self.close = close
        self._code: int | None = None

    def poll(self, timeout: float = 0.0) -> int | None:
        """Return the exit code, None while it runs."""
        if self._code is None:
            self._code = self._ended(timeout)
        return self._code

    def wait(self, timeout: float = 120.0) -> int:
        """Return the exit code."""
        code = self.poll(timeout)
        if code is None:
            raise TimeoutError(f"attempt {self.number} still runs after {timeout:g} s:\n{self.said[-3000:]}")
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; with SIGSTOP, return when it stands still: on a busy machine it may go on for some answers."""
        ended = self.poll() is not None
        if self.struck is None:
            self.struck = not ended
        if ended:
            return
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            os.kill(self.pid, number)
            while number is signal.SIGSTOP and not _stands_still(self.pid):
                time.sleep(0.001)

    def kill(self) -> None:
        """Kill it as the kernel does when memory runs out."""
        self.signal(signal.SIGKILL)
        if self.wait(30) != -signal.SIGKILL:
            self.struck = False

    @property
    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def final(self) -> bool:
        """Whether it told Airflow not to try again."""
        return "AirflowFailException" in self.said


class Bench:
    """One run: `rows` rows of source, a destination, a fake LLM, and the processes that work on them.

    :param concurrency: most requests that one attempt has in flight.
    :param latency: seconds of each answer.
    :param llm: further settings of the fake LLM.
    :param connection: further fields of the connection to it.
    :param proxy: whether attempts reach the store through a `Proxy`.
    :param slow: such a run takes minutes: once is enough.
    """

    def __init__(
        self,
        stage: Stage,
        folder: Path,
        scheme: str,
        services: Mapping[str, str],
        *,
        rows: int = 200,
        concurrency: int = 16,
        latency: Any = 0.03,
        llm: Mapping[str, Any] | None = None,
        connection: Mapping[str, Any] | None = None,
        proxy: bool = False,
        slow: bool = False,
    ) -> None:
        self.stage = stage
        self.folder = folder
        self.scheme = scheme
        self.rows = rows
        self.concurrency = concurrency
        self.source = folder / "rows.jsonl"
        self.write_source()
        self.root = folder / "out"
        bucket = f"distil/{uuid.uuid4().hex}/out"
        self.destination = str(URI.parse(str(self.root))) if scheme == "file" else f"{scheme}://{bucket}"
        self.llm = CountingLLM(latency=latency, **(llm or {}))
        self.connection = dict(connection or {})
        self.key = (llm or {}).get("api_key") or ""
        self.scratch = folder / "scratch"
        self.environment: dict[str, str] = {}
        self.needed = rows
        self.allowed = 0
        self.not_ok: set[int] = set()
        self.problems: list[str] = []
        # By chance nothing went wrong in this run.
        self.missed = False
        self.attempts: list[Attempt] = []
        self._services = services
        self._proxied = proxy
        self._cleanups: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        self.stage.reset()
        self.llm.start()
        self.on_exit(self.llm.stop)
        services = dict(self._services)
        if self._proxied:
            from tests.chaos.proxy import Proxy

            variable = {"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL"}[self.scheme]
            self.proxy = Proxy(services[variable])
            self.on_exit(self.proxy.stop)
            services[variable] = self.proxy.start()
        self.environment = {
            **self.stage.environment,
            **services,
            "THOUSAND_SOURCE": str(self.source),
            "THOUSAND_DESTINATION": self.destination,
            "THOUSAND_CONCURRENCY": str(self.concurrency),
            "AIRFLOW__DISTIL__SCRATCH_DIR": str(self.scratch),
        }
        return self

    def __exit__(self, *_: object) -> None:
        for attempt in self.attempts:
            attempt.signal(signal.SIGKILL)
            with suppress(TimeoutError):
                attempt.wait(30)
            attempt.close()
        for cleanup in reversed(self._cleanups):
            cleanup()

    def on_exit(self, cleanup: Callable[[], None]) -> None:
        """Clean up something when the run is over."""
        self._cleanups.append(cleanup)

    def write_source(self, text: Callable[[int], str] = "question {}".format, rows: int | None = None) -> None:
        """Write, or replace, the source."""
        lines = (json.dumps({"instruction": text(n)}) + "\n" for n in range(self.rows if rows is None else rows))
        new = self.source.with_suffix(".new")
        new.write_text("".join(lines))
        new.rename(self.source)

    # Attempts.

    def start(self, *, plain: bool = False, **environment: str) -> Attempt:
        """Start an attempt.

        :param plain: as a process that imports everything itself, for what must be there from its first moment.
        :param environment: what it is told beside the rest; `THOUSAND_…`, or any other variable.
        """
        number = len(self.attempts) + 1
        log = self.folder / f"attempt-{number}.log"
        extra = {"model": "fake", "timeout": 20, **self.connection, "headers": {"X-Attempt": str(number)}}
        connection = {"conn_type": "distil_llm", "host": self.llm.base_url, "password": self.key, "extra": extra}
        told = {**self.environment, "AIRFLOW_CONN_DISTIL_LLM_DEFAULT": json.dumps(connection), **environment}
        attempt = (self._plain if plain else self._forked)(number, log, told)
        self.attempts.append(attempt)
        return attempt

    def _forked(self, number: int, log: Path, environment: dict[str, str]) -> Attempt:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.stage.address)
        order = {"script": str(self.stage.script), "log": str(log), "environment": environment}
        connection.sendall(json.dumps(order).encode() + b"\n")
        lines = b""

        def line(timeout: float) -> int | None:
            nonlocal lines
            deadline = time.monotonic() + timeout
            while b"\n" not in lines:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                try:
                    received = connection.recv(64)
                except TimeoutError:
                    return None
                if not received:
                    return -1
                lines += received
            first, _, lines = lines.partition(b"\n")
            return int(first)

        pid = line(30)
        assert pid is not None
        return Attempt(number, log, pid, line, connection.close)

    def _plain(self, number: int, log: Path, environment: dict[str, str]) -> Attempt:
        with log.open("ab") as file:
            process = subprocess.Popen([sys.executable, str(self.stage.script)], env=environment, stdout=file, stderr=file)

        def ended(timeout: float) -> int | None:
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                return None

        return Attempt(number, log, process.pid, ended, lambda: None)

    def retries(self, most: int = 3, **environment: str) -> int:
        """Do what Airflow would: start the next attempt until one succeeds. Return how many it took; 0 if none did."""
        for number in range(1, most + 1):
            attempt = self.start(**environment)
            if attempt.wait(150) == 0:
                return number
            if attempt.final:
                break
        return 0

    def retried(self, most: int = 3, **environment: str) -> str:
        """Do so, and say it in a few words; that none succeeds is a broken promise."""
        count = self.retries(most, **environment)
        self.check(bool(count), f"no retry succeeded: {last_error(self.attempts[-1].said)}")
        return {0: "failed", 1: "the retry finished"}.get(count, f"retry {count} finished")

    # Events.

    def at(self, chance: random.Random, low: float = 0.1, high: float = 0.9) -> int:
        """Wait for a moment between two shares of all calls, and return it."""
        moment = int(self.rows * chance.uniform(low, high))
        self.arrived(moment)
        return moment

    def arrived(self, calls: int, timeout: float = 60.0) -> None:
        """Wait until that many requests have arrived since the start, or no attempt runs any more."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.llm.wait_for(calls, timeout=0.5)
            except TimeoutError:
                if time.monotonic() > deadline or all(attempt.poll() is not None for attempt in self.attempts):
                    raise TimeoutError(f"waited for {calls} calls: {last_error(self.attempts[-1].said)}") from None

    def until(self, what: str, happened: Callable[[], Any], timeout: float = 60.0) -> Any:
        """Wait for an event that nobody announces: a file, a line of a log."""
        deadline = time.monotonic() + timeout
        while not (found := happened()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout:g} s for {what}:\n{last_error(self.attempts[-1].said)}")
            time.sleep(0.004)
        return found

    # The dataset.

    @property
    def store(self) -> Store:
        """The destination, past any proxy."""
        return open_store(URI.parse(self.destination))

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of what is there."""
        return [entry.name for entry in self.store.list(prefix)]

    def published(self) -> dict[str, str]:
        """Return names and versions of the manifests, and of the parts that they name."""
        there = {entry.name: entry.version for entry in self.store.list()}
        named = "".join(self.store.get(name).decode() for name in there if "/manifests/" in name)
        return {name: version for name, version in there.items() if "/manifests/" in name or name in named}

    def dataset(self) -> list[dict[str, Any]]:
        """Return the published rows, in order."""
        found: list[dict[str, Any]] = open_dataset(self.destination).to_table().to_pylist()
        return found

    # What is promised.

    def check(self, kept: bool, problem: str) -> None:
        """Note a problem unless a promise was kept."""
        if not kept:
            self.problems.append(problem)

    @property
    def paid(self) -> int:
        """Complete answers of status 200 so far."""
        return self.llm.answered.calls

    @property
    def in_flight(self) -> int:
        """Most requests that an attempt had in flight."""
        return min(self.llm.peak_in_flight, self.concurrency)

    def crash(self) -> None:
        """Allow what a crash on a host that lives on may cost: what was in flight, unless the attempt was done before."""
        if self.attempts[-1].struck is not False:
            self.allowed += self.in_flight

    def unseen(self, attempt: Attempt, end: float | None = None) -> int:
        """Return the answers that an attempt got in its last seconds: not uploaded yet, or after its last look."""
        times = self.llm.times.get(str(attempt.number), [])
        end = time.monotonic() if end is None else end
        return sum(end - UNSEEN <= when <= end for when in times)

    def since(self, attempt: Attempt, moment: float) -> int:
        """Return the answers that an attempt got since a moment of `time.monotonic()`."""
        return sum(when >= moment for when in self.llm.times.get(str(attempt.number), []))

    def logged(self) -> int:
        """Return how many answers are in the log of the destination."""
        segments = [decode_segment(self.store.get(name)).facts for name in self.names("_distil/log/")]
        return len({(fact.nonce, fact.number) for facts in segments for fact in facts if fact.kind is Kind.ANSWER})

    def host_lost(self, attempt: Attempt) -> None:
        """Kill an attempt and lose its scratch folder: what was not uploaded may be paid again, and that is not much."""
        self.check(self.logged() > 0, "nothing was uploaded before the host was lost")
        attempt.kill()
        shutil.rmtree(self.scratch)
        if not attempt.struck:
            return
        missing = self.paid - self.logged()
        latest = self.in_flight + self.unseen(attempt)
        self.check(missing <= latest, f"{missing} answers were not uploaded, {latest} of them of the last {UNSEEN:g} s")
        self.allowed += self.in_flight + min(missing, latest)

    def beyond_clock_jump(self, paused: float) -> None:
        """Wait until an attempt that was paused at a moment of `time.monotonic()` will see that its clock jumped."""
        # Two seconds more: it notes the time once in a second.
        time.sleep(max(0.0, paused + CLOCK_JUMP + 2.0 - time.monotonic()))

    def noticed(self, attempt: Attempt, awake: float) -> None:
        """Check that an attempt sends nothing more that sees its clock jump when it wakes up: only what was in flight came."""
        paid = self.since(attempt, awake)
        self.check(paid <= self.in_flight, f"it got {paid} answers after it woke up")
        self.allowed += self.in_flight

    def superseded(self, attempt: Attempt, awake: float) -> None:
        """Allow what an attempt may cost that was superseded before or when it woke up: in flight, and until its next look."""
        paid = self.since(attempt, awake)
        self.allowed += self.in_flight + min(paid, self.in_flight + self.unseen(attempt, awake + UNSEEN))

    def whole(self) -> None:
        """Check that what is published is whole, before something else happens to it."""
        lost, doubled, problems = judge(self.dataset(), self.rows, self.not_ok)
        self.check(not (lost or doubled or problems), f"before that: {lost} lost, {doubled} doubled {problems}")

    def verdict(self, fault: Fault, seed: int, outcome: str, seconds: float) -> Verdict:
        """Judge the run."""
        problems = list(self.problems)
        try:
            lost, doubled, wrong = judge(self.dataset(), self.rows, self.not_ok)
            problems += wrong
        except NotPublished:
            lost, doubled = self.rows, 0
            problems.append("nothing is published")
        except Exception as error:  # noqa: BLE001 - the dataset cannot be read, which is the worst of problems
            lost, doubled = self.rows, 0
            problems.append(f"{type(error).__name__}: {error}"[:300])
        struck = not self.missed and not any(attempt.struck is False for attempt in self.attempts)
        return Verdict(
            fault=fault.name,
            where=f"process, {self.scheme}",
            seed=seed,
            outcome=outcome if struck else "it was done before",
            rows=self.rows,
            lost=lost,
            doubled=doubled,
            paid=self.paid,
            needed=self.needed,
            bound=self.needed + self.allowed,
            seconds=seconds,
            problems=problems,
            struck=struck,
        )


def last_error(said: str) -> str:
    """Return the error that a log ends with."""
    lines = [line for line in said.splitlines() if "Error" in line or "Exception" in line or "Superseded" in line]
    return (lines[-1] if lines else said[-200:]).strip()[:300]


def run(fault: Fault, stage: Stage, services: Mapping[str, str], scheme: str, seed: int | None, folder: Path) -> Verdict:
    """Run a fault once.

    :param seed: of its chance; None for the fixed points.
    """
    chance = Scripted() if seed is None else random.Random(seed)
    folder.mkdir(parents=True)
    began = time.monotonic()
    outcome = "did not come to its end"
    with Bench(stage, folder, scheme, services, **fault.settings) as bench:
        try:
            outcome = fault.strike(bench, chance)
        except (TimeoutError, AssertionError, OSError) as error:
            bench.problems.append(f"{type(error).__name__}: {error}"[-1500:])
        verdict = bench.verdict(fault, seed or 0, outcome, time.monotonic() - began)
    if verdict.kept:
        shutil.rmtree(folder, ignore_errors=True)
    return verdict


@contextmanager
def services_for(schemes: set[str]) -> Iterator[dict[str, str]]:
    """Start the stores that schemes need, and yield what their clients have to be told in the environment."""
    from tests.contracts.stores.backends import gcs_emulator, s3_emulator

    with ExitStack() as stack:
        told: dict[str, str] = {}
        if "gs" in schemes:
            told["STORAGE_EMULATOR_HOST"] = stack.enter_context(gcs_emulator())
        if "s3" in schemes:
            told["AWS_ENDPOINT_URL"] = stack.enter_context(s3_emulator())
            told |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hunter2"}
        before = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        try:
            yield told
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
