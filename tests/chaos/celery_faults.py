"""What can happen to a run on the Celery stack, and what must be true after it."""

from __future__ import annotations

import random
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from airflow_distil import open_dataset
from airflow_distil.exceptions import NotPublished
from tests.chaos.celery_run import ROWS, TIMEOUT, CeleryRun, celery_run
from tests.chaos.verdict import Verdict
from tests.system.celery_stack import CeleryStack, celery_stack
from tests.system.component import Component

__all__ = ["FAULTS", "WHERE", "CeleryFault", "run_all"]

WHERE = "Celery, gs"
DAGS = Path(__file__).parents[1] / "system" / "dags"
# Runs whose fault is their own; each has an Airflow supervisor and a task at work on two cores.
TOGETHER = 3
# Longer than an upload's patience for one request, shorter than its retries altogether.
STORE_DOWN = 10.0

Strike = Callable[[CeleryStack, CeleryRun], str]


@dataclass(frozen=True)
class CeleryFault:
    """Something that happens to a run, or to the stack under it.

    :param name: short, for a table.
    :param strike: lets a run that has been triggered suffer it, and returns in a few words what a user saw. Its docstring says
        what happens.
    :param alone: it happens to all of the stack: nothing else may run at the time.
    :param dag_id: what runs.
    :param mapped: into how many mapped tasks the rows are divided.
    """

    name: str
    strike: Strike
    alone: bool = False
    dag_id: str = "celery_text"
    mapped: int = 1

    @property
    def description(self) -> str:
        """What happens, in one line."""
        return " ".join((self.strike.__doc__ or "").split())

    def run(self, stack: CeleryStack, chance: random.Random, scripted: bool, seed: int = 0) -> Verdict:
        """Make a run that suffers it, and judge it. Whatever goes wrong is in the verdict.

        :param scripted: at its fixed point; else at one that `chance` chooses.
        :param seed: of `chance`, for the verdict.
        """
        begin = time.monotonic()
        with celery_run(stack, chance, scripted=scripted, dag_id=self.dag_id, mapped=self.mapped) as run:
            lost = doubled = 0
            try:
                run.start()
                outcome = self.strike(stack, run)
                run.wait_for_zombies()
                lost, doubled = run.judge()
            except Exception as error:  # noqa: BLE001  one run that cannot be judged must not end the others
                outcome = "it could not be brought to an end"
                where = traceback.extract_tb(error.__traceback__)[-1]
                run.problems.append(f"{type(error).__name__}: {error} ({where.name}); {run.last_words()}"[:4000])
                lost = ROWS
            paid, bound = run.bill()
        return Verdict(
            fault=self.name,
            where=WHERE,
            seed=seed,
            outcome=outcome,
            rows=ROWS,
            lost=lost,
            doubled=doubled,
            paid=paid,
            needed=run.needed,
            bound=bound,
            seconds=time.monotonic() - begin,
            problems=tuple(run.problems),
        )


FAULTS: list[CeleryFault] = []


def fault(name: str, *, alone: bool = False, dag_id: str = "celery_text", mapped: int = 1) -> Callable[[Strike], Strike]:
    """Add a function to the faults; parameters as those of `CeleryFault`."""

    def listed(strike: Strike) -> Strike:
        FAULTS.append(CeleryFault(name, strike, alone, dag_id, mapped))
        return strike

    return listed


# What happens to one task


@fault("task process killed")
def _kill_task(stack: CeleryStack, run: CeleryRun) -> str:
    """SIGKILL ends the process of the task, as when memory runs out; Airflow retries."""
    pid = run.pid()
    run.until_the_moment()
    run.crash()
    psutil.Process(pid).kill()
    return run.finish()


@fault("supervisor killed")
def _kill_supervisor(stack: CeleryStack, run: CeleryRun) -> str:
    """SIGKILL ends the process that supervises the task; the task becomes an orphan that nobody stops, and Airflow retries."""
    supervisor = run.supervisor()
    run.until_the_moment()
    run.superseded()
    supervisor.kill()
    return run.finish()


@fault("task process terminated")
def _terminate_task(stack: CeleryStack, run: CeleryRun) -> str:
    """SIGTERM reaches the process of the task; that must not pass for a success, and Airflow retries."""
    pid = run.pid()
    run.until_the_moment()
    run.stopped()
    psutil.Process(pid).terminate()
    return run.finish()


