"""Pages in the Airflow UI."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_distil.hooks.page import PREFIX, base_path

__all__ = ["DistilPlugin"]


class _Pages:
    """The pages' app, imported when it is first asked for: schedulers and workers load plugins too, and serve no pages."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from airflow_distil.plugins.pages import app

        # The app that this one is mounted in has Airflow's REST API; see `airflow_distil.plugins.rest`.
        scope["distil.airflow"] = scope.get("app")
        await app(scope, receive, send)


class DistilPlugin(AirflowPlugin):
    """What airflow-distil adds to Airflow: a page for each of its task instances, and a list of them for each run."""

    name = "distil"
    fastapi_apps = [{"app": _Pages(), "url_prefix": PREFIX, "name": "airflow-distil"}]
    external_views = [
        {
            "name": "Datasets",
            "href": f"{base_path()}{PREFIX}/page?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "datasets",
        }
    ]
