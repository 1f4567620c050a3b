"""A model in this process, and a destination in memory: what the tests of the engine run on."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_distil.conversation import Answer, Chat, Request, Usage, user
from airflow_distil.datasets.log import Fact, decode_segment
from airflow_distil.datasets.manifest import Identity, Manifest
from airflow_distil.datasets.source import numbered, open_source
from airflow_distil.datasets.stores import MemoryStore, Store, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine import Job
from airflow_distil.tasks import GeneratorTask, Task, TextGeneration

IDENTITY = Identity(dag_id="dag", task_id="task", run_id="run")


def ask(number: int = 1) -> str:
    """Name an ask; each number is one clear more."""
    return IDENTITY.ask(number, "2026-01-01")


def questions(*texts: str) -> list[dict[str, Any]]:
    return [{"instruction": text} for text in texts]


def many(count: int) -> list[dict[str, Any]]:
    return questions(*(f"question {number}" for number in range(count)))


class Model:
    """An LLM that says what `say` returns for a prompt (text, None, an `Answer`, or an exception to raise).

    :param say: sees the last message and how often it was asked before.
    :param honours_n: answers `n` times, or once.
    """

    parameters: Mapping[str, Any] = {}
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __init__(
        self,
        say: Callable[[str, int], Any] = lambda prompt, time: f"{prompt}!{time or ''}",
        *,
        honours_n: bool = True,
        model: str = "parrot",
        input_price: float | None = None,
        output_price: float | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        self.say = say
        self.honours_n = honours_n
        self.model = model
        self.input_price = input_price
        self.output_price = output_price
        self.max_concurrency = max_concurrency
        self.asked: list[str] = []
        self.requests: list[Request] = []
        self.calls = 0
        self.in_flight = 0
        self.peak = 0
        self._times: Counter[str] = Counter()

    async def answer(self, request: Request, n: int = 1) -> list[Answer]:
        self.calls += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(0)
            answers = [await self._one(request) for _ in range(n if self.honours_n else 1)]
        finally:
            self.in_flight -= 1
        return answers

    async def _one(self, request: Request) -> Answer:
        prompt = prompt_of(request)
        self.asked.append(prompt)
        self.requests.append(request)
        said = self.say(prompt, self._times[prompt])
        if asyncio.iscoroutine(said):
            said = await said
        self._times[prompt] += 1
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, Answer):
            return said
        return Answer(text=said, finish_reason="stop", model="parrot-1", usage=Usage(10, 2), latency=0.1)

    async def aclose(self) -> None:
        pass


def prompt_of(request: Request) -> str:
    assert isinstance(request, Chat)
    return str(request.messages[-1]["content"])


class Lab:
    """One destination, and attempts at it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.bucket = uuid.uuid4().hex
        self.store: Store = open_store(URI.parse(f"memory://{self.bucket}/dataset"))

    def close(self) -> None:
        MemoryStore._buckets.pop(self.bucket, None)

    def job(
        self,
        rows: Any,
        model: Model,
        task: Task | None = None,
        *,
        ask: str | None = None,
        limit: int | None = None,
        identity: Identity = IDENTITY,
        **options: Any,
    ) -> Job:
        task = task or TextGeneration()
        return Job(
            **{
                "task": task,
                "llm": model,
                "source": numbered(task.candidates) if isinstance(task, GeneratorTask) else open_source(rows, limit=limit),
                "store": self.store,
                "destination": str(self.store),
                "identity": identity,
                "ask": ask or globals()["ask"](),
                "scratch": self.scratch,
                "max_failure_ratio": 1.0,
                **options,
            }
        )

    def run(self, rows: Any, model: Model, task: Task | None = None, **options: Any) -> list[dict[str, Any]]:
        """Run a job and return the rows that it published."""
        return self.rows(self.job(rows, model, task, **options).run())

    def table(self, manifest: Manifest) -> pa.Table:
        return pa.concat_tables(pq.read_table(pa.BufferReader(self.store.get(part.path))) for part in manifest.parts)

    def rows(self, manifest: Manifest) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.table(manifest).to_pylist()
        return rows

    def names(self, prefix: str) -> list[str]:
        return [entry.name for entry in self.store.list(prefix)]

    def facts(self) -> list[Fact]:
        """Return the facts of all segments."""
        return [fact for name in self.names("_distil/log/") for fact in decode_segment(self.store.get(name)).facts]

    def manifest(self) -> Manifest:
        """Return the latest edition."""
        return Manifest.parse(self.store.get(self.names("_distil/manifests/")[-1]))

    def summary(self) -> dict[str, Any]:
        return self.manifest().summary(str(self.store))


class TwoTurns(Task):
    """Asks, then asks about the answer."""

    @property
    def inputs(self) -> list[str]:
        return ["instruction"]

    @property
    def outputs(self) -> list[str]:
        return ["draft", "final"]

    def converse(self, input, rng):
        draft = yield Chat([user(input["instruction"])])
        final = yield Chat([user(f"better: {draft.text}")])
        return {"draft": draft.text, "final": final.text}
