"""Where objects are kept: local files, Google Cloud Storage, S3, and memory for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_distil.datasets.stores.base import Entry, Store, create
from airflow_distil.datasets.stores.file import FileStore
from airflow_distil.datasets.stores.memory import MemoryStore
from airflow_distil.datasets.stores.rangefile import RangeFile
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import TaskDefinitionError

if TYPE_CHECKING:
    from airflow_distil.datasets.stores.s3 import S3Store

__all__ = ["Entry", "FileStore", "MemoryStore", "RangeFile", "Store", "create", "open_store"]


def open_store(
    uri: URI,
    *,
    credentials: Any = None,
    project: str | None = None,
    region: str | None = None,
    endpoint: str | None = None,
) -> Store:
    """Open the store whose root is the given folder. Nothing is sent before the first verb.

    :param credentials: for `gs`: `google.auth` credentials; for `s3`: a function that returns obstore's. None for those that
        the environment has.
    :param project: Google Cloud project for `gs`; None for the default one.
    :param region: AWS region for `s3`; None for the environment's.
    :param endpoint: base URL of the server for `s3`; None for the environment's, else Amazon's.
    :raises TaskDefinitionError: if the scheme needs an extra that is not installed.
    """
    if uri.scheme == "gs":
        # Loaded here, because it costs 24 MB and most tests and local runs need no cloud.
        from airflow_distil.datasets.stores.gs import GCSStore

        return GCSStore(uri, credentials=credentials, project=project)
    if uri.scheme == "s3":
        return _s3()(uri, credentials=credentials, region=region, endpoint=endpoint)
    if uri.scheme == "memory":
        return MemoryStore(uri)
    return FileStore(uri)


def _s3() -> type[S3Store]:
    try:
        from airflow_distil.datasets.stores.s3 import S3Store
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise TaskDefinitionError("s3:// needs the extra `s3`. Next: pip install 'airflow-distil[s3]' on the worker.") from None
    return S3Store
