"""Time that passes only when nothing is left to do: an hour of waiting takes a moment, and the same one each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

__all__ = ["in_virtual_time", "now"]


class _Skipping(selectors.SelectSelector):
    """Waits by letting the loop's time pass."""

    loop: _Loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            # Nobody has set a timer, and nothing comes from outside: a wake-up was lost.
            raise RuntimeError("nothing is left that could happen, and something is still waited for")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        selector = _Skipping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def in_virtual_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in a loop of its own, without waiting for anything.

    :raises RuntimeError: if it waits for what cannot happen any more.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(coroutine)


def now() -> float:
    """Return the seconds that have passed in the running loop."""
    return asyncio.get_running_loop().time()
