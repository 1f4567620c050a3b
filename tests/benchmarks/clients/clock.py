"""What every client is measured by. Peers run it in environments of their own, so it knows the standard library only."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any


def told() -> dict[str, Any]:
    """Return what this client is to do."""
    return json.loads(sys.argv[1])


def prompts(told: dict[str, Any]) -> list[str]:
    """Return the prompts to ask, in memory."""
    text = told["text"]
    return [f"Question {number}: {text}" for number in range(told["rows"])]


def measured(run: Callable[[], Any], *packages: str) -> None:
    """Run it, and print when it ran, what CPU it took with its children, and the versions of some packages."""
    print(json.dumps({"ready": time.monotonic()}), flush=True)
    before = _cpu()
    began = time.monotonic()
    more = run()
    ended = time.monotonic()
    figures = {
        "began": began,
        "ended": ended,
        "cpu": _cpu() - before,
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in packages}},
        **(more or {}),
    }
    print(json.dumps(figures), flush=True)


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
