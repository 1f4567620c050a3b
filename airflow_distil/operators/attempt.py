"""One execution of an operator: from Airflow's context to a job of the engine, and back."""

from __future__ import annotations

import datetime as dt
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, Asset
from airflow.sdk.exceptions import AirflowRescheduleException

from airflow_distil.datasets.source import numbered, open_source
from airflow_distil.engine import Job
from airflow_distil.exceptions import DistilError, QuotaExceeded, TaskDefinitionError
from airflow_distil.hooks.identity import ask_of, identity_of
from airflow_distil.hooks.page import LINK_KEY, PROGRESS_KEY, page_url
from airflow_distil.hooks.storage import destination_of, scratch_dir, store_for
from airflow_distil.operators.base import TEXTS
from airflow_distil.operators.metrics import Metrics
from airflow_distil.tasks.generator import GeneratorTask

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_distil.engine.progress import Progress
    from airflow_distil.engine.stop import Stop
    from airflow_distil.operators.base import DistilOperator

__all__ = ["run"]

log = logging.getLogger(__name__)

# Airflow raises in the main thread when execution_timeout is over; stopping a little earlier by ourselves lets answers that
# are on their way arrive.
LAST_SHARE = 0.2
LAST_SECONDS = 10.0
# A daily quota is back by then; for a monthly one, or an unpaid bill, a person is needed.
LONGEST_WAIT = dt.timedelta(days=2)


def run(operator: DistilOperator, context: Context, stop: Stop) -> dict[str, Any]:
    """Run an operator's task over its source, and return the summary.

    :raises AirflowRescheduleException: if the quota is used up and `on_quota` is `reschedule`.
    :raises AirflowFailException: if another attempt would end the same way.
    :raises AirflowException: if the next attempt can go on.
    """
    board = _Board(context)
    try:
        summary = _run(operator, context, stop, board)
    except DistilError as error:
        board.push("failed", error)
        if isinstance(error, QuotaExceeded) and operator.on_quota == "reschedule":
            _come_back(operator, context, error)
        # The one place where our errors become Airflow's: see `airflow_distil.exceptions` for which are final.
        raise (AirflowFailException if error.final else AirflowException)(f"{type(error).__name__}: {error}") from error
    for outlet in operator.outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra = summary
    return summary


class _Board:
    """What a task instance tells of itself in the UI: by XCom, where its page is and where it stands.

    All of it is for people: the dataset does not depend on it, so nothing here raises.
    """

    def __init__(self, context: Context) -> None:
        self._ti = context["ti"]
        self._said: dict[str, Any] = {}
        self.page = page_url(identity_of(context))
        self.progress: Progress | None = None
        self._push(LINK_KEY, self.page)

    def introduce(self, **facts: Any) -> None:
        """Add what is known before the first row."""
        self._said |= facts
        self.push("starting")

    def push(self, phase: str | None = None, error: Exception | None = None) -> None:
        """Tell where it stands.

        :param phase: one that only the operator knows of.
        """
        figures = self.progress.snapshot() if self.progress else {}
        told = {**self._said, **figures, **({"phase": phase} if phase else {})}
        if error is not None:
            told["error"] = type(error).__name__  # what it says may quote rows; it is in the log
        self._push(PROGRESS_KEY, {**told, "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")})

    def _push(self, key: str, value: Any) -> None:
        try:
            self._ti.xcom_push(key, value)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("Could not push %s: %s", key, error)


def _run(operator: DistilOperator, context: Context, stop: Stop, board: _Board) -> dict[str, Any]:
    # Airflow counts execution_timeout from now on, so opening a large source is part of it.
    deadline = _deadline(operator)
    identity = identity_of(context)
    for name in TEXTS:
        value = getattr(operator, name)
        if not isinstance(value, str | None):
            raise TaskDefinitionError(f"{name} is {value!r}, a {type(value).__name__}; it must be text.")
        if value == "":
            raise TaskDefinitionError(
                f"{name} is empty. Was it a template over a value that is not set? Leave it out for the default."
            )
    destination = destination_of(operator.destination, identity)
    if operator.on_existing not in {"reuse", "regenerate", "fail"}:
        raise TaskDefinitionError(f"on_existing is {operator.on_existing!r}; it must be 'reuse', 'regenerate' or 'fail'.")
    llm = operator.get_llm()
    board.introduce(destination=str(destination), task=operator.task.name, model=llm.model)
    source = (
        numbered(operator.task.candidates)
        if isinstance(operator.task, GeneratorTask)
        else open_source(
            operator.source, stores=store_for, limit=operator.limit, columns=operator.source_columns, schema=operator.schema
        )
    )
    scratch = scratch_dir()
    job = Job(
        task=operator.task,
        llm=llm,
        source=source,
        store=store_for(destination),
        destination=str(destination),
        identity=identity,
        ask=ask_of(context),
        try_number=context["ti"].try_number,
        on_existing=operator.on_existing,
        max_failure_ratio=operator.max_failure_ratio,
        max_concurrency=operator.max_concurrency,
        max_cost_usd=operator.max_cost_usd,
        max_total_tokens=operator.max_total_tokens,
        scratch=Path(scratch) if scratch else None,
        stop=stop,
    )
    board.progress = job.progress
    rows = job.progress.tally.total
    log.info("%d rows, task %s, model %s, to %s", rows, operator.task.name, llm.model, destination)

    metrics = Metrics(context["ti"])

    def report(progress: Progress) -> None:
        log.info("%s", progress.line())
        metrics.emit(progress.budget.own)
        board.push()

    try:
        manifest = job.run(report, deadline)
    finally:
        metrics.emit(job.progress.budget.own)
    return manifest.summary(str(destination), board.page)


def _come_back(operator: DistilOperator, context: Context, error: QuotaExceeded) -> None:
    """Give the slot back until the endpoint serves us again, unless that has been tried for too long.

    :raises AirflowRescheduleException: with the time to go on at.
    """
    now = dt.datetime.now(dt.UTC)
    first = context["ti"].get_first_reschedule_date(context) or now
    wait = operator.retry_delay if error.retry_after is None else dt.timedelta(seconds=error.retry_after)
    if now + wait - first > LONGEST_WAIT:
        log.error("Not waiting any longer for the quota, of which it was first told at %s", first)
        return
    log.warning("%s What was answered is kept; going on in %s", error, wait)
    raise AirflowRescheduleException(now + wait) from error  # type: ignore[no-untyped-call]


def _deadline(operator: DistilOperator) -> float | None:
    if operator.execution_timeout is None:
        return None
    seconds = operator.execution_timeout.total_seconds()
    return time.monotonic() + seconds - min(LAST_SECONDS, LAST_SHARE * seconds)
