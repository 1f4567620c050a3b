"""Published datasets in plain tasks: open one as an Arrow dataset, publish anything that Arrow can stream."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_distil.conversation import digest
from airflow_distil.datasets.commit import Commit
from airflow_distil.datasets.files import check_members, find_parts
from airflow_distil.datasets.filesystem import open_parts
from airflow_distil.datasets.manifest import FORMAT, Identity, Manifest
from airflow_distil.datasets.numbers import Numbers
from airflow_distil.datasets.parts import PartWriter
from airflow_distil.datasets.stores import FileStore, create
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DestinationError, SourceError, TaskDefinitionError
from airflow_distil.hooks.identity import ask_of, identity_of
from airflow_distil.hooks.page import page_url
from airflow_distil.hooks.storage import destination_of, store_for

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = ["open_dataset", "publish"]

# (id of the task instance, target): Airflow gives each try an id of its own, and so does `dag.test()` to each run.
_published: set[tuple[str, str]] = set()


def open_dataset(source: Any) -> ds.Dataset:
    """Open published rows; see `airflow_distil.open_dataset`."""
    return open_parts(find_parts(source, stores=store_for))


def publish(data: Any, destination: str | None = None) -> dict[str, Any]:
    """Publish rows as a dataset; see `airflow_distil.publish`."""
    identity, ask, try_number, attempt = _caller()
    target = destination_of(destination, identity)
    page = page_url(identity) if attempt else None
    once = (attempt, str(target))
    if attempt and once in _published:
        raise TaskDefinitionError(f"This task has published to {target} already. Give each call a destination of its own.")
    store = store_for(target)
    commit = Commit(store, identity, ask, try_number=try_number)
    with tempfile.TemporaryDirectory(prefix="airflow-distil-") as folder:
        # Written here first: what is in the parts decides whether they are published already.
        local = FileStore(URI.parse(folder))
        try:
            content, fingerprint = _content(data, target, local, Path(folder))
            begun = _same(commit, fingerprint) or commit.begin(fingerprint)
            if isinstance(begun, Manifest):
                _published.add(once)
                return begun.summary(str(target), page)
            for part in content["parts"]:
                commit.look()
                moved = f"data/{begun.folder}/{Path(part['path']).name}"
                if not create(store, moved, Path(folder) / part["path"]):
                    raise DestinationError(f"{target}/{moved} exists already with other content. Nothing was published.")
                part["path"] = moved
            manifest = commit.publish(content)
        except OSError as error:
            raise DestinationError(f"{target} cannot be read or written: {error}. Nothing was published.") from error
    _published.add(once)
    return manifest.summary(str(target), page)


def _caller() -> tuple[Identity, str, int, str]:
    """Return whose work this is, its ask, its try and an id of this attempt; nobody's, outside a task."""
    from airflow.sdk import get_current_context

    try:
        context = get_current_context()
    except RuntimeError:
        return Identity(), Identity().ask(0, ""), 0, ""
    return identity_of(context), ask_of(context), context["ti"].try_number, str(context["ti"].id)


def _same(commit: Commit, fingerprint: str) -> Manifest | None:
    """Return the latest edition if it has this content. Failed rows in it are content, too: there is nothing to ask again."""
    latest = commit.latest()
    same = latest is not None and latest.fingerprint == fingerprint and latest.identity.owner == commit.identity.owner
    return latest if same else None


def _content(data: Any, target: URI, local: FileStore, folder: Path) -> tuple[dict[str, Any], str]:
    """Write the parts locally; return the fields of the manifest and the fingerprint."""
    streams = hasattr(data, "__arrow_c_stream__") or isinstance(data, Mapping | str) or not isinstance(data, Iterable)
    items = data if streams else list(data)
    if isinstance(items, list) and items and all(isinstance(item, Mapping) and item.get("format") == FORMAT for item in items):
        return _members(items, target)
    reader = _reader(items)
    numbers, counts, rows = Numbers(), dict.fromkeys(("ok", "unparsed", "failed", "skipped"), 0), 0
    with PartWriter(local, "parts", folder, reader.schema) as writer:
        for batch in reader:
            writer.write(batch)
            numbers.add(batch, [name for name in batch.schema.names if not name.startswith("distil_")])
            rows += batch.num_rows
            told = "distil_status" in batch.schema.names
            for fate in batch.column("distil_status").to_pylist() if told else ["ok"] * batch.num_rows:
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


def _members(summaries: list[Mapping[str, Any]], target: URI) -> tuple[dict[str, Any], str]:
    find_parts(summaries, stores=store_for)  # refuses what is not there, or not what the summary says
    check_members(target, summaries)
    try:
        counts = {name: sum(int(each[name]) for each in summaries) for name in ("rows", "ok", "unparsed", "failed", "skipped")}
        columns = {name: str(kind) for each in summaries for name, kind in each["columns"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"publish() was given a summary that is not whole: {type(error).__name__}: {error}.") from error
    content = {"parts": [], "members": [dict(summary) for summary in summaries], "columns": columns, **counts}
    return content, digest(*(str(summary["sha256"]).encode() for summary in summaries)).hex()


def _reader(data: Any) -> pa.RecordBatchReader:
    import pyarrow as pa

    if isinstance(data, list) and all(isinstance(row, Mapping) for row in data):
        if not data:
            raise SourceError("publish() was given no rows, so no columns are known. Pass an empty Arrow table with columns.")
        # Not Table.from_pylist: that takes the columns of the first row, and drops what only others have.
        names = dict.fromkeys(name for row in data for name in row)
        return pa.table({name: _column(name, [row.get(name) for row in data]) for name in names}).to_reader()
    try:
        reader = pa.RecordBatchReader.from_stream(data)
    except TypeError as error:
        raise SourceError(
            f"publish() cannot stream a {type(data).__name__}. Pass a pyarrow, polars or duckdb result, a list of rows, or a "
            "list of summaries."
        ) from error
    return reader.cast(pa.schema([field.with_type(_stored(field.type)) for field in reader.schema]))


def _stored(kind: pa.DataType) -> pa.DataType:
    """Return the type without views, which polars uses in memory and older versions of Arrow do not write."""
    import pyarrow as pa

    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_stored(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_stored(field.type)) for field in kind])
    return kind


def _column(name: str, values: list[Any]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise SourceError(f"publish(): the values of column {name!r} have no common type: {error}.") from error
