"""Where the page of a task instance is: the operators link to it, and the plugin serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

if TYPE_CHECKING:
    from airflow_distil.datasets.manifest import Identity

__all__ = ["LINK_KEY", "PREFIX", "PROGRESS_KEY", "base_path", "page_url"]

PREFIX = "/distil"
"""Where the plugin is mounted, below the path of `[api] base_url`."""

LINK_KEY = "_link_DatasetLink"
"""XCom that holds the address of a task instance's page, under the key that Airflow itself gives to this link."""

PROGRESS_KEY = "distil_progress"
"""XCom in which a task instance tells where it stands."""


def page_url(identity: Identity) -> str:
    """Return the address of a task instance's page: absolute if `[api] base_url` is set, else from the root of the host."""
    place = {"dag_id": identity.dag_id, "run_id": identity.run_id, "task_id": identity.task_id, "map_index": identity.map_index}
    return f"{_base_url()}{PREFIX}/page?{urlencode(place, quote_via=quote, safe='')}"


def base_path() -> str:
    """Return the path of `[api] base_url`, without a slash at its end: the empty string where Airflow is at the root."""
    return urlsplit(_base_url()).path


def _base_url() -> str:
    from airflow.providers.common.compat.sdk import conf

    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
