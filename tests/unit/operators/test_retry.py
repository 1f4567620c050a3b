"""When Airflow tries again, and when a task gives its slot back to wait for a quota."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRescheduleException

from airflow_distil.exceptions import Fatal, QuotaExceeded, RateLimited, SourceError, TaskDefinitionError
from airflow_distil.operators import DistilRetryPolicy, TextGenerationOperator
from airflow_distil.testing import FakeLLM, Fault
from tests.unit.operators.attempts import attempt

NO_QUOTA = Fault(status=429, body={"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, times=None)
TOMORROW = Fault(status=429, headers={"Retry-After": "7200"}, times=None)


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path / "out"))
    monkeypatch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", str(tmp_path / "scratch"))
    with FakeLLM() as llm, llm.as_connection("distil_llm_default", max_concurrency=1):
        yield llm


def operator(**arguments):
    rows = [{"instruction": f"question {number}"} for number in range(4)]
    return TextGenerationOperator(task_id="task", source=rows, retry_delay=dt.timedelta(minutes=7), **arguments)


def rescheduled(first: dt.datetime | None = None, **arguments) -> dt.timedelta:
    """Return how far in the future the task wants to go on."""
    began = dt.datetime.now(dt.UTC)
    with pytest.raises(AirflowRescheduleException) as caught:
        attempt(operator(on_quota="reschedule", **arguments), get_first_reschedule_date=lambda _: first)
    return caught.value.reschedule_date - began


def test_quota_gone_in_the_middle_is_waited_for_and_the_rest_is_asked_then(endpoint):
    """A retry every five minutes would be used up long before a daily quota is back, and the night would be lost."""
    asked = iter(range(100))
    endpoint.fail_next(replace(NO_QUOTA, when=lambda _: next(asked) == 2))
    assert dt.timedelta(minutes=7) <= rescheduled() < dt.timedelta(minutes=8)
    summary = attempt(operator(on_quota="reschedule"))
    assert summary["ok"] == 4
    assert endpoint.answered.calls == 4


def test_told_time_is_kept_to(endpoint):
    """Coming back before it is one more refusal, and some providers count those."""
    endpoint.fail_next(TOMORROW, times=100)
    assert dt.timedelta(hours=2) <= rescheduled() < dt.timedelta(hours=2, minutes=1)


def test_quota_that_does_not_come_back_is_given_up(endpoint):
    """An unpaid bill would keep the task waiting, and its red light off, for ever."""
    endpoint.fail_next(NO_QUOTA, times=100)
    first = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    with pytest.raises(AirflowFailException, match="raise the quota"):
        attempt(operator(on_quota="reschedule"), get_first_reschedule_date=lambda _: first)


def test_retry_after_that_is_absurd_is_no_overflow(endpoint):
    """`Retry-After: 1e300` comes from a server, not from us."""
    endpoint.fail_next(429, headers={"Retry-After": "1e300"}, times=100)
    with pytest.raises(AirflowException, match="come back"):
        attempt(operator(on_quota="reschedule"), get_first_reschedule_date=lambda _: None)


@pytest.mark.parametrize(("fault", "final"), [(NO_QUOTA, True), (TOMORROW, False)], ids=["no quota", "come back tomorrow"])
def test_without_being_asked_nothing_is_rescheduled(endpoint, fault, final):
    """A task that waits where nobody expects it looks stuck."""
    endpoint.fail_next(fault, times=100)
    with pytest.raises(AirflowException) as caught:
        attempt(operator())
    assert isinstance(caught.value, AirflowFailException) is final


def test_wrong_key_is_not_waited_for(endpoint):
    """It will still be wrong in two hours."""
    endpoint.fail_next(401, times=100)
    with pytest.raises(AirflowFailException):
        attempt(operator(on_quota="reschedule"), get_first_reschedule_date=lambda _: None)


def test_misspelt_choice_is_an_import_error():
    """`on_quota="wait"` that means "fail" is found on the night when the quota is gone."""
    with pytest.raises(TaskDefinitionError, match="on_quota is 'wait'; it must be 'fail' or 'reschedule'"):
        operator(on_quota="wait")


def raised(error: Exception) -> Exception:
    """Return Airflow's exception as `execute` raises it."""
    try:
        raise AirflowException(str(error)) from error
    except AirflowException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "action", "delay"),
    [
        (raised(QuotaExceeded("busy", 3600.0, final=False)), "RETRY", dt.timedelta(hours=1)),
        (RateLimited("busy", 5.0), "RETRY", dt.timedelta(seconds=5)),
        (RateLimited("busy"), "DEFAULT", None),
        (Fatal("no such key"), "FAIL", None),
        (Fatal("hub is away", final=False), "DEFAULT", None),
        (raised(SourceError("file changed")), "DEFAULT", None),
        (ZeroDivisionError(), "DEFAULT", None),
    ],
    ids=["quota, from an operator", "told", "not told", "key", "not final", "source", "not ours"],
)
def test_policy_decides_by_our_error(error, action, delay):
    """Airflow knows one delay for all failures; the endpoint knew better."""
    pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="since Airflow 3.3")
    decision = DistilRetryPolicy().evaluate(error, 1, 3, None)
    assert decision.action.name == action
    assert decision.retry_delay == delay
