"""What the package asks of a place that holds objects: four verbs."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Entry", "Store", "checked", "create"]

# Two copies are compared at a time, so twice this much is in memory.
COMPARED = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is now.

    :param name: relative to the store's root.
    :param size: bytes.
    :param version: differs if the content does; opaque.
    :param modified: when it was written, by the store's clock. Only upkeep looks at it. Entries are equal without it:
        versions tell contents apart, and touching an object may change its time.
    """

    name: str
    size: int
    version: str
    modified: dt.datetime = field(compare=False)


class Store(Protocol):
    """A folder of immutable objects, on disk or in a bucket.

    Synchronous, and safe to use from several threads. Names are relative to the root, with `/` between segments. Trouble
    is an `OSError` that names the object; `str(store)` is the root's URI.
    """

    def put(self, name: str, data: bytes | Path) -> None:
        """Put an object where there is none: all of it becomes visible at once, or nothing.

        :param data: content, or a local file to stream it from.
        :raises FileExistsError: if the name is taken; what is there stays as it is. After a lost reply this may be the
            caller's own object: `create` tells.
        """

    def get(self, name: str, start: int = 0, length: int | None = None, version: str | None = None) -> bytes:
        """Return (a range of) an object's bytes; fewer than `length` if it ends before.

        :param version: the version that is meant, as `list` gave it.
        :raises FileNotFoundError: if there is no such object.
        :raises SourceError: if there is another version.
        """

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the objects whose names start with `prefix`, sorted by name. It need not end at a slash."""

    def delete(self, name: str) -> None:
        """Delete an object; it is no error if there is none."""


def create(store: Store, name: str, data: bytes | Path) -> bool:
    """Put an object, and tell whether this content is what holds the name now.

    A reply can get lost after the object was stored; the client's own retry then meets its own object. So "exists" is read
    back: equal bytes are our write (callers put a nonce into what must be told apart).

    :return: True if the object there has this content, False if it has another.
    """
    try:
        store.put(name, data)
    except FileExistsError:
        try:
            return _holds(store, name, data)
        except FileNotFoundError as error:
            raise OSError(
                f"{store}/{name} was taken, and is not there: it was deleted meanwhile, or its writer died halfway on a "
                "file system without links. Nothing was written. Try again; if it stays so, delete the *.claim file beside it."
            ) from error
    return True


def _holds(store: Store, name: str, data: bytes | Path) -> bool:
    if isinstance(data, bytes):
        return store.get(name, 0, len(data) + 1) == data
    offset = 0
    with data.open("rb") as file:
        while chunk := file.read(COMPARED):
            if store.get(name, offset, len(chunk)) != chunk:
                return False
            offset += len(chunk)
    return not store.get(name, offset, 1)


def checked(name: str) -> str:
    """Return the name if it stays below the root and means the same object in every store.

    :raises ValueError: if not.
    """
    if "\0" in name or any(segment in {"", ".", ".."} for segment in name.split("/")):
        raise ValueError(f"{name!r} is not a name below a store's root")
    if re.search(r"(^|/)\.distil-", name):
        raise ValueError(f"{name!r} is a name that stores keep for themselves")
    return name
