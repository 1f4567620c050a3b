"""Where objects are kept: local files, Google Cloud Storage, and memory for tests."""

from __future__ import annotations

from airflow_distil.datasets.stores.base import Entry, Store, create
from airflow_distil.datasets.stores.file import FileStore
from airflow_distil.datasets.stores.memory import MemoryStore
from airflow_distil.datasets.stores.rangefile import RangeFile
from airflow_distil.datasets.uri import URI

__all__ = ["Entry", "FileStore", "MemoryStore", "RangeFile", "Store", "create", "open_store"]


def open_store(uri: URI, *, credentials: object | None = None, project: str | None = None) -> Store:
    """Open the store whose root is the given folder. Nothing is sent before the first verb.

    :param credentials: `google.auth` credentials for `gs`; None for the application default ones.
    :param project: Google Cloud project for `gs`; None for the default one.
    """
    if uri.scheme == "gs":
        # Loaded here, because it costs 24 MB and most tests and local runs need no cloud.
        from airflow_distil.datasets.stores.gs import GCSStore

        return GCSStore(uri, credentials=credentials, project=project)
    if uri.scheme == "memory":
        return MemoryStore(uri)
    return FileStore(uri)
