"""Objects as files below a folder of a local or mounted file system."""

# ruff: noqa: D102 - the four verbs are documented on Store

from __future__ import annotations

import datetime as dt
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from airflow_distil.datasets.stores.base import Entry, checked
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import SourceError

__all__ = ["FileStore"]

# Files of our own beside the objects: half-written ones, and claims on file systems without links.
HIDDEN = ".distil-"

# What file systems say that have no hard links: FAT, some FUSE and SMB mounts.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FileStore:
    """A folder; it is made with the first object.

    A file gets its name by a hard link to a finished and synced temporary file, because `link` alone is atomic, whole, and
    fails if the name is taken (`rename` overwrites; `open("x")` shows half-written files).
    """

    def __init__(self, uri: URI) -> None:
        self.uri = uri
        self.root = Path("/", uri.key)

    def __str__(self) -> str:
        return str(self.uri)

    def put(self, name: str, data: bytes | Path) -> None:
        target = self._path(name)
        if target.exists():
            raise FileExistsError(f"{self}/{name} exists")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{HIDDEN}{secrets.token_hex(8)}.tmp"
        try:
            _write(temporary, data)
            _publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(target.parent)

    def get(self, name: str, start: int = 0, length: int | None = None, version: str | None = None) -> bytes:
        with self._path(name).open("rb") as file:
            file.seek(start)
            content = file.read() if length is None else file.read(length)
            # Looked at after reading: a change before or while the bytes were read shows either way.
            now = _version(os.fstat(file.fileno()))
        if version is not None and version != now:
            raise SourceError(f"{self}/{name} changed: its size-mtime was {version} and is {now}.")
        return content

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder, _, _ = prefix.rpartition("/")
        if ".." in folder.split("/"):
            raise ValueError(f"{prefix!r} leaves the store's root")
        for entry in _walk(self.root / folder, f"{folder}/" if folder else "", prefix):
            with suppress(FileNotFoundError):  # deleted while we look
                status = entry[1].stat()
                modified = dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)
                yield Entry(entry[0], status.st_size, _version(status), modified)

    def delete(self, name: str) -> None:
        target = self._path(name)
        target.unlink(missing_ok=True)
        _claim(target).unlink(missing_ok=True)

    def sweep(self, before: dt.datetime, *, dry_run: bool = False) -> tuple[int, int]:
        """Remove what writers that were killed left half-written; no listing shows it.

        :param before: younger files are left: their writer may live.
        :return: how many files, and their bytes.
        """
        count = size = 0
        for path in self.root.rglob(f"{HIDDEN}*.tmp"):
            with suppress(FileNotFoundError):  # its writer lives, and is done
                status = path.lstat()
                if status.st_mtime < before.timestamp():
                    count, size = count + 1, size + status.st_size
                    if not dry_run:
                        path.unlink()
        return count, size

    def _path(self, name: str) -> Path:
        return self.root / checked(name)


def _write(path: Path, data: bytes | Path) -> None:
    with path.open("xb") as file:
        if isinstance(data, Path):
            with data.open("rb") as source:
                shutil.copyfileobj(source, file, 2**20)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _publish(temporary: Path, target: Path) -> None:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        # Over NFS the reply to a link that succeeded can get lost, and the client's retry finds its own file.
        if temporary.stat().st_nlink != 2:
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _publish_without_links(temporary, target)


def _publish_without_links(temporary: Path, target: Path) -> None:
    # Only one writer can create the claim, and only that one renames, so the rename overwrites nothing. A writer that dies
    # between the two leaves the name taken; `create` then says which file to delete, since guessing could publish twice.
    with _claim(target).open("xb"):
        temporary.rename(target)


def _claim(target: Path) -> Path:
    return target.with_name(f"{HIDDEN}{target.name}.claim")


def _sync(folder: Path) -> None:
    # A name is durable only when its folder is; without this a power cut could undo a publication that was reported.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder, and need not
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _walk(folder: Path, base: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield files in the order of their whole names. Folders sort as `name/`, so the walk need not hold all names.

    Links to files are followed; links to folders are not, as they can go round in a circle.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(base + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), entry) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, entry in sorted(found, key=lambda item: item[0]):
        if entry.name.startswith(HIDDEN):
            continue
        if name.endswith("/"):
            if name.startswith(prefix) or prefix.startswith(name):
                yield from _walk(folder / entry.name, name, prefix)
        elif name.startswith(prefix) and entry.is_file():
            yield name, entry
