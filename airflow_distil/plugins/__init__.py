"""Pages in the Airflow UI."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

__all__ = ["DistilPlugin"]


class DistilPlugin(AirflowPlugin):
    """What airflow-distil adds to Airflow."""

    name = "distil"
