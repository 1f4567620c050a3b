"""The pages under the FAB auth manager, whose users have rights for single DAGs: `python -m tests.system.fab`.

FAB needs another python-dateutil than Airflow's constraints have, so this runs in an environment of its own: see `make fab`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from playwright.sync_api import expect

from airflow_distil.testing import FakeLLM
from tests.system.airflow_standalone import Standalone
from tests.system.browser import chromium_browser, visit
from tests.system.process_session import ProcessSession, free_ports
from tests.system.rest import Rest

DAG = '''
"""Two DAGs, of which some users may see one."""
from airflow.sdk import DAG

from airflow_distil.operators import TextGenerationOperator

with DAG("open", schedule=None):
    TextGenerationOperator(task_id="text", source=[{"instruction": "Name a bird."}])
with DAG("closed", schedule=None):
    TextGenerationOperator(task_id="text", source=[{"instruction": "Name a fish."}])
'''
ROUTES = ("page", "instance", "run", "rows", "row", "distributions", "attempts", "download")
USERS = {"vic": "Viewer", "eve": "Public", "ray": "Readers"}
EXPECTED = {
    ("vic", "open"): {200},
    ("vic", "closed"): {200},
    ("eve", "open"): {403},
    ("eve", "closed"): {403},
    ("ray", "open"): {200},
    ("ray", "closed"): {403},
}
RIGHTS = ("DAG:open", "DAG Runs", "Task Instances", "XComs", "Website")


class FabServer(Rest):
    """A second API server over the same database: `airflow standalone` takes no auth manager but its own."""

    def __init__(self, airflow: Standalone) -> None:
        (port,) = free_ports(1)
        super().__init__(f"http://127.0.0.1:{port}/air", "vic")
        manager = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
        self.env = {**airflow.env, "AIRFLOW__CORE__AUTH_MANAGER": manager, "AIRFLOW__API__BASE_URL": self.url}
        command = [sys.executable, "-m", "airflow", "api-server", "--port", str(port)]
        self.session = ProcessSession(command, airflow.home / "fab.log", self.env, cwd=airflow.home)

    @property
    def ended(self) -> str | None:
        """`it`, if it has ended."""
        return "it" if self.session.ended else None

    def log_tail(self) -> str:
        """Return the end of its log."""
        return self.session.tail()

    def airflow(self, *command: str) -> None:
        """Run a command of Airflow's, with FAB's."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *command], env=self.env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def main() -> None:
    """Run a task in two DAGs, and look at both with users of different rights."""
    with tempfile.TemporaryDirectory(prefix="airflow-distil-fab-") as name, FakeLLM() as llm:
        folder = Path(name)
        (folder / "dags").mkdir()
        (folder / "dags" / "two.py").write_text(DAG)
        connection = {"conn_type": "distil_llm", "host": llm.base_url, "extra": {"model": "m"}}
        with Standalone(
            folder / "home",
            folder / "dags",
            connections={"distil_llm_default": connection},
            env={"AIRFLOW__DISTIL__DATASET_ROOT": str(folder / "datasets")},
        ) as airflow:
            runs = {dag: airflow.trigger(dag) for dag in ("open", "closed")}
            if {airflow.wait(dag, run) for dag, run in runs.items()} != {"success"}:
                raise SystemExit(airflow.log_tail())
            server = FabServer(airflow)
            server.airflow("fab-db", "migrate")
            server.airflow("sync-perm", "--include-dags")  # makes a right of each DAG
            server.airflow("roles", "create", "Readers")
            server.airflow("roles", "add-perms", "Readers", "-r", *RIGHTS, "-a", "can_read")
            for user, role in USERS.items():
                person = ["-f", user, "-l", user, "-e", f"{user}@example.com"]
                server.airflow("users", "create", "-u", user, "-p", user, "-r", role, *person)
            try:
                server.session.start()
                server.until(server.healthy, 120, "the API server is not healthy")
                look(server, runs)
            finally:
                server.session.stop()
    print("Everybody sees what they may, and nothing else.")


def look(server: FabServer, runs: dict[str, str]) -> None:
    """Ask for everything as everybody, and open a page."""
    for (user, dag), expected in EXPECTED.items():
        token = {"Authorization": f"Bearer {server.token(user)}"}
        place = httpx.QueryParams({"dag_id": dag, "run_id": runs[dag], "task_id": "text", "map_index": "-1", "position": "0"})
        replies = {route: httpx.get(f"{server.url}/distil/{route}?{place}", headers=token, timeout=60) for route in ROUTES}
        if {reply.status_code for reply in replies.values()} != expected:
            told = {route: (reply.status_code, reply.text[:200]) for route, reply in replies.items()}
            raise SystemExit(f"{user} at {dag}: {told}, not {expected}")
    place = httpx.QueryParams({"dag_id": "open", "run_id": runs["open"], "task_id": "text", "map_index": "-1"})
    with chromium_browser() as browser, visit(browser, server, "ray") as page:
        page.goto(f"{server.url}/distil/page?{place}")
        expect(page.locator(".row").first).to_contain_text("Name a bird.")


if __name__ == "__main__":
    main()
