"""Objects in a Google Cloud Storage bucket."""

# ruff: noqa: D102 - the four verbs are documented on Store

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import requests
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    GoogleAPIError,
    NotFound,
    PreconditionFailed,
    RequestRangeNotSatisfiable,
    Unauthorized,
)
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from requests.adapters import HTTPAdapter

from airflow_distil.datasets.stores.base import Entry, checked
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import SourceError

__all__ = ["GCSStore"]

# requests keeps 10 connections by default and throws the others away after each use, with a warning in the log. Readers,
# the uploader and the commit protocol together use a few dozen threads at most.
CONNECTIONS = 64


class GCSStore:
    """A folder of a bucket. With `STORAGE_EMULATOR_HOST` set it talks to that server, without credentials.

    Requests are retried by Google's client for up to two minutes. A put whose reply got lost therefore meets its own object
    and raises `FileExistsError`; `create` reads it back.
    """

    def __init__(self, uri: URI, *, credentials: object | None = None, project: str | None = None) -> None:
        self.uri = uri
        self._prefix = f"{uri.key}/" if uri.key else ""
        self._open: Callable[[], Any] = lambda: _client(credentials, project, os.environ.get("STORAGE_EMULATOR_HOST"))

    def __str__(self) -> str:
        return str(self.uri)

    def put(self, name: str, data: bytes | Path) -> None:
        key = checked(name)
        with self._errors(name):
            blob = self._blob(key)
            try:
                if isinstance(data, Path):
                    blob.upload_from_filename(str(data), content_type="application/octet-stream", if_generation_match=0)
                else:
                    blob.upload_from_string(data, content_type="application/octet-stream", if_generation_match=0)
            except PreconditionFailed as error:
                raise FileExistsError(f"{self}/{name} exists") from error

    def get(self, name: str, start: int = 0, length: int | None = None, version: str | None = None) -> bytes:
        if length == 0:
            return b""
        end = None if length is None else start + length - 1
        with self._errors(name):
            blob = self._blob(name, None if version is None else int(version))
            try:
                # Raw, because a range of an object stored with `Content-Encoding: gzip` makes sense in its stored form only.
                # No `start` for the whole object: asking an empty object for bytes from 0 on is an error.
                content: bytes = blob.download_as_bytes(start=start or None, end=end, raw_download=True)
            except RequestRangeNotSatisfiable:
                return b""
            except NotFound:
                if version is not None:
                    self._explain(name, version)
                raise
        return content

    def list(self, prefix: str = "") -> Iterator[Entry]:
        start = len(self._prefix)
        with self._errors(prefix):
            found = self._open().list_blobs(
                self.uri.bucket, prefix=self._prefix + prefix, fields="items(name,size,generation,timeCreated),nextPageToken"
            )
            for blob in found:
                # Consoles make empty objects "folder/" to show a folder; nobody means them as data.
                if not blob.name.endswith("/"):
                    # Of this generation, which `updated` is not: that changes with an object's metadata, too.
                    yield Entry(blob.name[start:], blob.size, str(blob.generation), blob.time_created)

    def delete(self, name: str) -> None:
        with self._errors(name):
            try:
                self._blob(checked(name)).delete()
            except NotFound:
                return

    def _blob(self, name: str, generation: int | None = None) -> Any:
        return self._open().bucket(self.uri.bucket).blob(self._prefix + name, generation=generation)

    def _explain(self, name: str, version: str) -> None:
        now = self._open().bucket(self.uri.bucket).get_blob(self._prefix + name)
        if now is not None:
            raise SourceError(f"{self}/{name} changed: its generation was {version} and is {now.generation}.")

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn Google's exceptions, of four libraries, into OSErrors that name the object."""
        where = f"{self}/{name}"
        try:
            yield
        except NotFound as error:
            raise FileNotFoundError(f"there is no {where}, or no bucket {self.uri.bucket!r}") from error
        except (Forbidden, Unauthorized, GoogleAuthError) as error:
            connection = f"connection {self.uri.conn_id!r}" if self.uri.conn_id else "the default credentials"
            raise PermissionError(f"{connection} may not use {where}: {_reason(error)}") from error
        except (GoogleAPIError, DataCorruption, InvalidResponse, requests.RequestException) as error:
            raise OSError(f"{where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, GoogleAPICallError) else str(error)
    return f"{type(error).__name__}: {text}"[:300]


@lru_cache(maxsize=8)
def _client(credentials: Any, project: str | None, emulator: str | None) -> Any:  # noqa: ARG001 - part of the key
    """Return one client for all stores of the same credentials: finding the default ones can take seconds."""
    # A client without a project is fine for objects; looking for one would fail where only credentials are given.
    client: Any = storage.Client(project=project, credentials=credentials)
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=CONNECTIONS))  # noqa: SLF001 - there is no other way
    return client
