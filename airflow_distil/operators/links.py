"""From a task instance in Airflow's UI to the page of its dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

__all__ = ["DatasetLink"]


class DatasetLink(BaseOperatorLink):
    """The button *Dataset*: progress while the task runs, then the rows.

    Airflow asks for its address when an attempt has ended. Each attempt pushes it at its start too, under the same `xcom_key`:
    a page about a running task is wanted while it runs, and a killed attempt does not come to its end.
    """

    name = "Dataset"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the page."""
        from airflow_distil.datasets.manifest import Identity
        from airflow_distil.hooks.page import page_url

        del operator
        return page_url(
            Identity(dag_id=ti_key.dag_id, task_id=ti_key.task_id, run_id=ti_key.run_id, map_index=ti_key.map_index)
        )
