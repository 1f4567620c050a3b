"""A process that has imported everything, opened nothing, and forks each attempt: four seconds of imports are paid once.

Each attempt is a process of its own session, which real signals reach, and which ends as the interpreter ends. It reads its
environment anew; Airflow's home is that of the server.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any

# What an attempt at a DAG imports before its first request, whatever its destination.
IMPORTS = (
    "a2wsgi",
    "airflow.api.common.trigger_dag",
    "airflow.api_fastapi.execution_api.routes",
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.collection",
    "airflow.dag_processing.dagbag",
    "airflow.jobs.job",
    "airflow.models.dagrun",
    "airflow.models.renderedtifields",
    "airflow.providers.standard.operators.trigger_dagrun",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.supervisor",
    "airflow.serialization.definitions.dag",
    "airflow.serialization.serialized_objects",
    "airflow_distil.datasets.stores.gs",
    "airflow_distil.datasets.stores.s3",
    "airflow_distil.hooks.llm",
    "airflow_distil.llms.openai",
    "airflow_distil.operators.attempt",
    "airflow_distil.operators.text",
    "anyio._backends._asyncio",
    "httpcore2",
    "httpcore2._backends.anyio",
)


def main(path: str) -> None:
    """Serve orders that come to a socket; in a child, return from that and carry one out."""
    for name in IMPORTS:
        importlib.import_module(name)
    _build_api()
    gc.freeze()  # what is shared stays shared
    order = _next_order(path)
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [order["script"]]
    runpy.run_path(order["script"], run_name="__main__")


def _build_api() -> None:
    """Build the API server that `dag.test` keeps in its process: routes and schemas, no thread, no connection."""
    from airflow.sdk.execution_time.supervisor import in_process_api_server

    app = in_process_api_server().app
    if hasattr(app, "_cadwyn_initialize"):  # what it does on its first request otherwise
        app._cadwyn_initialize()


def _next_order(path: str) -> dict[str, Any]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _kept(connection)
        connection.close()


def _kept(connection: socket.socket) -> dict[str, Any]:
    """Fork the attempt, and return in it; this process waits for its end and tells who asked."""
    with connection.makefile() as lines:
        order: dict[str, Any] = json.loads(lines.readline())
    if (pid := os.fork()) == 0:
        connection.close()
        return order
    try:
        connection.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    except BrokenPipeError:
        pass  # nobody waits any more
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
