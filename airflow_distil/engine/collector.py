"""Python's collector of cycles, told to come seldom while jobs run."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collecting_seldom"]

# Objects. Those of a row have no cycles and go by themselves; of what others make, so many are a few megabytes.
EVERY = 50_000

_lock = threading.Lock()
_usual: list[tuple[int, int, int]] = []  # one for each job that runs; the first is what it was before


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Let the collector leave alone what is there already, and look at the rest seldom. The last one out restores it.

    A job makes and drops a hundred objects a row. As it is, the collector looks again and again whether any of half a
    million that a process with Airflow has is garbage by now: a fifth of the CPU. Who has turned it off finds it off.
    """
    with _lock:
        _usual.append(gc.get_threshold())
        if len(_usual) == 1 and _usual[0][0]:
            gc.freeze()
            gc.set_threshold(EVERY, *_usual[0][1:])
    try:
        yield
    finally:
        with _lock:
            before = _usual[0]
            _usual.pop()
            if not _usual and before[0]:
                gc.set_threshold(*before)
                gc.unfreeze()
