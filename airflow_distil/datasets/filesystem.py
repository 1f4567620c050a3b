"""Published parts as one Arrow dataset, whatever store they are in."""

from __future__ import annotations

# ruff: noqa: D102 - the methods are those of pyarrow.fs.FileSystemHandler
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from airflow_distil.datasets.stores import Entry, RangeFile, Store
from airflow_distil.exceptions import SourceError

__all__ = ["StoreFileSystem", "open_parts"]

# Footers are read side by side: each takes some round trips of 50 ms.
LOOKERS = 16


class StoreFileSystem(fs.FileSystemHandler):  # type: ignore[misc]
    """A store as a read-only Arrow file system: `pyarrow.fs.PyFileSystem(StoreFileSystem(store))`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreFileSystem) and other.store is self.store

    def __hash__(self) -> int:
        return id(self.store)

    def get_type_name(self) -> str:
        return "airflow-distil"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        prefix = f"{selector.base_dir}/" if selector.base_dir else ""
        entries = [entry for entry in self.store.list(prefix) if selector.recursive or "/" not in entry.name[len(prefix) :]]
        if not entries and not selector.allow_not_found:
            raise FileNotFoundError(f"there is nothing in {self.store}/{selector.base_dir}")
        return [fs.FileInfo(entry.name, fs.FileType.File, size=entry.size) for entry in entries]

    def open_input_file(self, path: str) -> pa.NativeFile:
        entry = self._entry(path)
        if entry is None or entry.name != path:
            raise FileNotFoundError(f"there is no {self.store}/{path}")
        return pa.PythonFile(RangeFile(self.store, entry), "r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def _entry(self, path: str) -> Entry | None:
        # In sorted order the exact name is the first of those that start with it.
        return next(iter(self.store.list(path)), None)

    def _info(self, path: str) -> fs.FileInfo:
        entry = self._entry(path)
        if entry is not None and entry.name == path:
            return fs.FileInfo(path, fs.FileType.File, size=entry.size)
        below = next(iter(self.store.list(f"{path}/" if path else "")), None)
        return fs.FileInfo(path, fs.FileType.Directory if below else fs.FileType.NotFound)

    def _refuse(self, *_: Any) -> NoReturn:
        raise PermissionError(f"{self.store} is read-only here: published parts never change")

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = move = _refuse
    open_append_stream = open_output_stream = _refuse


def open_parts(parts: Iterable[tuple[Store, Sequence[str]]], *, schema: pa.Schema | None = None) -> ds.FileSystemDataset:
    """Return the Parquet files as one dataset; scans keep their order.

    :param parts: stores and the names in them, in order.
    :param schema: columns of the dataset. Default: the union of the files' columns, types unified; that reads each footer.
    :raises SourceError: if there is no part, or one cannot be read, or types do not fit together.
    """
    parquet = ds.ParquetFileFormat()
    fragments = [
        (f"{store}/{name}", parquet.make_fragment(name, filesystem=filesystem))
        for store, names in parts
        for filesystem in [fs.PyFileSystem(StoreFileSystem(store))]
        for name in names
    ]
    if not fragments:
        raise SourceError("the dataset has no parts.")
    return ds.FileSystemDataset([fragment for _, fragment in fragments], schema or _union(fragments), parquet)


def _union(fragments: list[tuple[str, Any]]) -> pa.Schema:
    with ThreadPoolExecutor(min(LOOKERS, len(fragments))) as lookers:
        schemas = lookers.map(_schema, fragments)
        union = pa.schema([])
        for (name, _), schema in zip(fragments, schemas, strict=True):
            try:
                union = pa.unify_schemas([union, schema], promote_options="permissive")
            except pa.ArrowException as error:
                raise SourceError(f"{name} does not fit the parts before it: {error}.") from error
    return union


def _schema(fragment: tuple[str, Any]) -> pa.Schema:
    name, part = fragment
    try:
        return part.physical_schema.remove_metadata()
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{name} cannot be read: {error}.") from error
