"""The stop flag: set from a signal handler or another thread, seen at once by whoever works."""

from __future__ import annotations

import threading
from collections.abc import Callable

from airflow_distil.exceptions import Stopped

__all__ = ["Stop"]


class Stop:
    """Tells a run to end soon, keeping what is paid."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reason = ""
        self._listener: Callable[[], object] | None = None

    def request(self, reason: str) -> None:
        """Ask the run to stop. Safe in a signal handler: it takes no lock that the run may hold for long."""
        if self._event.is_set():
            return
        self._reason = reason
        self._event.set()
        listener = self._listener  # once: the run may end, and stop listening, at this moment
        if listener is not None:
            listener()

    def listen(self, listener: Callable[[], object] | None) -> None:
        """Call `listener` when a stop is requested, or now if it was already; None stops listening."""
        self._listener = listener
        if listener is not None and self._event.is_set():
            listener()

    @property
    def error(self) -> Stopped:
        """What a stopped run raises."""
        return Stopped(f"Stopped: {self._reason}. The answers so far are kept; the next attempt continues from them.")

    def check(self) -> None:
        """Raise `Stopped` if a stop was requested."""
        if self._event.is_set():
            raise self.error
