"""One process session of many: started, killed, paused and started again, by name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.system.process_session import ProcessSession

__all__ = ["Component", "Database", "accepts", "succeeds"]

# On a busy machine each Airflow takes tens of seconds to import what it needs.
READY_TIMEOUT = 120.0


class Component:
    """A server, or a part of Airflow, with everything that it starts.

    :param name: names it in messages, and its logs.
    :param command: program and arguments.
    :param folder: gets its logs, `<name>.<start>.log`.
    :param env: environment.
    :param ready: whether it does its work; asked after each start.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str], ready: Callable[[], bool] = lambda: True
    ) -> None:
        self.name = name
        self.command = list(command)
        self.env = dict(env)
        self.ready = ready
        self._folder = folder
        self._starts = 0
        self._wanted = False
        self._session = ProcessSession(self.command, self.log, self.env, cwd=folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {'ended' if self._session.ended else 'running'})"

    @property
    def log(self) -> Path:
        """Output of the latest start."""
        return self._folder / f"{self.name}.{self._starts}.log"

    @property
    def pid(self) -> int:
        """Process id of the command.

        :raises RuntimeError: it does not run.
        """
        if (pid := self._session.pid) is None:
            raise RuntimeError(f"{self.name} does not run.")
        return pid

    @property
    def running(self) -> bool:
        """True if the command has been started and has not ended."""
        return not self._session.ended

    @property
    def lost(self) -> bool:
        """True if it has ended, and nobody asked it to."""
        return self._wanted and self._session.ended

    def holds(self, pid: int) -> bool:
        """Return whether a process is one of its own."""
        try:
            return os.getsid(pid) == self._session.pid
        except ProcessLookupError:
            return False

    def begin(self) -> None:
        """Start it, without waiting until it is ready."""
        self._starts += 1
        self._session = ProcessSession(self.command, self.log, self.env, cwd=self._folder)
        self._session.start()
        self._wanted = True

    def start(self) -> None:
        """Start it, and wait until it is ready.

        :raises RuntimeError: it ended instead; the message has the end of its log.
        :raises TimeoutError: it was not ready in time.
        """
        self.begin()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait for a started one; raises as `start` does."""
        deadline = time.monotonic() + READY_TIMEOUT
        while not self.ready():
            if self._session.ended:
                raise RuntimeError(f"{self.name} has ended. The end of {self.log}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not ready after {READY_TIMEOUT:g} s. The end of {self.log}:\n{self.tail()}")
            time.sleep(0.1)

    def tail(self) -> str:
        """Return the last lines of its log."""
        return self._session.tail()

    def kill(self) -> None:
        """End it with all that it started, by SIGKILL."""
        self._wanted = False
        self._session.kill()

    def restart(self) -> None:
        """Kill it, start it anew, and wait until it is ready."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop all its processes where they are, by SIGSTOP."""
        self._session.send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let paused processes go on."""
        self._session.send(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM to the command alone, as a container engine does; it may take its time."""
        self._wanted = False
        psutil.Process(self.pid).terminate()

    def wait(self, timeout: float) -> None:
        """Wait for the command to end.

        :raises TimeoutError: it has not.
        """
        deadline = time.monotonic() + timeout
        while not self._session.ended:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} has not ended after {timeout:g} s. The end of {self.log}:\n{self.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, kindly first; returns when no process of it is left. Not started, or stopped already, is fine."""
        self._wanted = False
        self._session.send(signal.SIGCONT)
        self._session.stop()


class Database(Component):
    """PostgreSQL, whose processes each have a session of their own: its first process ends them.

    `kill` is what PostgreSQL calls an immediate shutdown: every connection breaks, and the next start recovers from the log.
    """

    def kill(self) -> None:
        """End it at once, without a checkpoint."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it, breaking connections; committed work is on disk."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        self._wanted = False
        if not self._session.ended:
            psutil.Process(self.pid).send_signal(number)
            self.wait(30)
        self._session.stop()


def accepts(port: int) -> bool:
    """Return whether somebody listens there on loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def succeeds(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether a command ends with 0."""
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
