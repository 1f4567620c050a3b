"""When Airflow tries again: the retry policy for tasks that ask models."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from airflow_distil.exceptions import DistilError, LLMError

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
else:
    try:
        from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
    except ImportError:  # before Airflow 3.3, where no task takes a policy
        RetryPolicy = object

__all__ = ["DistilRetryPolicy"]


class DistilRetryPolicy(RetryPolicy):
    """Retry as the failure asks for: `retry_policy=DistilRetryPolicy()` on any task. Needs Airflow 3.3.

    Where the endpoint told how long to wait, the next try starts then, and not after `retry_delay`. What would fail again
    (wrong key, no such model, a wrong task) fails at once: our operators do that by themselves, and plain tasks that use
    `LLMHook` or `publish` by this policy. Anything else is left to `retries` and `retry_delay`.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - Airflow's signature
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,  # noqa: ARG002
    ) -> RetryDecision:
        """Decide by the first error of this package among the causes."""
        cause: BaseException | None = exception
        while cause is not None and not isinstance(cause, DistilError):
            cause = cause.__cause__
        if cause is None:
            return RetryDecision.default()
        if cause.final:
            return RetryDecision.fail(f"{type(cause).__name__}: another try would end the same way")
        if isinstance(cause, LLMError) and cause.retry_after is not None:
            delay = dt.timedelta(seconds=cause.retry_after)
            return RetryDecision.retry(delay, f"{type(cause).__name__}: the endpoint says to come back in {delay}")
        return RetryDecision.default()
