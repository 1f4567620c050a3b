"""Published datasets in plain tasks: open one as an Arrow dataset, publish anything that Arrow can stream."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_distil.conversation import digest
from airflow_distil.datasets.commit import Commit
from airflow_distil.datasets.filesystem import open_parts
from airflow_distil.datasets.manifest import FORMAT, Identity, Manifest
from airflow_distil.datasets.numbers import Numbers
from airflow_distil.datasets.parts import PartWriter
from airflow_distil.datasets.files import find_parts
from airflow_distil.datasets.stores import FileStore, create
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DestinationError, SourceError, TaskDefinitionError
from airflow_distil.hooks.identity import ask_of, identity_of
from airflow_distil.hooks.storage import default_destination, store_for

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = ["open_dataset", "publish"]

_published: set[tuple[str, int, str]] = set()


def open_dataset(source: Any) -> ds.Dataset:
    """Open published rows as a `pyarrow.dataset.Dataset`: duckdb, polars and pandas read it as it is.

    :param source: a summary that an operator returned, a list of them (a mapped upstream's, appended in order), or the URI of a
        destination, which means its latest edition.
    :raises NotPublished: if there is no edition.
    :raises SourceError: if it cannot be read, or is not what the summary says.
    """
    return open_parts(find_parts(source, stores=store_for))


def publish(data: Any, destination: str | None = None) -> dict[str, Any]:
    """Publish rows as a dataset, all or nothing, and return its summary. The same content again returns the edition there is.

    :param data: anything that Arrow can stream (pyarrow, polars, duckdb: `__arrow_c_stream__`), rows as a list of dicts, or a
        list of summaries, which is recorded without copying their rows.
    :param destination: URI of the folder to publish in; by default `[distil] dataset_root`, then DAG, task and run. Outside a
        task it must be given.
    :raises TaskDefinitionError: if there is no destination, or this attempt has published there already.
    :raises DestinationError: if it cannot be written, or belongs to another task.
    """
    identity, ask, try_number = _caller()
    target = _target(destination, identity)
    once = (ask, try_number, str(target))
    if identity.dag_id and once in _published:
        raise TaskDefinitionError(f"This task has published to {target} already. Give each call a destination of its own.")
    store = store_for(target)
    commit = Commit(store, identity, ask, try_number=try_number)
    with tempfile.TemporaryDirectory(prefix="airflow-distil-") as folder:
        # Written here first: what is in the parts decides whether they are published already.
        local = FileStore(URI.parse(folder))
        try:
            content, fingerprint = _content(data, local, Path(folder))
            begun = commit.begin(fingerprint)
            if isinstance(begun, Manifest):
                _published.add(once)
                return begun.summary(str(target))
            for part in content["parts"]:
                commit.look()
                moved = f"data/{begun.folder}/{Path(part['path']).name}"
                create(store, moved, Path(folder) / part["path"])
                part["path"] = moved
            manifest = commit.publish(content)
        except (SourceError, DestinationError):
            raise
        except OSError as error:
            raise DestinationError(f"{target} cannot be read or written: {error}. Nothing was published.") from error
    _published.add(once)
    return manifest.summary(str(target))


def _caller() -> tuple[Identity, str, int]:
    """Return whose work this is; nobody's, outside a task."""
    from airflow.sdk import get_current_context

    try:
        context = get_current_context()
    except RuntimeError:
        return Identity(), Identity().ask(0, ""), 0
    return identity_of(context), ask_of(context), context["ti"].try_number


def _target(destination: str | None, identity: Identity) -> URI:
    if destination:
        target = URI.parse(destination)
    elif identity.dag_id:
        target = default_destination(identity.dag_id, identity.task_id, identity.run_id)
    else:
        raise TaskDefinitionError("publish() outside a task needs a destination.")
    return target.join(f"map-{identity.map_index:05d}") if identity.map_index >= 0 else target


def _content(data: Any, local: FileStore, folder: Path) -> tuple[dict[str, Any], str]:
    """Write the parts locally; return the fields of the manifest and the fingerprint."""
    items = data if hasattr(data, "__arrow_c_stream__") or isinstance(data, Mapping) else list(data)
    if isinstance(items, list) and items and all(isinstance(item, Mapping) and item.get("format") == FORMAT for item in items):
        return _members(items)
    reader = _reader(items)
    writer = PartWriter(local, "parts", folder, reader.schema)
    numbers, counts, rows = Numbers(), dict.fromkeys(("ok", "unparsed", "failed", "skipped"), 0), 0
    for batch in reader:
        writer.write(batch)
        numbers.add(batch)
        rows += batch.num_rows
        fates = batch.column("distil_status").to_pylist() if "distil_status" in batch.schema.names else ["ok"] * batch.num_rows
        for fate in fates:
            counts[fate if fate in counts else "ok"] += 1
    parts = [part.model_dump() for part in writer.finish()]
    content = {
        "parts": parts,
        "columns": {field.name: str(field.type) for field in reader.schema},
        "rows": rows,
        **counts,
        "numbers": numbers.summary,
    }
    return content, digest(*(part["sha256"].encode() for part in parts)).hex()


def _members(summaries: list[Mapping[str, Any]]) -> tuple[dict[str, Any], str]:
    counts = {name: sum(summary[name] for summary in summaries) for name in ("rows", "ok", "unparsed", "failed", "skipped")}
    columns: dict[str, str] = {}
    for summary in summaries:
        columns.update(summary["columns"])
    content = {"parts": [], "members": [dict(summary) for summary in summaries], "columns": columns, **counts}
    return content, digest(*(str(summary["sha256"]).encode() for summary in summaries)).hex()


def _reader(data: Any) -> pa.RecordBatchReader:
    import pyarrow as pa

    if isinstance(data, list):
        table = pa.Table.from_pylist(data)
        return table.to_reader()
    try:
        return pa.RecordBatchReader.from_stream(data)
    except TypeError as error:
        raise SourceError(
            f"publish() cannot stream a {type(data).__name__}. Pass a pyarrow, polars or duckdb result, a list of rows, or a "
            "list of summaries."
        ) from error