@fault("cleared while running")
def _clear(stack: CeleryStack, run: CeleryRun) -> str:
    """A user clears the running task; Airflow stops it and starts another try."""
    run.pid()
    run.until_the_moment()
    run.stopped()
    run.superseded()
    run.clear()
    return run.finish()


@fault("marked failed while running, then cleared")
def _mark_failed(stack: CeleryStack, run: CeleryRun) -> str:
    """A user marks the running task as failed, which stops it, and clears it later."""
    run.pid()
    run.until_the_moment()
    run.stopped()
    stack.mark(run.dag_id, run.run_id, run.task_id, "failed")
    run.finish("failed")
    run.wait_for_zombies()
    run.clear()
    return f"the run failed, and after the clear {run.finish()}"


@fault("marked success while running, then cleared")
def _mark_success(stack: CeleryStack, run: CeleryRun) -> str:
    """A user marks the running task as success: it is stopped, nothing is published, and a later clear makes it whole."""
    run.pid()
    run.until_the_moment()
    run.stopped()
    stack.mark(run.dag_id, run.run_id, run.task_id, "success")
    run.finish("success")
    run.wait_for_zombies()
    with suppress(NotPublished):
        open_dataset(run.destination)
        run.problems.append("a task that was stopped has published")
    run.clear()
    return f"green without a dataset, as the user said; after the clear {run.finish()}"


@fault("execution_timeout", dag_id="celery_timed")
def _time_out(stack: CeleryStack, run: CeleryRun) -> str:
    """Each try is given 8 s, less than the rows take; every try goes on where the last one was."""
    outcome = run.finish()
    for _ in range(run.claims() - 1):
        run.stopped()
    if run.claims() == 1:
        run.problems.append("no try was too slow")
    return outcome


@fault("second run to the same destination")
def _second_run(stack: CeleryStack, run: CeleryRun) -> str:
    """Another run of the DAG starts on the same destination; the newer one may spend, the older one ends and says why."""
    run.pid()
    run.until_the_moment()
    run.superseded()
    # Else the older one would be done before Airflow has started the newer one.
    run.llm.hold()
    first, run.run_id = run.run_id, stack.trigger(run.dag_id, run.conf)
    run.pid()
    stack.until(lambda: run.claims() > 1, TIMEOUT, "the newer run has no claim")
    run.llm.release()
    run.finish()
    newer, run.run_id = run.run_id, first
    if run.finish("failed") and "Superseded" not in run.last_words():
        run.problems.append(f"the older run does not say why it failed: {run.last_words()}")
    run.run_id = newer
    return "the newer run finished; the older one failed, superseded"


@fault("paused until new code has published", dag_id="celery_edited")
def _new_code(stack: CeleryStack, run: CeleryRun) -> str:
    """Task and supervisor sleep; the DAG gets another prompt, and the retry publishes with it; then the old code wakes."""
    supervisor = run.supervisor()
    task = psutil.Process(run.pid())
    run.until_the_moment()
    for process in (supervisor, task):
        process.suspend()
    # What the old prompt got is no answer to the new one.
    run.needed += run.llm.answered.calls
    run.superseded()
    try:
        with _edited(stack):
            outcome = run.finish()
            before, paid = run.published(), run.llm.answered.calls
            generations = open_dataset(run.destination).to_table().column("generation").to_pylist()
            if old := sum("Briefly:" not in each for each in generations):
                run.problems.append(f"{old} rows are of the old code")
            _wake(task, supervisor)
            run.wait_for_zombies()
    finally:
        _wake(task, supervisor)
    run.check_unchanged(before)
    if run.llm.answered.calls - paid > run.llm.peak_in_flight:
        run.problems.append(f"the old code paid for {run.llm.answered.calls - paid} answers after it woke")
    return f"{outcome} with the new code; the old one ended"


# What happens to a worker


@fault("worker killed", alone=True)
def _kill_worker(stack: CeleryStack, run: CeleryRun) -> str:
    """SIGKILL ends a whole worker: Celery, supervisor, task; after missed heartbeats the other worker goes on."""
    worker = run.worker()
    run.until_the_moment()
    run.crash()
    worker.kill()
    outcome = run.finish()
    worker.start()
    return f"{outcome} on the other worker"


@fault("worker terminated", alone=True)
def _terminate_worker(stack: CeleryStack, run: CeleryRun) -> str:
    """SIGTERM reaches a worker, which lets its task finish and ends; another is started."""
    worker = run.worker()
    run.until_the_moment()
    worker.terminate()
    outcome = run.finish()
    worker.wait(TIMEOUT)
    worker.start()
    return f"{outcome}, and then the worker ended"


