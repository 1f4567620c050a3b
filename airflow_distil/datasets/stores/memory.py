"""Objects in this process, for tests and notebooks."""

# ruff: noqa: D102 - the four verbs are documented on Store

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock

from airflow_distil.datasets.stores.base import Entry, checked
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import SourceError

__all__ = ["MemoryStore"]


@dataclass
class _Bucket:
    lock: Lock = field(default_factory=Lock)
    versions: count[int] = field(default_factory=lambda: count(1))
    objects: dict[str, tuple[bytes, str, dt.datetime]] = field(default_factory=dict)


class MemoryStore:
    """A folder of a bucket in memory; every store opened on the same bucket in this process shares its objects."""

    _buckets: dict[str, _Bucket] = {}
    _registry = Lock()

    def __init__(self, uri: URI) -> None:
        self.uri = uri
        self._prefix = f"{uri.key}/" if uri.key else ""
        with self._registry:
            self._bucket = self._buckets.setdefault(uri.bucket, _Bucket())

    def __str__(self) -> str:
        return str(self.uri)

    def put(self, name: str, data: bytes | Path) -> None:
        content = data.read_bytes() if isinstance(data, Path) else bytes(data)
        key = self._prefix + checked(name)
        with self._bucket.lock:
            if key in self._bucket.objects:
                raise FileExistsError(f"{self}/{name} exists")
            self._bucket.objects[key] = content, str(next(self._bucket.versions)), dt.datetime.now(dt.UTC)

    def get(self, name: str, start: int = 0, length: int | None = None, version: str | None = None) -> bytes:
        try:
            content, now, _ = self._bucket.objects[self._prefix + name]
        except KeyError:
            raise FileNotFoundError(f"there is no {self}/{name}") from None
        if version is not None and version != now:
            raise SourceError(f"{self}/{name} changed: it was version {version} and is {now}.")
        return content[start : None if length is None else start + length]

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with self._bucket.lock:
            found = [(key, len(content), now, modified) for key, (content, now, modified) in self._bucket.objects.items()]
        start = len(self._prefix)
        for key, size, now, modified in sorted(found):
            if key.startswith(self._prefix + prefix):
                yield Entry(key[start:], size, now, modified)

    def delete(self, name: str) -> None:
        with self._bucket.lock:
            self._bucket.objects.pop(self._prefix + name, None)
