"""One attempt at one dataset: claim, ask, write, publish."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from airflow_distil.conversation import LLM
from airflow_distil.datasets.commit import Commit, OnExisting
from airflow_distil.datasets.manifest import Claim, Identity, Manifest
from airflow_distil.datasets.parts import PartWriter
from airflow_distil.datasets.source import Source
from airflow_distil.datasets.stores import Store
from airflow_distil.engine.ask import AskPass
from airflow_distil.engine.asking import Asker
from airflow_distil.engine.budget import Budget
from airflow_distil.engine.collector import collecting_seldom
from airflow_distil.engine.columns import Columns
from airflow_distil.engine.dialogue import Speech
from airflow_distil.engine.facts import Facts
from airflow_distil.engine.fingerprint import describe, fingerprint, versions
from airflow_distil.engine.limits import Limiter
from airflow_distil.engine.progress import SAMPLE_EVERY, Progress, Tally
from airflow_distil.engine.rows import Twins
from airflow_distil.engine.selection import selection
from airflow_distil.engine.stop import Stop
from airflow_distil.engine.told import Told
from airflow_distil.engine.workspace import Workspace, default_scratch
from airflow_distil.engine.write import OURS, WritePass, replaced_columns
from airflow_distil.exceptions import DestinationError, DistilError, TaskDefinitionError, one_line
from airflow_distil.llms.prices import price_of
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.generate_embeddings import GenerateEmbeddings
from airflow_distil.tasks.generator import GeneratorTask

__all__ = ["Job"]

log = logging.getLogger(__name__)

# Often enough to see a long run move, seldom enough to cost a scheduler nothing.
REPORT_EVERY = 10.0
# Who opens the page of a task that has just begun sees that it does something.
FIRST_REPORT = 1.0
# What a person would read of them; the rows have the rest.
REASONS_KEPT = 20
# Texts share calls of up to 32, and a call of 8 may take twice as long as one of 4: by their times it would be found out that
# small calls are best. Four full calls keep a server busy; the last of them is still answered in time by a slow one.
TEXTS_IN_FLIGHT = 128
# Airflow kills five seconds after it asked to stop; the flush needs what is left of them.
LAST_SECONDS = 4.0


@dataclass(slots=True)
class Job:
    """One attempt at one dataset.

    :param task: what to ask.
    :param llm: whom to ask.
    :param source: the rows, opened; for a `GeneratorTask` its candidates, by number.
    :param store: the destination, by its four verbs.
    :param destination: its URI, without credentials.
    :param identity: whose work it is.
    :param ask: which "please do it" this serves; see `Identity.ask`.
    :param try_number: for people who read claims.
    :param on_existing: what to do about an edition made for an earlier ask: `reuse`, `regenerate` or `fail`.
    :param max_failure_ratio: share of rows that may fail or be unparsed, 0 to 1.
    :param max_concurrency: most requests in flight; None leaves it to the connection, and to what is found out.
    :param max_cost_usd: most US dollars that all attempts at this dataset may pay; None is no limit.
    :param max_total_tokens: most tokens, of input and output together, that they may pay; None is no limit.
    :param scratch: folder on this host for what is not uploaded yet; None for the system's temporary folder.
    """

    task: Task
    llm: LLM
    source: Source
    store: Store
    destination: str
    identity: Identity
    ask: str
    try_number: int = 0
    on_existing: OnExisting = "reuse"
    max_failure_ratio: float = 0.05
    max_concurrency: int | None = None
    max_cost_usd: float | None = None
    max_total_tokens: int | None = None
    scratch: Path | None = None
    stop: Stop = field(default_factory=Stop)
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.task.check()
        check_columns(self.task, self.source.schema)
        ceiling = self.max_concurrency or self.llm.max_concurrency
        if ceiling is None and isinstance(self.task, GenerateEmbeddings):
            ceiling = TEXTS_IN_FLIGHT
        limiter = Limiter(ceiling, self.llm.requests_per_minute, self.llm.tokens_per_minute)
        asker = Asker(self.llm, limiter)
        self.progress = Progress(self._tally(), asker, Budget(self.llm, self.max_cost_usd, self.max_total_tokens))

    def run(
        self,
        report: Callable[[Progress], None] = lambda progress: log.info("%s", progress.line()),
        deadline: float | None = None,
    ) -> Manifest:
        """Do it, in a thread of its own, and return the published edition.

        :param report: called in the calling thread, after 1 s, then every 10 s, and at the end.
        :param deadline: `time.monotonic()` at which to stop and keep what is paid; None for no end.
        """
        result: Future[Manifest] = Future()
        # In its own thread the event loop is the same whether the caller has one running or not, and a signal handler that
        # raises in the main thread interrupts this wait, not a coroutine in the middle of writing down an answer.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._fulfil, result), name="airflow-distil", daemon=True).start()
        try:
            due = time.monotonic() + min(FIRST_REPORT, REPORT_EVERY)
            while not _wait(result, min(SAMPLE_EVERY, REPORT_EVERY), deadline):
                self.progress.sample()
                if (now := time.monotonic()) >= due:
                    report(self.progress)
                    due = now + REPORT_EVERY
                if deadline is not None and now >= deadline:
                    self.stop.request("the end of execution_timeout is near")
                    deadline = None
        except BaseException as error:
            self.stop.request(type(error).__name__)
            _wait(result, LAST_SECONDS, None)
            raise
        if result.exception() is None:
            report(self.progress)
        return result.result()

    def _fulfil(self, result: Future[Manifest]) -> None:
        try:
            with collecting_seldom():
                manifest = self._attempt()
        except BaseException as error:  # noqa: BLE001 - handed over to the caller's thread
            result.set_exception(error)
        else:
            result.set_result(manifest)

    def _attempt(self) -> Manifest:
        commit = Commit(self.store, self.identity, self.ask, try_number=self.try_number)
        with _naming(self.destination):
            begun = commit.begin(fingerprint(self.task, self.llm, self.source), self.on_existing)
        if isinstance(begun, Manifest):
            self.progress.phase = "published already"
            self.progress.tally.counts.update(ok=begun.ok, unparsed=begun.unparsed, failed=begun.failed, skipped=begun.skipped)
            self.progress.replayed = begun.rows
            log.info("Edition %d of %s is the answer already; nothing is asked", begun.edition, self.destination)
            return begun
        if not commit.fences:
            log.warning("%s does not keep two attempts apart (no put-if-absent); do not run two at a time", self.destination)
        workspace = Workspace(self.scratch or default_scratch(), self.destination, begun.folder)
        with _naming(self.destination):
            self.progress.budget.belongs_to(commit.nonces())
            facts = Facts(
                self.store,
                begun,
                workspace,
                rows=self.source.rows,
                samples=self.task.num_generations,
                count=self.progress.budget.count,
            )
        published = False
        try:
            dialogues = self.source.rows * self.task.num_generations
            counting = Twins(workspace.path / "twins", dialogues, facts.opens)
            with closing(counting) as twins, closing(Told(workspace.path, self.task)) as told:
                manifest = self._produce(commit, begun, workspace, facts, twins=twins, told=told)
            published = True
        finally:
            self._put_away(facts, workspace, published=published)
        return manifest

    def _produce(
        self, commit: Commit, claim: Claim, workspace: Workspace, facts: Facts, *, twins: Twins, told: Told
    ) -> Manifest:
        columns = Columns(self.task.output_names, self.task.output_types)
        speech = Speech(
            task=self.task,
            model=self.llm.model,
            parameters=self.llm.parameters,
            round=claim.round,
            ask=bytes.fromhex(claim.ask),
            read=columns.read,
        )
        with _naming(self.destination):
            if known := facts.load():
                log.info("Going on from %d answers that earlier attempts paid for", known)
        asking = AskPass(
            speech=speech,
            llm=self.llm,
            batches=self.source.batches(),
            facts=facts,
            twins=twins,
            told=told,
            commit=commit,
            selection=selection(self.task, self.progress.tally),
            progress=self.progress,
            stop=self.stop,
        )
        price_of(self.llm)  # loads the list of prices now, not while answers arrive
        with _naming(self.destination), asyncio.Runner(loop_factory=_loop()) as runner:
            runner.run(asking.run())
        if columns.mixed:
            log.warning(
                "%s have values without a common type and are written as text (JSON where they are not); declare output_types",
                ", ".join(sorted(columns.mixed)),
            )

        columns.has_gaps |= self.progress.tally.counts["ok"] < self.progress.tally.done
        self.progress.begin("writing")
        writing = WritePass(
            task=self.task,
            model=self.llm.model,
            columns=columns,
            source=self.source.batches(),
            schema=self.source.schema,
            told=told,
            progress=self.progress,
            stop=self.stop,
            map_index=self.identity.map_index if self.identity.map_index >= 0 else None,
        )
        with _naming(self.destination):
            facts.flush()
            schema = writing.output_schema
            with PartWriter(self.store, f"data/{claim.folder}", workspace.path, schema, commit.look) as writer:
                for batch in writing.batches():
                    writer.write(batch)
                parts = writer.finish()
            self.source.verify()
            counts, lost = self.progress.tally.counts, self.progress.tally.lost
            self.progress.phase = "published"
            return commit.publish(
                {
                    "parts": parts,
                    "columns": {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)},
                    "rows": counts.total(),
                    "ok": counts["ok"],
                    "unparsed": counts["unparsed"],
                    "failed": counts["failed"],
                    "skipped": counts["skipped"],
                    "lost": dict(lost),
                    "input_tokens": asking.bill.input_tokens,
                    "output_tokens": asking.bill.output_tokens,
                    "cost_usd": asking.bill.cost_usd,
                    "paid": self.progress.budget.paid.summary,
                    "model": self.llm.model,
                    "numbers": writing.numbers.summary,
                    "reasons": dict(self.progress.tally.reasons.most_common(REASONS_KEPT)),
                    "task": self._described(),
                    "source": self.source.identity,
                    "limits": list(self.progress.asker.limiter.history),
                    "versions": versions(),
                }
            )

    def _described(self) -> dict[str, Any]:
        """Return what people want to know of an edition: the task's fields, which columns are its own, and how it asked."""
        outputs = [self.task.output_mappings.get(name, name) for name in self.task.output_names]
        return {**describe(self.task), "outputs": outputs, "generation_kwargs": dict(self.llm.parameters)}

    def _put_away(self, facts: Facts, workspace: Workspace, *, published: bool) -> None:
        """Upload what is paid for, whatever happened, and tidy up."""
        kept = False
        try:
            facts.flush()
        except OSError as error:
            kept = True
            log.warning("The last answers could not be uploaded and are kept in %s: %s", workspace.path, one_line(str(error)))
        if not kept:
            # Their facts were taken over at the start and are uploaded with ours now.
            workspace.forget_earlier()
        facts.close()
        workspace.close(keep=kept and not published)

    def _tally(self) -> Tally:
        if isinstance(self.task, GeneratorTask):
            return Tally(self.task.num_rows, self.max_failure_ratio)
        samples = 1 if self.task.group_generations else self.task.num_generations
        return Tally(self.source.rows * samples, self.max_failure_ratio)


