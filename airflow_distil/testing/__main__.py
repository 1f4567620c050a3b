"""`python -m airflow_distil.testing`: the fake LLM as a process of its own, for tests that kill its clients."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from airflow_distil.testing.sensible import sensible
from airflow_distil.testing.server import FakeLLM


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the first line on standard output is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m airflow_distil.testing", description="An OpenAI-compatible fake LLM.")
    parser.add_argument("--port", type=int, default=0, help="port to listen at; by default a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets other containers in")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each reply")
    says = parser.add_mutually_exclusive_group()
    says.add_argument("--answer", help="what it says to everything; by default it quotes the request")
    says.add_argument("--sensible", action="store_true", help="answer in the form that each task asks for")
    parser.add_argument("--api-key", help="the only key that is let in")
    parser.add_argument("--journal", help="file that gets one JSON line per complete answer of status 200")
    given = parser.parse_args(arguments)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    answer = sensible if given.sensible else given.answer
    server = FakeLLM(
        answer,
        latency=given.latency,
        api_key=given.api_key,
        journal=given.journal,
        port=given.port,
        host=given.host,
        keep=0,
    )
    with server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        stopped.wait()


if __name__ == "__main__":
    main()
