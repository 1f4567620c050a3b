"""A real Airflow for a block of code: `airflow standalone` with a home of its own, driven through its REST API."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.system.process_session import ProcessSession, free_ports
from tests.system.rest import Rest

__all__ = ["Standalone"]

# 19 s on two idle cores, nearly all of it imports in five processes; a busy machine takes several times that.
START_TIMEOUT = 180.0
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


class Standalone(Rest):
    """An Airflow that runs for a block of code: scheduler, DAG processor, triggerer, API server and UI without login.

    :param home: AIRFLOW_HOME; created if missing. SQLite database, configuration and logs are kept in it.
    :param dags: DAGs folder.
    :param connections: connection id to an Airflow connection as a dict (`conn_type`, `host`, `extra`…) or URI; given to
        Airflow as environment variables.
    :param env: further environment variables of all of Airflow; they win over the settings made here.
    :param path: path that Airflow is served under, as behind a proxy: `/airflow`.
    :param users: names and roles (`admin`, `viewer`…; empty for one who may do nothing). Their passwords are their names. The
        REST API is called as the first. By default there is no login.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        connections: Mapping[str, str | Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
        path: str = "",
        users: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.resolve()
        self.dags = dags.resolve()
        api, worker_logs, trigger_logs = free_ports(3)
        super().__init__(f"http://127.0.0.1:{api}{path}", next(iter(users), None) if users else None)
        self._passwords = {name: name for name in users or {}}
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
            **(
                {
                    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
                    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in users.items()),
                    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
                }
                if users
                else {}
            ),
            **(env or {}),
        }
        self._session = ProcessSession(
            [sys.executable, "-m", "airflow", "standalone"], self.home / "standalone.log", self.env, cwd=self.home
        )

    def start(self) -> None:
        """Start Airflow; returns when all of its parts are healthy.

        :raises RuntimeError: it ended, or was not healthy in time; the message has the end of its log.
        """
        if self._passwords:
            self.home.mkdir(parents=True, exist_ok=True)
            (self.home / "passwords.json").write_text(json.dumps(self._passwords))
        self._session.start()
        self.until(self.healthy, START_TIMEOUT, "Airflow is not healthy")
        self.log_in()

    @property
    def ended(self) -> str | None:
        """`it`, if Airflow has ended."""
        return "it" if self._session.ended else None

    def log_tail(self) -> str:
        """Return the end of Airflow's log."""
        return f"The end of {self._session.log}:\n{self._session.tail()}"

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