def check_columns(task: Task, schema: pa.Schema) -> None:
    """Check, before anything is asked, that a task and a source fit.

    :raises TaskDefinitionError: if the source lacks a column, or an output would overwrite one.
    """
    needed = {
        task.input_mappings.get(name, name): name
        for name, required in task.input_names.items()
        if required or name in task.input_mappings
    }
    if missing := [column for column in needed if column not in schema.names]:
        raise TaskDefinitionError(
            f"Task {task.name!r} reads {_list(missing)}, which the source does not have. "
            f"Its columns are {_list(schema.names)}. If one of them is meant, pass "
            f"input_mappings={{{needed[missing[0]]!r}: '<column>'}}."
        )
    written = [task.output_mappings.get(name, name) for name in (*task.output_names, "model_name")]
    if twice := sorted({name for name in written if written.count(name) > 1}):
        raise TaskDefinitionError(f"Task {task.name!r} would write {_list(twice)} twice. Change its output_mappings.")
    if ours := sorted(set(written) & set(OURS)):
        raise TaskDefinitionError(f"Task {task.name!r} would write {_list(ours)}, which airflow-distil writes itself.")
    if lost := [name for name in written if name in schema.names and name not in replaced_columns(task, schema)]:
        back = {mapped: name for name, mapped in task.output_mappings.items()}
        paste = {**task.output_mappings, **{back.get(name, name): f"{task.name}_{name}" for name in lost}}
        raise TaskDefinitionError(
            f"Task {task.name!r} would overwrite {_list(lost)} of the source. Nothing was asked. "
            f"Write to other columns with output_mappings={paste!r}."
        )


def _list(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _wait(result: Future[Any], seconds: float, deadline: float | None) -> bool:
    """Wait for a result; tell whether it is there. A signal handler that raises ends the wait."""
    if deadline is not None:
        seconds = max(0.0, min(seconds, deadline - time.monotonic()))
    try:
        result.exception(seconds)
    except TimeoutError:
        return result.done()
    return True


def _loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop where it is installed, as it spends a third less CPU on a request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextmanager
def _naming(destination: str) -> Iterator[None]:
    """Say which destination it was that could not be read or written."""
    try:
        yield
    except DistilError:
        raise
    except OSError as error:
        raise DestinationError(f"{destination} cannot be read or written: {error}. What was answered is kept.") from error
