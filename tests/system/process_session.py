"""A command that can be stopped together with everything it started.

Airflow's supervisors put each task in a process group of its own, so ending a group leaves tasks behind. A session holds
all of them: nothing that Airflow starts leaves it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

__all__ = ["ProcessSession", "free_ports", "uninterrupted"]

# An idle Airflow ends in about 4 s; past this, it waits for a task that does not end.
GRACE = 6.0

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block is done: a process is started and remembered, or stopped, as a whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    # A handler and not SIG_IGN: a new process inherits what is ignored, and could then not be interrupted at all.
    previous = {number: signal.signal(number, remember) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def free_ports(count: int) -> list[int]:
    """Return that many different ports which are free on loopback now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class ProcessSession:
    """A command, in a session of its own.

    It is made before it is started, so that an interrupt between the two cannot lose the running process.

    :param command: program and arguments.
    :param log: file that gets stdout and stderr; written from its beginning.
    :param env: environment; None inherits ours.
    :param cwd: working folder; None inherits ours.
    """

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.command = list(command)
        self.log = log
        self.env = None if env is None else dict(env)
        self.cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with uninterrupted(), self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """True if the command is not running, any more or yet."""
        return self._process is None or self._process.poll() is not None

    def members(self) -> list[psutil.Process]:
        """Return every live process of the session, orphans included (an ended one that nobody has waited for is not)."""
        if self._process is None:
            return []
        found = []
        for process in psutil.process_iter():
            try:
                # The session's id is the command's process id, which is not given away before stop() waits for it.
                if os.getsid(process.pid) == self._process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue  # it has just ended, or is not ours to look at
        return found

    def stop(self, grace: float = GRACE) -> None:
        """Ask the whole session to end, and end it after `grace` seconds; returns when no process of it is left."""
        if self._process is None:
            return
        with uninterrupted():
            self.send(signal.SIGTERM)
            deadline = time.monotonic() + grace
            while self.members():
                if time.monotonic() > deadline:  # again and again: one of them may just have started another
                    self.send(signal.SIGKILL)
                time.sleep(0.05)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End the whole session with SIGKILL, as when its machine is lost; returns when no process of it is left."""
        if self._process is None:
            return
        with uninterrupted():
            # All of them at once: who is killed a moment later than another must not have time to react to it.
            self.send(signal.SIGSTOP)
            while self.members():
                self.send(signal.SIGKILL)
                time.sleep(0.02)
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int | None:
        """Process id of the command, and id of the session; None if it is not started."""
        return None if self._process is None else self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process of the session."""
        for process in self.members():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of the log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])
