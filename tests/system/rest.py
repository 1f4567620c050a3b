"""Airflow's REST API as tests and demos use it: trigger, wait, clear, read."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import httpx

__all__ = ["Rest"]

T = TypeVar("T")

# The REST API has no events to wait on. Each question costs Airflow a few milliseconds.
POLL = 0.2

FINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class Rest(ABC):
    """An Airflow that is driven through its REST API; who inherits this starts and stops it.

    :param url: address of the API server.
    :param user: who calls it, whose password is the same; None if it gives its tokens to everyone.
    """

    def __init__(self, url: str, user: str | None = None) -> None:
        self.url = url
        self.user = user
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=30)

    @property
    @abstractmethod
    def ended(self) -> str | None:
        """What of Airflow has ended by itself, if anything has: nothing that is waited for will come."""

    @abstractmethod
    def log_tail(self) -> str:
        """Return the end of Airflow's own logs, for error messages."""

    def log_in(self) -> None:
        """Get a token."""
        self._client.headers["Authorization"] = f"Bearer {self.token(self.user)}"

    def token(self, user: str | None) -> str:
        """Return a token of a user, or the one that everyone gets."""
        if user is None:
            reply = self._client.get("/auth/token")
        else:
            # By nobody yet: some auth managers go by who asks already.
            body = {"username": user, "password": user}
            reply = httpx.post(f"{self.url}/auth/token", json=body, trust_env=False, timeout=30)
        token: str = reply.raise_for_status().json()["access_token"]
        return token

    def healthy(self) -> bool:
        """Return whether the API server answers, and says that all others are well."""
        try:
            health = self._client.get("/api/v2/monitor/health")
        except httpx.TransportError:
            return False
        parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
        return health.is_success and all((health.json().get(part) or {}).get("status") == "healthy" for part in parts)

    def until(self, ask: Callable[[], T | None], timeout: float, otherwise: str) -> T:
        """Ask until the answer is true. That the API server is down, or has no database, is no answer yet.

        :raises RuntimeError: Airflow has ended.
        :raises TimeoutError: `otherwise`, after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                if answer := ask():
                    return answer
            except httpx.TransportError:
                pass
            except httpx.HTTPStatusError as error:
                if not error.response.is_server_error:
                    raise
            if part := self.ended:
                raise RuntimeError(f"{otherwise}: {part} has ended. {self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise} after {timeout:g} s. {self.log_tail()}")
            time.sleep(POLL)

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

        self.until(known, timeout, f"DAG {dag_id} is not known")

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

        return self.until(ended, timeout, f"run {run_id} of {dag_id} has not ended")

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: Sequence[str],
        *,
        map_index: int = -1,
        try_number: int = 1,
        timeout: float = 60,
    ) -> dict[str, Any]:
        """Wait for a task instance to be in one of the states (`running`, `success`, `up_for_retry`…) and return it.

        :param try_number: wait for this try, or a later one.
        """

        def there() -> dict[str, Any] | None:
            for each in self.task_instances(dag_id, run_id):
                at = (each["task_id"], each["map_index"])
                if at == (task_id, map_index) and each["state"] in states and each["try_number"] >= try_number:
                    return each
            return None

        return self.until(there, timeout, f"{task_id}[{map_index}] of {run_id} is not {' or '.join(states)}")

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

    def task_pid(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1, timeout: float = 60
    ) -> int:
        """Return the process id of a task instance that is running: of the task itself, not of its supervisor."""
        running = self.wait_for_task(
            dag_id, run_id, task_id, ["running"], map_index=map_index, try_number=try_number, timeout=timeout
        )
        pid: int = running["pid"]
        return pid

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task instance as `success` or `failed`, as the UI's buttons do; one that runs is stopped."""
        self.patch(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}", {"new_state": state})

    def run_url(self, dag_id: str, run_id: str) -> str:
        """Return the address of a run's page in the UI."""
        return f"{self.url}/dags/{dag_id}/runs/{httpx.URL(path='/' + run_id).raw_path.decode()[1:]}"


def _plain(event: Mapping[str, Any]) -> str:
    text = f"{event.get('level') or ''} {event.get('event') or ''}".strip()
    for error in event.get("error_detail") or []:
        text += f"\n{error.get('exc_type')}: {error.get('exc_value')}"
    return text
