"""A gate that a test holds shut, so that it decides when answers go out instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Gate"]


class Gate:
    """Open at first; all methods belong to the event loop of the server."""

    def __init__(self) -> None:
        self._open = True
        self._permits = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def hold(self) -> None:
        """Let nobody through from now on."""
        self._open, self._permits = False, 0

    def release(self, count: int | None = None) -> None:
        """Let `count` more through, in the order of arrival; None opens the gate."""
        if count is None:
            self._open = True
        else:
            self._permits += count
        while self._waiting and (self._open or self._permits):
            future = self._waiting.popleft()
            if not future.done():  # done: its client has gone
                self._permits -= not self._open
                future.set_result(None)

    async def passed(self) -> None:
        """Return as soon as the gate lets this caller through."""
        if self._open:
            return
        if self._permits:
            self._permits -= 1
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future
