"""A real Airflow for a block of code: `airflow standalone` with a home of its own, driven through its REST API."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from tests.system.process_session import ProcessSession, free_ports

__all__ = ["Standalone"]

T = TypeVar("T")

# 19 s on two idle cores, nearly all of it imports in five processes; a busy machine takes several times that.
START_TIMEOUT = 180.0
# The REST API has no events to wait on. Each question costs Airflow a few milliseconds.
POLL = 0.2

FINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

SETTINGS = {
    "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__PARALLELISM": "6",  # each is a process, forked at the start
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__API__HOST": "127.0.0.1",
    # Runs are those that are triggered here: a nightly DAG must not start one of its own.
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    # New and changed DAG files are seen within some seconds; unchanged ones are left alone, parsing takes from the tasks.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
    "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
    # A clear of a running task is noticed at its next heartbeat, a lost supervisor after missing ones.
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "NO_COLOR": "1",
    "PYTHONUNBUFFERED": "1",
}


class Standalone:
    """An Airflow that runs for a block of code: scheduler, DAG processor, triggerer, API server and UI without login.

    :param home: AIRFLOW_HOME; created if missing. SQLite database, configuration and logs are kept in it.
    :param dags: DAGs folder.
    :param connections: connection id to an Airflow connection as a dict (`conn_type`, `host`, `extra`…) or URI; given to
        Airflow as environment variables.
    :param env: further environment variables of all of Airflow; they win over the settings made here.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        connections: Mapping[str, str | Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.resolve()
        self.dags = dags.resolve()
        api, worker_logs, trigger_logs = free_ports(3)
        self.url = f"http://127.0.0.1:{api}"
        # Nothing of the caller's own Airflow may reach this one.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}
        self.env = {
            **inherited,
            **SETTINGS,
            # Standalone starts its parts by the name `airflow`. No resolve(): that would leave the virtual environment.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"])),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}",
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            **{
                f"AIRFLOW_CONN_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
                for name, value in (connections or {}).items()
            },
            **(env or {}),
        }
        self._session = ProcessSession(
            [sys.executable, "-m", "airflow", "standalone"], self.home / "standalone.log", self.env, cwd=self.home
        )
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    # Life

    def start(self) -> None:
        """Start Airflow; returns when all of its parts are healthy.

        :raises RuntimeError: it ended, or was not healthy in time; the message has the end of its log.
        """
        self._session.start()
        self._until(self._healthy, START_TIMEOUT, "Airflow is not healthy")
        token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def _healthy(self) -> bool:
        try:
            health = self._client.get("/api/v2/monitor/health")
        except httpx.TransportError:
            return False
        parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
        return health.is_success and all((health.json().get(part) or {}).get("status") == "healthy" for part in parts)

    def stop(self) -> None:
        """Stop all that was started, running tasks too; returns when no process is left."""
        self._session.stop()
        self._client.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _until(self, ask: Callable[[], T | None], timeout: float, otherwise: str) -> T:
        """Ask until the answer is true.

        :raises RuntimeError: Airflow has ended.
        :raises TimeoutError: `otherwise`, after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            if answer := ask():
                return answer
            if self._session.ended:
                raise RuntimeError(f"{otherwise}: it has ended. {self._log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise} after {timeout:g} s. {self._log_tail()}")
            time.sleep(POLL)

    def _log_tail(self) -> str:
        return f"The end of {self._session.log}:\n{self._session.tail()}"

    # REST

    def get(self, path: str, **parameters: Any) -> Any:
        """GET a path below `/api/v2` and return its JSON."""
        return self._client.get(f"/api/v2/{path}", params=parameters).raise_for_status().json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST JSON to a path below `/api/v2` and return its JSON."""
        return self._client.post(f"/api/v2/{path}", json=body).raise_for_status().json()

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """PATCH a path below `/api/v2` with JSON and return its JSON."""
        return self._client.patch(f"/api/v2/{path}", json=body).raise_for_status().json()

    def _found(self, path: str, **parameters: Any) -> Any | None:
        response = self._client.get(f"/api/v2/{path}", params=parameters)
        return None if response.status_code == httpx.codes.NOT_FOUND else response.raise_for_status().json()

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> None:
        """Return when the DAG is known.

        :raises RuntimeError: its file, or any other in the folder, does not import; the message has the traceback.
        """

        def known() -> bool:
            if broken := self.get("importErrors")["import_errors"]:
                raise RuntimeError("\n".join(f"{each['filename']}: {each['stack_trace']}" for each in broken))
            return self._found(f"dags/{dag_id}") is not None

        self._until(known, timeout, f"DAG {dag_id} is not known")

    def connect(self, connection_id: str, conn_type: str, **fields: Any) -> None:
        """Create a connection, or replace it (`host`, `password`, `extra` as a dict…): for servers that start after Airflow."""
        if "extra" in fields:
            fields["extra"] = json.dumps(fields["extra"])
        body = {"connection_id": connection_id, "conn_type": conn_type, **fields}
        if self._found(f"connections/{connection_id}") is None:
            self.post("connections", body)
        else:
            self.patch(f"connections/{connection_id}", body)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, logical_date: datetime | None = None) -> str:
        """Start a run and return its run id; waits for the DAG to be known."""
        self.wait_for_dag(dag_id)
        date = None if logical_date is None else logical_date.isoformat()
        run: str = self.post(f"dags/{dag_id}/dagRuns", {"logical_date": date, "conf": dict(conf or {})})["dag_run_id"]
        return run

    def wait(self, dag_id: str, run_id: str, timeout: float = 120) -> str:
        """Wait for a run to end and return its state: `success` or `failed`."""

        def ended() -> str | None:
            state: str = self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"]
            return state if state in FINAL else None

        return self._until(ended, timeout, f"run {run_id} of {dag_id} has not ended")

    def wait_for_task(
        self, dag_id: str, run_id: str, task_id: str, states: Sequence[str], *, map_index: int = -1, timeout: float = 60
    ) -> dict[str, Any]:
        """Wait for a task instance to be in one of the states (`running`, `success`, `up_for_retry`…) and return it."""

        def there() -> dict[str, Any] | None:
            for each in self.task_instances(dag_id, run_id):
                if (each["task_id"], each["map_index"]) == (task_id, map_index) and each["state"] in states:
                    return each
            return None

        return self._until(there, timeout, f"{task_id}[{map_index}] of {run_id} is not {' or '.join(states)}")

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return a run's task instances as the REST API tells them (`task_id`, `map_index`, `state`, `try_number`, `pid`…)."""
        found: list[dict[str, Any]] = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=1000)["task_instances"]
        return found

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any | None:
        """Return an XCom value, or None if there is none."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        entry = self._found(path, map_index=map_index)
        return None if entry is None else entry["value"]

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]], *, downstream: bool = True
    ) -> list[dict[str, Any]]:
        """Clear task instances, as the UI's button does, so that they run again; return those cleared.

        :param task_ids: task ids, or (task id, map index).
        """
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        cleared: list[dict[str, Any]] = self.post(f"dags/{dag_id}/clearTaskInstances", body)["task_instances"]
        return cleared

    def logs(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task instance as text, one event a line."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.get(path, full_content=True, map_index=map_index)["content"]
        return "\n".join(line if isinstance(line, str) else _plain(line) for line in content)

    def task_pid(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, timeout: float = 60) -> int:
        """Return the process id of a task instance that is running: of the task itself, not of its supervisor."""
        pid: int = self.wait_for_task(dag_id, run_id, task_id, ["running"], map_index=map_index, timeout=timeout)["pid"]
        return pid

    def run_url(self, dag_id: str, run_id: str) -> str:
        """Return the address of a run's page in the UI."""
        return f"{self.url}/dags/{dag_id}/runs/{httpx.URL(path='/' + run_id).raw_path.decode()[1:]}"


def _plain(event: Mapping[str, Any]) -> str:
    text = f"{event.get('level') or ''} {event.get('event') or ''}".strip()
    for error in event.get("error_detail") or []:
        text += f"\n{error.get('exc_type')}: {error.get('exc_value')}"
    return text
