"""From a URI, as Airflow users write them, to a store with credentials."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow_distil.datasets.manifest import Identity
from airflow_distil.datasets.stores import Store, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import TaskDefinitionError

__all__ = ["dataset_root", "destination_of", "scratch_dir", "store_for", "ui_roots"]


def store_for(uri: URI) -> Store:
    """Open the store of a URI. Its `conn_id` names an Airflow connection; without one the environment's credentials are used.

    :raises TaskDefinitionError: if the connection cannot be used for this scheme.
    """
    if uri.scheme == "s3":
        from airflow_distil.hooks.aws import s3_access

        return open_store(uri, **s3_access(uri.conn_id)._asdict())
    if uri.conn_id is None:
        return open_store(uri)
    if uri.scheme != "gs":
        raise TaskDefinitionError(f"{uri}: a {uri.scheme} URI takes no connection. Leave {uri.conn_id!r} out.")
    try:
        from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
    except ImportError:
        raise TaskDefinitionError(
            f"{uri}: connection {uri.conn_id!r} needs Airflow's Google provider. Run `pip install "
            "apache-airflow-providers-google`, or leave the connection out to use the environment's credentials."
        ) from None
    credentials, project = GoogleBaseHook(gcp_conn_id=uri.conn_id).get_credentials_and_project_id()
    return open_store(uri, credentials=credentials, project=project)


def destination_of(given: str | None, identity: Identity) -> URI:
    """Return where a task instance writes: below what its task names, or below `[distil] dataset_root`/DAG/task/run.

    :raises TaskDefinitionError: if neither is there.
    """
    uri = _default_destination(identity) if given is None else URI.parse(given)
    return uri.join(identity.folder) if identity.folder else uri


def _default_destination(identity: Identity) -> URI:
    if not identity.dag_id:
        raise TaskDefinitionError("No destination. Outside a task there is no default one; pass destination=...")
    root = dataset_root()
    if not root:
        raise TaskDefinitionError(
            "No destination. Pass destination='gs://bucket/folder', or set [distil] dataset_root "
            "(AIRFLOW__DISTIL__DATASET_ROOT) once for all tasks."
        )
    uri = URI.parse(root)
    for part in (identity.dag_id, identity.task_id, identity.run_id):
        # A run id holds colons and pluses, a task id may hold dots; each is one folder, whatever is in it.
        folder = quote(part, safe="")
        uri = uri.join(folder if folder.strip(".") else folder.replace(".", "%2E"))
    return uri


def dataset_root() -> str | None:
    """Return `[distil] dataset_root`, or None if it is not set."""
    return _option("dataset_root") or None


def scratch_dir() -> str | None:
    """Return `[distil] scratch_dir`, or None for the system's temporary folder."""
    return _option("scratch_dir") or None


def ui_roots() -> list[str]:
    """Return the URIs of `[distil] ui_roots`, by default that of `dataset_root`: what pages of the UI may read."""
    named = [line.strip() for line in _option("ui_roots").replace(",", "\n").splitlines()]
    root = dataset_root()
    return [uri for uri in named if uri] or ([root] if root else [])


def _option(name: str) -> str:
    from airflow.providers.common.compat.sdk import conf

    value: Any = conf.get("distil", name, fallback="")
    return str(value or "")
