"""The local folder of an attempt: its scratch file of facts, its indexes, and the Parquet parts before their upload.

Everything here can be lost without harm to what was promised; what survives a killed attempt saves its last seconds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from airflow_distil.conversation import digest

__all__ = ["FACTS", "Workspace", "dead_folders", "default_scratch", "remove"]

FACTS = "facts"


def default_scratch() -> Path:
    """Return where attempts work by default: a folder of this user's in the system's temporary folder.

    :raises PermissionError: if somebody else made a folder of that name, or may write to it.
    """
    root = Path(tempfile.gettempdir()) / f"airflow-distil-{os.getuid()}"
    _make_own(root)
    return root


class Workspace:
    """A folder of one attempt, locked while its process lives.

    :param root: scratch folder of this host.
    :param destination: where the dataset goes; attempts at the same destination find each other's folders by it.
    :param attempt: the claim's folder name, `<number>-<nonce>`.
    """

    def __init__(self, root: Path, destination: str, attempt: str) -> None:
        self._family = _family(root, destination)
        self.path = self._family / attempt
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Its name can be guessed, and the scratch folder may be everybody's; facts found here are believed, leftovers deleted.
        _make_own(self._family)
        self.path.mkdir(exist_ok=True, mode=0o700)
        self._taken_over: list[Path] = []
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def earlier(self) -> Iterator[Path]:
        """Yield the folders of other attempts at this destination, oldest first. Of dead ones all but the facts is cleared."""
        for folder in sorted(self._family.iterdir()):
            if folder == self.path or not folder.is_dir():
                continue
            dead = _is_dead(folder)
            if dead:
                with suppress(FileNotFoundError):  # upkeep has just removed it
                    for leftover in folder.iterdir():
                        if leftover.name != FACTS:
                            remove(leftover)
            yield folder
            # Whoever comes back for the next one has read this one; a living attempt may still add to its own.
            if dead:
                self._taken_over.append(folder)

    def forget_earlier(self) -> None:
        """Remove the folders whose facts were taken over, once these are uploaded."""
        for folder in self._taken_over:
            if _is_dead(folder):
                remove(folder)

    def close(self, *, keep: bool) -> None:
        """Unlock the folder, and remove it unless it holds facts that are nowhere else."""
        os.close(self._lock)
        if keep:
            for leftover in self.path.iterdir():
                if leftover.name != FACTS:
                    remove(leftover)
        else:
            remove(self.path)


def _make_own(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(
            f"{folder} is not a folder that only this user can write to. Delete it, or set [distil] scratch_dir to a folder of "
            "your own."
        )


def dead_folders(root: Path, destination: str) -> Iterator[Path]:
    """Yield the folders of attempts at a destination whose processes have ended, oldest first.

    :raises PermissionError: if others may write where they are.
    """
    family = _family(root, destination)
    if not os.path.lexists(family):
        return
    _make_own(family)
    for folder in sorted(family.iterdir()):
        if folder.is_dir() and _is_dead(folder):
            yield folder


def _family(root: Path, destination: str) -> Path:
    return root / digest(destination.encode()).hex()


def _is_dead(folder: Path) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
