"""The ask pass: stream the rows, replay what is known, ask the rest in a sliding window.

Rows finish in any order, and a finished row leaves memory: it waits on disk until all are finished.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from queue import SimpleQueue
from typing import Any

import msgspec
import pyarrow as pa

from airflow_distil.conversation import LLM, Answer, Request, Row
from airflow_distil.datasets.commit import Commit
from airflow_distil.datasets.log import Fact, Kind
from airflow_distil.datasets.memory import give_back
from airflow_distil.datasets.readers import without_surrogates
from airflow_distil.datasets.source import rows_of
from airflow_distil.engine.dialogue import Dialogue, Outcome, Speech, Turn, check_body
from airflow_distil.engine.drift import check_logged, check_rendering, kept_prompt
from airflow_distil.engine.facts import SEGMENT_BYTES, Facts
from airflow_distil.engine.metadata import Bill
from airflow_distil.engine.progress import Progress
from airflow_distil.engine.rows import Fate, Twins, dialogues, fates, is_skipped, skipped
from airflow_distil.engine.selection import Selection
from airflow_distil.engine.stop import Stop
from airflow_distil.engine.told import Told
from airflow_distil.exceptions import (
    BadRow,
    DestinationError,
    DistilError,
    Fatal,
    RateLimited,
    TooManyFailures,
    Transient,
    one_line,
)
from airflow_distil.llms.prices import cost_of

__all__ = ["AskPass", "window"]

log = logging.getLogger(__name__)

# A killed attempt loses no more than this much of what other hosts can see of it.
UPLOAD_EVERY = 5.0
# Uploads that fail for a minute in a row mean that the store is down, not that it hiccuped.
UPLOAD_FAILURES = 12
# A process that was paused may have been given up meanwhile. Seconds of wall clock, which also passes while a machine sleeps.
CLOCK_JUMP = 10.0
# Airflow kills five seconds after SIGTERM; answers on their way get the first two of them.
GRACE = 2.0
# A row that waits for a retry keeps its place in the window but not in flight, so the window must be wider than the limit.
WINDOW_PER_LIMIT = 2
WINDOW_LEAST = 32
# Free places in the window before more rows begin: to be woken for each of them costs 5 % of the CPU of a row.
REFILLED = 8
# Seconds that the next batch may take before the rows of this one begin. A file at hand is read by then; while both go on, each
# system call of the one wakes the other in vain, which costs a tenth of the time.
UNDISTURBED = 0.01
# Rows made into Python objects at a time: none waits, however wide they are.
ROWS_AT_ONCE = 64
# Rows replayed between two looks at the event loop: often enough for timers and signals, seldom enough to cost nothing.
REPLAYS_PER_TURN = 64
# Enough to see what a model does wrong, too little to fill a log.
BAD_SHOWN = 3
CHARACTERS_SHOWN = 300

_END = pa.record_batch({})
_TRACE = attrgetter("trace")


class _Halted(Exception):
    """Nothing may be sent any more."""


class _Dearer(Exception):
    """While a request waited for its place in flight, answers became dearer, and it does not fit into the budget any more."""


class _OutOfBudget(Exception):
    """There is no room for another request, and none in flight that could make some."""


@dataclass(slots=True)
class _Row:
    ordinal: int
    dialogues: list[Dialogue]
    outcomes: list[Outcome | None]
    wanting: list[tuple[Dialogue, list[Turn]]]
    asked: bool = False


@dataclass(slots=True)
class AskPass:
    """One ask pass; `run` it once, inside an event loop.

    :param batches: the source, from its first row.
    :param told: takes what becomes of the rows.
    :param bill: what is behind them.
    """

    speech: Speech
    llm: LLM
    batches: Iterator[pa.RecordBatch]
    facts: Facts
    twins: Twins
    told: Told
    commit: Commit
    selection: Selection
    progress: Progress
    stop: Stop
    bill: Bill = field(init=False, default_factory=Bill)
    _wanted: SimpleQueue[asyncio.Future[list[Row]] | None] = field(init=False, default_factory=SimpleQueue)
    _open: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    _failure: BaseException | None = field(init=False, default=None)
    _halted: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _moved: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _segment_full: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _looking: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _tick: float = field(init=False, default_factory=time.time)
    _honours_n: bool = field(init=False, default=True)
    _shown: Counter[str] = field(init=False, default_factory=Counter)

    async def run(self) -> None:
        """Ask everything that is not known yet. Every fact is in the scratch file when this returns or raises."""
        # One thread, as what each one takes stays with it: of several, whichever is idle would take its turn. It has ended
        # before anybody else uploads.
        with ThreadPoolExecutor(1, "airflow-distil-upload") as uploader:
            await self._ask_all(uploader)
        if isinstance(self._failure, _OutOfBudget):
            # Now, when the rows that its last answers finished are counted.
            raise self.progress.budget.exceeded(self.progress.tally.done, self.progress.tally.total)
        if self._failure is not None:
            raise self._failure

    async def _ask_all(self, uploader: Executor) -> None:
        loop = asyncio.get_running_loop()
        self.stop.listen(lambda: loop.call_soon_threadsafe(self._halt, self.stop.error))
        upkeep = [asyncio.create_task(self._upload_regularly(uploader)), asyncio.create_task(self._watch_clock())]
        for task in upkeep:
            task.add_done_callback(self._ended)
        try:
            try:
                await self._feed()
            except Exception as error:  # noqa: BLE001 - raised by `run`, after what is on its way has arrived
                self._halt(error)
            await self._drain()
        finally:
            self._wanted.put(None)
            self.stop.listen(None)
            for task in (*upkeep, *self._open):
                task.cancel()
            await asyncio.gather(*upkeep, *self._open, return_exceptions=True)  # cancelled
            await self.llm.aclose()

    async def _feed(self) -> None:
        loop = asyncio.get_running_loop()  # before Python 3.12 each look at it is a system call
        ordinal = 0
        replayed = 0
        # One batch ahead, read in a thread: the store's latency is not the window's. In one thread, as the memory that each new
        # one allocates stays with the process; and not in the loop's own, which are waited for at the end: a source that hangs
        # would hold up a stop.
        threading.Thread(target=self._read, name="airflow-distil-read", daemon=True).start()
        ahead = self._read_ahead()
        while (batch := await self._unless_halted(ahead)).num_rows:
            ahead = self._read_ahead()
            await asyncio.wait([ahead], timeout=UNDISTURBED)
            for row in _rows(batch):
                if self._must_wait():
                    await self._room()
                if self._halted.is_set() or not self.selection.missing:
                    return
                self.selection.begin()
                state = self._begin(ordinal, row)
                ordinal += 1
                if state is None:
                    replayed += 1
                    if replayed % REPLAYS_PER_TURN == 0:
                        await asyncio.sleep(0)
                    continue
                task = loop.create_task(self._converse(state))
                self._open.add(task)
                task.add_done_callback(self._ended)

    def _read_ahead(self) -> asyncio.Future[pa.RecordBatch]:
        reading: asyncio.Future[pa.RecordBatch] = asyncio.get_running_loop().create_future()
        self._wanted.put(reading)
        return reading

    def _read(self) -> None:
        """Read a batch for each future that is put, until there is none."""
        while reading := self._wanted.get():
            batch = _END
            failure: Exception | None = None
            try:
                # A batch without rows is not the end.
                batch = next((batch for batch in self.batches if batch.num_rows), _END)
                give_back()
            except Exception as error:  # noqa: BLE001 - raised where the batch is waited for
                failure = error
            with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                reading.get_loop().call_soon_threadsafe(_arrive, reading, batch, failure)

    async def _unless_halted(self, reading: asyncio.Future[pa.RecordBatch]) -> pa.RecordBatch:
        halted = asyncio.create_task(self._halted.wait())
        waited_for: set[asyncio.Future[Any]] = {halted, reading}
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        finally:
            halted.cancel()
        if self._halted.is_set():
            reading.cancel()
            return _END
        return reading.result()

    def _begin(self, ordinal: int, row: Row) -> _Row | None:
        """Start a row's dialogues; return it if something has to be asked, None if it is finished."""
        if is_skipped(row):
            self._take(ordinal, skipped(self.speech, row))
            return None
        opened = dialogues(self.speech, row, ordinal, self.twins)
        state = _Row(ordinal, opened, [None] * len(opened), [])
        state.wanting = self._advance(state)
        if state.wanting:
            for dialogue, turns in state.wanting:
                check_logged(self.facts, dialogue, turns[0])
            return state
        self._finish(state)
        return None

    def _advance(self, state: _Row) -> list[tuple[Dialogue, list[Turn]]]:
        wanting = []
        for sample, dialogue in enumerate(state.dialogues):
            if state.outcomes[sample] is None:
                match dialogue.advance(self.facts.find):
                    case Outcome() as outcome:
                        state.outcomes[sample] = outcome
                    case turns:
                        wanting.append((dialogue, turns))
        return wanting

    def _finish(self, state: _Row) -> None:
        outcomes = [outcome for outcome in state.outcomes if outcome is not None]
        # Also of candidates that become no row: they were paid for.
        self.bill.add(outcomes)
        self._take(state.ordinal, list(fates(self.speech, outcomes, asked=state.asked)))

    def _show_bad(self, ordinal: int, fate: Fate) -> None:
        """Log why the first few are not ok: who watches need not wait, and what is not published can be seen nowhere else."""
        for outcome in fate.outcomes:
            if outcome.status == "ok" or not outcome.trace or self._shown[outcome.status] >= BAD_SHOWN:
                continue
            self._shown[outcome.status] += 1
            error = one_line(str(outcome.error))
            if outcome.status == "unparsed":
                said = str(outcome.trace[-1].body.get("text"))[:CHARACTERS_SHOWN]
                log.warning("Row %d could not be read: %s. The model said: %r", ordinal, error, said)
            else:
                log.warning("Row %d failed: %s", ordinal, error)

    def _take(self, ordinal: int, told: list[Fate]) -> None:
        try:
            for number, rows in self.selection.take(ordinal, told):
                self.told.put(number, rows)
                for fate in rows:
                    # What failed before anything was asked is in no log.
                    self.progress.replayed += not fate.asked and any(map(_TRACE, fate.outcomes))
                    if fate.status != "ok":
                        self._show_bad(ordinal, fate)
        except TooManyFailures as error:
            self._halt(error)

    async def _converse(self, state: _Row) -> None:
        state.asked = True
        try:
            # Samples that begin with the same request share one call; from then on each goes its own way.
            wanting, state.wanting = state.wanting, []
            alike = groupby(sorted(wanting, key=_opening), key=_opening)
            await _all(self._open_together(list(group)) for _, group in alike)
            check_rendering(state.ordinal, state.dialogues)
            await _all(self._talk(dialogue) for dialogue, _ in wanting)
            if self._advance(state):
                raise _Halted
        except _Halted:
            return
        self._finish(state)

    async def _open_together(self, group: list[tuple[Dialogue, list[Turn]]]) -> None:
        if len(group) > 1 and all(len(turns) == 1 for _, turns in group) and self._honours_n:
            await self._ask([(dialogue, turns[0]) for dialogue, turns in group])
        else:
            await _all(self._ask([(dialogue, turn)]) for dialogue, turns in group for turn in turns)

    async def _talk(self, dialogue: Dialogue) -> None:
        while isinstance(turns := dialogue.advance(self.facts.find), list):
            await _all(self._ask([(dialogue, turn)]) for turn in turns)

    async def _ask(self, askers: list[tuple[Dialogue, Turn]]) -> None:
        """Ask one request on behalf of all askers, and write down what became of it."""
        request = askers[0][1].request
        began = time.monotonic()
        try:
            answers, tried = await self._answers(request, len(askers))
        except BadRow as error:
            if len(askers) > 1 and not error.usages:
                # Some endpoints refuse `n` as they would a bad row; if one at a time works, that is what they meant.
                await _all(self._ask([asker]) for asker in askers)
                self._honours_n = self._honours_n and not any(dialogue.is_answered(turn) for dialogue, turn in askers)
                return
            paid = [self._paid(Answer(usage=usage), len(error.usages)) for usage in error.usages[: len(askers)]]
            # Who got no answer of those that were withheld has nothing to pay.
            self._write_down(askers, Kind.BAD_ROW, *({**_failure(error, began), **each} for each in [*paid, {}]))
        except (Transient, RateLimited) as error:
            self._write_down(askers, Kind.TRANSIENT, _failure(error, began))
        except Fatal as error:
            self._halt(error)
            raise _Halted from error
        else:
            bodies = [self._body(answer, tried, len(answers)) for answer in answers[: len(askers)]]
            served, unserved = askers[: len(bodies)], askers[len(bodies) :]
            self._write_down(served, Kind.ANSWER, *bodies)
            if unserved:
                self._honours_n = False
                await _all(self._ask([asker]) for asker in unserved)

    async def _answers(self, request: Request, count: int) -> tuple[list[Answer], int]:
        budget = self.progress.budget
        if not budget.limited:
            return await self.progress.asker.ask(request, count, self._permit)

        async def permit() -> None:
            await self._permit()
            if not budget.fits(count):
                raise _Dearer

        while await budget.admit(count, request):
            try:
                return await self.progress.asker.ask(request, count, permit)
            except _Dearer:
                continue
            finally:
                budget.release(count)
        if self._halted.is_set():
            raise _Halted
        raise _OutOfBudget

    def _paid(self, answer: Answer, sharing: int) -> dict[str, Any]:
        """Return what an answer cost, as its fact says it, and count it."""
        usage = answer.usage
        body: dict[str, Any] = {"usage": [usage.input_tokens, usage.output_tokens]}
        if (cost := cost_of(self.llm, answer, sharing)) is not None:
            body["cost"] = cost
        self.progress.budget.add(body)
        return body

    def _body(self, answer: Answer, tried: int, sharing: int) -> dict[str, Any]:
        body = {
            "text": without_surrogates(answer.text),
            "vector": None if answer.vector is None else list(answer.vector),
            "scores": None if answer.scores is None else list(answer.scores),
            "finish_reason": without_surrogates(answer.finish_reason),
            "model": without_surrogates(answer.model),
            **self._paid(answer, sharing),
            "latency": answer.latency,
            "attempts": tried,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _write_down(self, askers: list[tuple[Dialogue, Turn]], kind: Kind, *bodies: dict[str, Any]) -> None:
        facts = []
        for position, (dialogue, turn) in enumerate(askers):
            body = bodies[min(position, len(bodies) - 1)]
            if prompt := kept_prompt(dialogue.ordinal, turn):
                body = {**body, **prompt}
            facts.append(self._fact(dialogue, turn, kind, body))
        if kind is not Kind.TRANSIENT:  # no fact: the next attempt asks again
            try:
                self.facts.add(facts)
            except OSError as error:
                self._halt(error)  # at once: whoever takes this answer's place in flight must not send, as it would be lost too
                raise
        for (dialogue, _), fact in zip(askers, facts, strict=True):
            dialogue.learn(fact)
        if self.facts.pending >= SEGMENT_BYTES:
            self._segment_full.set()

    def _fact(self, dialogue: Dialogue, turn: Turn, kind: Kind, body: dict[str, Any]) -> Fact:
        fact = self.facts.fact(turn, ordinal=dialogue.ordinal, sample=dialogue.sample, kind=kind, body=body)
        try:
            # As whoever reads the log does: what it would leave out would be paid for again by each attempt.
            check_body(fact)
        except ValueError as error:
            body = {"error": f"the answer holds what cannot be kept, such as a number that is not finite: {error}"}
            return fact._replace(kind=Kind.BAD_ROW, body=msgspec.json.encode(body))
        return fact

    async def _permit(self) -> None:
        """Let a request leave only while this attempt is the newest and not told to stop."""
        await self._still_mine()
        if self._halted.is_set():
            raise _Halted

    async def _still_mine(self) -> None:
        if abs(time.time() - self._tick) <= CLOCK_JUMP:
            return
        async with self._looking:
            if abs(time.time() - self._tick) > CLOCK_JUMP:
                log.warning("The clock jumped by over %d s; looking for a newer attempt before going on", CLOCK_JUMP)
                try:
                    await asyncio.to_thread(self.commit.look)
                except (DistilError, OSError) as error:
                    self._halt(error)
                self._tick = time.time()

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self._still_mine()
            self._tick = time.time()

    async def _upload_regularly(self, uploader: Executor) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes in the turn in which the event is set.
            # The last answer of a run may set it, and the run would never end.
            with suppress(TimeoutError):
                async with asyncio.timeout(UPLOAD_EVERY):
                    await self._segment_full.wait()
            # What is full goes before its time; the rest would be a small segment that somebody has to open.
            least = SEGMENT_BYTES if self._segment_full.is_set() else 1
            self._segment_full.clear()
            if self.facts.pending < least:
                continue
            try:
                await loop.run_in_executor(uploader, self._upload, least)
                failures = 0
            except OSError as error:
                failures += 1
                log.warning("Could not upload the log (%d. time in a row), trying again: %s", failures, one_line(str(error)))
                if failures >= UPLOAD_FAILURES:
                    raise DestinationError(f"The log cannot be uploaded: {error}. Its facts are kept on this host.") from error
                # However much is waiting: a store that is down for a moment must not use up all tries in it.
                await asyncio.sleep(UPLOAD_EVERY)

    def _upload(self, least: int) -> None:
        self.commit.look()
        self.facts.flush(least)

    async def _room(self) -> None:
        while self._must_wait(REFILLED):
            self._moved.clear()
            await self._moved.wait()

    def _must_wait(self, least_free: int = 1) -> bool:
        """Tell whether fewer than so many places are free in the window, and it is to be expected that some will be."""
        # Most rows of a replay find it empty; looking at the limits would be a good part of what they take.
        if not self._open or self._halted.is_set():
            return False
        return not self.selection.has_room(window(self.progress.asker.limiter.limit) - least_free + 1)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not self._must_wait(REFILLED):
            self._moved.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._halt(error)

    def _halt(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._halted.set()
        self.progress.budget.close()
        self._moved.set()

    async def _drain(self) -> None:
        """Wait for the open rows; once halted, only for what is on its way, and not for long."""
        halted = asyncio.create_task(self._halted.wait())
        try:
            while self._open and not self._halted.is_set():
                await asyncio.wait({halted, *self._open}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            halted.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=GRACE)


def window(limit: int) -> int:
    """Return how many rows are begun at most, where so many requests may be in flight."""
    return max(WINDOW_LEAST, WINDOW_PER_LIMIT * limit)


def _arrive(reading: asyncio.Future[pa.RecordBatch], batch: pa.RecordBatch, failure: Exception | None) -> None:
    if reading.cancelled():
        return
    if failure is None:
        reading.set_result(batch)
    else:
        reading.set_exception(failure)


def _rows(batch: pa.RecordBatch) -> Iterator[Row]:
    # Here, not in the thread that reads, which had to take turns with this one for it.
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        yield from rows_of(batch.slice(start, ROWS_AT_ONCE))


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines together to the end of each, then raise the first error: none is left behind to write after the end."""
    together = list(coroutines)
    if len(together) == 1:  # most rows ask one thing at a time, and need no further tasks for it
        await together[0]
        return
    failures = [
        result for result in await asyncio.gather(*together, return_exceptions=True) if isinstance(result, BaseException)
    ]
    if failures:
        try:
            raise failures[0]
        finally:
            del failures  # an error that its own frame holds waits for the collector


def _failure(error: Exception, began: float) -> dict[str, Any]:
    return {"error": without_surrogates(str(error)), "latency": time.monotonic() - began}


def _opening(wanting: tuple[Dialogue, list[Turn]]) -> bytes:
    return wanting[1][0].content