@fault("worker paused beyond the heartbeat, then awakened", alone=True)
def _pause_worker(stack: CeleryStack, run: CeleryRun) -> str:
    """A whole worker sleeps for longer than the heartbeat timeout, and wakes after its successor has published."""
    worker = run.worker()
    run.until_the_moment()
    run.crash()
    run.superseded()
    worker.pause()
    try:
        outcome = run.finish()
        before, paid = run.published(), run.llm.answered.calls
    finally:
        worker.go_on()
    run.wait_for_zombies()
    run.check_unchanged(before)
    if run.llm.answered.calls - paid > run.llm.peak_in_flight:
        run.problems.append(f"the zombie paid for {run.llm.answered.calls - paid} answers after it woke")
    return f"{outcome}; the zombie ended"


@fault("ten mapped tasks, half of their workers lost", alone=True, dag_id="celery_mapped", mapped=10)
def _mapped(stack: CeleryStack, run: CeleryRun) -> str:
    """SIGKILL ends one of two workers while a mapped task of ten runs on both."""
    run.until_the_moment()
    running = [each for each in stack.task_instances(run.dag_id, run.run_id) if each["task_id"] == "text" and each["pid"]]
    lost = stack.worker(2)
    for each in running:
        if each["state"] == "running" and lost.holds(each["pid"]):
            run.crash()
    if not running:
        run.problems.append("no mapped task ran when the worker was lost")
    lost.kill()
    outcome = run.finish()
    lost.start()
    return outcome


# What happens to a service


def _service(component: Callable[[CeleryStack], Component]) -> Strike:
    def strike(stack: CeleryStack, run: CeleryRun) -> str:
        run.pid()
        run.until_the_moment()
        # Where Airflow gives the task up, it stops it first, or it goes on beside its successor.
        run.superseded()
        with stack.restarting():
            component(stack).restart()
            return run.finish()

    strike.__doc__ = "It is killed and started anew, and so is what ends because of that."
    return strike


fault("scheduler killed", alone=True)(_service(lambda stack: stack.scheduler))
fault("database restarted", alone=True)(_service(lambda stack: stack.database))
fault("broker restarted", alone=True)(_service(lambda stack: stack.broker))
fault("API server killed", alone=True)(_service(lambda stack: stack.api_server))


@fault("store down for ten seconds", alone=True)
def _store_down(stack: CeleryStack, run: CeleryRun) -> str:
    """Google Cloud Storage refuses connections for ten seconds."""
    run.pid()
    run.until_the_moment()
    run.stopped()
    stack.storage.kill()
    time.sleep(STORE_DOWN)  # the fault is its duration
    stack.storage.start()
    return run.finish()


# Helpers of the faults

_editing = threading.Lock()


@contextmanager
def _edited(stack: CeleryStack) -> Iterator[None]:
    """Change the prompt in the DAG file `celery_edited` for the time of the block."""
    file = stack.dags / "celery_edited.py"
    with _editing:
        original = file.read_text()
        file.write_text(original.replace('"{{ instruction }}"', '"Briefly: {{ instruction }}"'))
        try:
            yield
        finally:
            file.write_text(original)


def _wake(*processes: psutil.Process) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


# All of them


def run_all(runs: int, seed: int, faults: Sequence[CeleryFault] = FAULTS) -> Iterator[Verdict]:
    """Start a stack, and let runs suffer the faults in turn: each first at its fixed point, then at random ones."""
    plan = [(faults[number % len(faults)], seed + number, number < len(faults)) for number in range(runs)]
    with celery_stack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", stack.storage_url)
        for name in ("celery_runs.py", "celery_edited.py"):
            shutil.copy(DAGS / name, stack.dags)
        for dag_id in {each.dag_id for each in FAULTS}:
            stack.wait_for_dag(dag_id)
        pool = ThreadPoolExecutor(TOGETHER)
        try:
            own = [
                pool.submit(each.run, stack, random.Random(own_seed), scripted, own_seed)
                for each, own_seed, scripted in plan
                if not each.alone
            ]
            for done in as_completed(own):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, those that have begun are waited for, and no others
        for each, own_seed, scripted in plan:
            if each.alone:
                yield each.run(stack, random.Random(own_seed), scripted, own_seed)
                _mend(stack)


def _mend(stack: CeleryStack) -> None:
    """Start again what a run that broke off has left dead or asleep."""
    for part in stack.components:
        if part.running:
            part.go_on()
        else:
            part.start()
