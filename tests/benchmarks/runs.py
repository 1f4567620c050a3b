"""Runs of one client against the endpoint, and what is seen of them from outside."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.benchmarks.clients.clock import prompts
from tests.benchmarks.endpoint import Endpoint, Settings

CLIENTS = Path(__file__).parent / "clients"
# Of a prompt. With the answer, of as many, and its metadata, a row is half a kilobyte.
CHARACTERS = 200
# The process tree is looked at so often: a steady part of a few seconds has enough of its points, and looking takes a
# millisecond.
LOOK_EVERY = 0.25
# What is called steady: the controller has warmed up, and nobody waits for the last answers yet.
STEADY = (0.1, 0.8)
# A client that hangs is a finding, not a reason to wait all night.
LONGEST = 3600.0


@dataclass(frozen=True)
class Client:
    """Something that asks.

    :param name: as the table calls it.
    :param script: in `clients`.
    :param package: whose version the table names.
    :param python: the interpreter of its environment.
    :param options: of its script.
    :param alone: it does nothing else than ask, or all that it does counts. Of the others, which start processes and write
        files of their own around it, only what lies between the first request and the last answer is counted.
    """

    name: str
    script: str
    package: str
    python: str = sys.executable
    options: tuple[tuple[str, Any], ...] = ()
    alone: bool = True


OURS = Client("airflow-distil", "ours.py", "airflow-distil")


@dataclass(frozen=True)
class Run:
    """One run: what the client said, what the endpoint counted, what the process tree used."""

    client: Client
    settings: Settings
    rows: int
    concurrency: int | None
    figures: dict[str, Any]
    report: dict[str, Any]
    looks: list[tuple[float, float]]
    others: float
    """Share of the machine that other processes used meanwhile."""

    @property
    def seconds(self) -> float:
        """Seconds that count; see `Client.alone`."""
        if self.client.alone:
            return float(self.figures["ended"] - self.figures["began"])
        return float(self.report["last"] - self.report["first"])

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds

    @property
    def endpoint_busy(self) -> float:
        """Share of its core that the endpoint used while it was asked."""
        return float(self.report["cpu"] / (self.report["last"] - self.report["first"]))

    @property
    def cpu(self) -> float:
        """Seconds of CPU per row, of all its processes."""
        if self.client.alone:
            return float(self.figures["cpu"] / self.rows)
        begin, end = self._steady_points
        looks = [look for look in self.looks if begin[0] <= look[0] <= end[0]]
        if len(looks) < 2:
            return float("nan")
        (began, before), (ended, after) = looks[0], looks[-1]
        return (after - before) / (ended - began) / self.steady_rate

    @property
    def steady_rate(self) -> float:
        """Rows per second in the steady part."""
        begin, end = self._steady_points
        return (end[1] - begin[1]) / (end[0] - begin[0])

    @property
    def latency(self) -> float:
        """Mean latency at the endpoint of the requests that began in the steady part, seconds."""
        begin, end = self._steady_points
        return (end[4] - begin[4]) / (end[3] - begin[3])

    @property
    def steady_share(self) -> float:
        """Requests per second in the steady part, as a share of what Little's law gives: concurrency ÷ mean latency."""
        assert self.concurrency
        begin, end = self._steady_points
        requests = (end[1] + end[2] - begin[1] - begin[2]) / (end[0] - begin[0])
        return requests * self.latency / self.concurrency

    @property
    def steady_in_flight(self) -> float:
        """Mean of the requests in flight in the steady part, as a share of the concurrency."""
        assert self.concurrency
        begin, end = self._steady_points
        return (end[5] - begin[5]) / (end[0] - begin[0]) / self.concurrency

    @property
    def whole_share(self) -> float:
        """Mean of the requests in flight over all that counts, as a share of the concurrency."""
        assert self.concurrency
        return float(self.report["timeline"][-1][5]) / self.seconds / self.concurrency

    @cached_property
    def _steady_points(self) -> tuple[Sequence[float], Sequence[float]]:
        timeline = self.report["timeline"]
        counts = [answered for _, answered, *_ in timeline]
        begin, end = (bisect_left(counts, share * self.report["answered"]) for share in STEADY)
        if self.settings.stragglers:
            # Until the first of them have come back, the others have more than their share of the places.
            times = [when for when, *_ in timeline]
            begin = max(begin, bisect_left(times, self.report["first"] + self.settings.straggler_seconds))
        if end <= begin:
            raise ValueError(f"{self.rows} rows are too few to have a steady part: give more.")
        return timeline[begin], timeline[end]


