"""What every client is measured by. Peers run it in environments of their own, so it knows the standard library only."""

from __future__ import annotations

import json
import platform
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from string import ascii_lowercase
from typing import Any

# Characters after which the prompts repeat each other; larger than what any compression looks back over.
BOOK = 2**24


def told() -> dict[str, Any]:
    """Return what this client is to do."""
    return json.loads(sys.argv[1])


def prompts(count: int, characters: int) -> Iterator[str]:
    """Yield prompts that differ: words of random letters, which compress about as well as text does."""
    chance = random.Random(7)
    words = ["".join(chance.choices(ascii_lowercase, k=chance.randint(2, 9))) for _ in range(5000)]
    size = min(BOOK, count * characters) + characters
    book = " ".join(chance.choices(words, k=size // 4))
    for number in range(count):
        start = number * characters % (len(book) - characters)
        yield f"{number}: {book[start : start + characters]}"[:characters]


def measured(run: Callable[[], Any], *packages: str) -> None:
    """Run it, and print when it ran, what it took with its children, its memory, and the versions of some packages."""
    # The peak of the resident memory counts from here. Where a kernel cannot start it anew, it counts from the beginning.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    resident, used = _status("VmRSS"), _cpu()
    began = time.monotonic()
    more = run()
    ended = time.monotonic()
    figures = {
        "began": began,
        "ended": ended,
        "cpu": _cpu() - used,
        "growth": _status("VmHWM") - resident,
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in packages}},
        **(more or {}),
    }
    print(json.dumps(figures), flush=True)


def _status(name: str) -> int:
    """Return a figure of this process, in bytes; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
