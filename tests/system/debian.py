"""Programs of Debian's packages, installed where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["chromium", "libfaketime", "postgresql", "redis"]

# Asked by Debian before a package's service is started; 101 forbids it. What runs here is started, and stopped, by the tests.
POLICY = Path("/usr/sbin/policy-rc.d")
# apt-get works for one at a time, and refuses a second one at once.
_installing = threading.Lock()


def redis() -> Path:
    """Return `redis-server`.

    :raises FileNotFoundError: it is missing and cannot be installed by this user.
    """
    with _installing:
        if not shutil.which("redis-server"):
            _install("redis-server")
    return Path(shutil.which("redis-server") or "/usr/bin/redis-server")


def postgresql() -> Path:
    """Return the folder of PostgreSQL's programs, of the newest version: Debian keeps them off the PATH. Raises as `redis`."""
    with _installing:
        if not _postgresql():
            _install("postgresql")
    return _postgresql()[-1]


def libfaketime() -> Path:
    """Return the library that lies to a process about the time, once it is preloaded. Raises as `redis`."""
    with _installing:
        if not _libfaketime():
            _install("libfaketime")
    return _libfaketime()[-1]


def chromium() -> Path:
    """Return `chromium`, with a font to draw text with. Raises as `redis`."""
    with _installing:
        if not shutil.which("chromium"):
            _install("chromium", "fonts-dejavu-core")
    return Path(shutil.which("chromium") or "/usr/bin/chromium")


def _libfaketime() -> list[Path]:
    return sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def _postgresql() -> list[Path]:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return sorted(found, key=lambda folder: int(folder.parent.name))


def _install(*packages: str) -> None:
    if os.geteuid() or not shutil.which("apt-get"):
        names = " ".join(packages)
        raise FileNotFoundError(f"{packages[0]} is missing. Install it: `sudo apt-get install {names}`.")
    with _no_service_starts():
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run(
                ["apt-get", "--quiet", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
                check=True,
            )


@contextmanager
def _no_service_starts() -> Iterator[None]:
    if POLICY.exists():
        yield  # the machine has its own
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
