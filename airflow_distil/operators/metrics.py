"""What was paid, as metrics of Airflow: counters, so that their sum over time is the bill, however often tasks were resumed."""

from __future__ import annotations

from copy import copy
from typing import Any

from airflow_distil.engine.budget import Paid

__all__ = ["Metrics"]


class Metrics:
    """Counts what one attempt pays: `distil.answers`, `distil.tokens.input`, `distil.tokens.output`, `distil.cost.microusd`.

    Their tags are `dag_id` and `task_id`, as those of Airflow's own. What is not known is not counted. Each answer is counted
    by the attempt that paid it, within ten seconds, and by no other. Of an attempt that is killed, no more is missing.
    """

    def __init__(self, ti: Any) -> None:
        self._tags = {"dag_id": ti.dag_id, "task_id": ti.task_id}
        self._emitted = Paid()

    def emit(self, paid: Paid) -> None:
        """Count what was paid since the last time.

        :param paid: by this attempt, so far.
        """
        from airflow.sdk.observability.stats import Stats

        # A whole number of them: not every backend of metrics takes fractions, and of dollars they would all be.
        now = copy(paid)
        for name, before, after in (
            ("distil.answers", self._emitted.answers, now.answers),
            ("distil.tokens.input", self._emitted.input_tokens, now.input_tokens),
            ("distil.tokens.output", self._emitted.output_tokens, now.output_tokens),
            ("distil.cost.microusd", round(self._emitted.cost_usd * 1e6), round(now.cost_usd * 1e6)),
        ):
            if after > before:
                Stats.incr(name, after - before, tags=self._tags)
        self._emitted = now
