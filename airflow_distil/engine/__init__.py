"""Task × LLM × dataset: the window, the limits, the retries, replay, and the two passes over the source."""

from airflow_distil.engine.job import Job
from airflow_distil.engine.standalone import process

__all__ = ["Job", "process"]
