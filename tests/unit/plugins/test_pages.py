from __future__ import annotations

import subprocess
import sys

from fastapi.testclient import TestClient
from starlette.routing import Mount

from airflow_distil.plugins import DistilPlugin
from airflow_distil.plugins.pages import STATIC, app, router


def test_schedulers_and_workers_do_not_load_the_app():
    """Every process of Airflow loads plugins; of the pages, only the API server needs more than their names."""
    code = "import sys, airflow_distil.plugins; print('airflow_distil.plugins.pages' in sys.modules, 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"


def test_every_route_is_guarded():
    """A route that was added beside the others would give its data to everybody."""
    guarded = {route.path for route in router.routes}  # type: ignore[attr-defined]
    for route in router.routes:
        guards = [each.call.__qualname__ for each in route.dependant.dependencies]  # type: ignore[attr-defined]
        assert any(name.startswith("requires_access_dag") for name in guards), route
    open_to_all = {route.path for route in app.routes if isinstance(route, Mount)}
    assert set(app.openapi()["paths"]) == guarded  # newer FastAPIs do not list what is included among `app.routes`
    assert open_to_all == {"/assets"}


def test_assets_are_files_of_the_package_only():
    """What is open to everybody led out of its folder."""
    client = TestClient(app)
    assert client.get("/assets/app.js").content == (STATIC / "app.js").read_bytes()
    for name in ("../pages.py", "%2e%2e/pages.py", "..%2fpages.py", "/etc/passwd"):
        assert client.get(f"/assets/{name}").status_code == 404
    assert "script-src 'self'" in client.get("/assets/app.js").headers["content-security-policy"]


def test_nothing_is_loaded_from_elsewhere():
    """A site without the internet saw a page without style, and one with it told others who reads what."""
    for file in ("page.html", "app.css"):
        text = (STATIC / file).read_text()
        assert "http" not in text
        assert "//" not in text.replace("/*", "").replace("*/", "")
    assert "<script>" not in (STATIC / "page.html").read_text()


def test_the_views_are_what_airflow_takes():
    """Airflow drops a view of another form, with a line in its log."""
    from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse

    (view,) = DistilPlugin.external_views
    assert ExternalViewResponse.model_validate(view).destination == "dag_run"
    (served,) = DistilPlugin.fastapi_apps
    assert served["url_prefix"] == "/distil"