@contextmanager
def folder() -> Iterator[Path]:
    """Give a temporary folder."""
    made = Path(tempfile.mkdtemp(prefix="distil-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def run(
    client: Client,
    endpoint: Endpoint,
    settings: Settings,
    *,
    rows: int,
    concurrency: int | None,
    characters: int = CHARACTERS,
    **options: Any,
) -> Run:
    """Run a client in a fresh process.

    :raises RuntimeError: if it fails, with what it wrote.
    """
    with folder() as own:
        told = {
            "rows": rows,
            "concurrency": concurrency,
            "characters": characters,
            "base_url": endpoint.base_url,
            "folder": str(own),
        }
        told |= dict(client.options)
        if client == OURS:
            told |= places(own, rows, characters)
        return watched(client, settings, {**told, **options}, own, endpoint)


def places(own: Path, rows: int, characters: int = CHARACTERS) -> dict[str, str]:
    """Return where a job of ours reads, writes and works."""
    return {"source": str(source(own, rows, characters)), "destination": str(own / "out"), "scratch": str(own / "scratch")}


def source(into: Path, rows: int, characters: int = CHARACTERS) -> Path:
    """Write rows as Parquet and return the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = into / f"source-{rows}.parquet"
    schema = pa.schema([("instruction", pa.string())])
    texts = prompts(rows, characters)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(texts, 10_000)):
            writer.write_table(pa.table({"instruction": group}, schema))
    return path


def watched(client: Client, settings: Settings, told: dict[str, Any], own: Path, endpoint: Endpoint) -> Run:
    """Run a client in a fresh process, and look at it from outside."""
    endpoint.set(settings)
    began, busy = time.monotonic(), _busy()
    looks: list[tuple[float, float]] = []
    with (own / "output").open("w+b") as output:
        process = subprocess.Popen(
            [client.python, str(CLIENTS / client.script), json.dumps(told)],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=own,
            env=environment(own),
        )
        watching = threading.Thread(target=_watch, args=(process.pid, looks), daemon=True)
        watching.start()
        try:
            code = process.wait(LONGEST)
        finally:
            _end(process)
        watching.join()
        output.seek(0)
        written = output.read().decode(errors="replace")
    said = [json.loads(line) for line in written.splitlines() if line.startswith('{"began"')]
    if code or not said:
        raise RuntimeError(f"{client.name} failed ({code}):\n{written[-3000:]}")
    figures = said[-1]
    if figures.get("ok", told["rows"]) < told["rows"]:
        raise RuntimeError(f"{client.name} has {figures['ok']} answers to {told['rows']} rows:\n{written[-3000:]}")
    report = endpoint.report()
    own_share = looks[-1][1] + report["cpu"]
    others = (_busy() - busy - own_share) / (time.monotonic() - began) / (os.cpu_count() or 1)
    return Run(client, settings, told["rows"], told.get("concurrency"), figures, report, looks, max(0.0, others))


def environment(home: Path) -> dict[str, str]:
    """Return what clients run in: no network, no telemetry, no cache of an earlier run, no compiled file missing."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "TMPDIR", "SSL_CERT_FILE"}}
    return {
        **kept,
        "HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "OPENAI_API_KEY": "none",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TELEMETRY_ENABLED": "false",
        "NEMO_TELEMETRY_ENABLED": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "DO_NOT_TRACK": "1",
    }


def machine(runs: Iterable[Run]) -> str:
    """Return what they were measured on, in a few words, and how much of it others used."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    others = median(run.others for run in runs)
    where = f"{os.cpu_count()} cores of {model}, {platform.system()}, Python {platform.python_version()}"
    return f"{where}; other processes used {others:.0%} of them"


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return float(median(values))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a client that is still there, with what it started."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()


def _busy() -> float:
    """Return the seconds of CPU that the machine has used."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _watch(pid: int, looks: list[tuple[float, float]]) -> None:
    """Note the CPU of a process and its children, until it ends."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        while root.status() != psutil.STATUS_ZOMBIE:
            cpu = 0.0
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    cpu += times.user + times.system
            looks.append((time.monotonic(), cpu))
            time.sleep(LOOK_EVERY)
