"""What a task reads: files, published datasets or rows, as one stream whose content is fixed when it is opened."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import pyarrow as pa
from pydantic import ValidationError

from airflow_distil.conversation import Row
from airflow_distil.datasets.manifest import CLAIMS, FORMAT, MANIFESTS, Manifest
from airflow_distil.datasets.readers import (
    JSON,
    Contents,
    JSONReader,
    Located,
    Reader,
    cast_to,
    format_of,
    reader_for,
    without_surrogates,
)
from airflow_distil.datasets.stores import Entry, RangeFile, Store, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DistilError, NotPublished, SourceError, TaskDefinitionError

__all__ = ["Source", "SourceFile", "Stores", "find_parts", "open_source", "rows_of"]

Stores: TypeAlias = Callable[[URI], Store]
"""Opens the store rooted at a URI; the caller knows the credentials."""

# Files are looked into before the first call. Each takes a few round trips of 50 ms, so thousands need company; more than
# a few would hold a read-ahead each for nothing, as unpacking and parsing share two cores at best.
LOOKERS = 8

# Part files of one attempt. Several attempts of one destination hold the same rows again.
ATTEMPT = re.compile(r"(?P<destination>.*?)(?:^|/)data/(?P<attempt>\d{6}-[0-9a-f]{8,})/part-\d+\.parquet")


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, in the version that is read.

    :param rows: rows of it that are read.
    """

    uri: URI
    size: int
    version: str
    format: str
    rows: int


@dataclass(frozen=True)
class _File:
    """A file as it was listed.

    :param listing: prefix that lists it again, shared by the files found together.
    :param rows: what the manifest says; None for files that are named by none.
    :param manifest: sha256 of the manifest that names it.
    """

    store: Store
    root: URI
    entry: Entry
    listing: str
    rows: int | None = None
    manifest: str | None = None

    @property
    def uri(self) -> URI:
        return self.root / self.entry.name

    def open(self) -> BinaryIO:
        return cast("BinaryIO", RangeFile(self.store, self.entry))


@dataclass(frozen=True)
class _Piece:
    """A file, or all literal rows, and how to read it."""

    name: str
    reader: Reader
    open: Callable[[], BinaryIO]
    identity: dict[str, Any]
    file: _File | None = None
    contents: Contents = field(default=Contents(0, pa.schema([])))

    def scanned(self, limit: int | None) -> _Piece:
        with _readable(self.name):
            contents = self.reader.scan(self.open, self.name, limit)
        expected = self.file.rows if self.file else None
        if expected is not None and contents.rows != (expected if limit is None else min(expected, limit)):
            raise SourceError(f"{self.name} has {contents.rows} rows; its manifest says {expected}. The file was replaced.")
        return replace(self, contents=contents)

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the piece's rows with the columns and types of `schema`."""
        own = pa.schema([column for column in self.contents.schema if column.name in schema.names])
        left = self.contents.rows
        with _readable(self.name):
            for batch in self.reader.batches(self.open, self.name, own):
                yield _conformed(batch.slice(0, left), schema, self.name)
                left -= batch.num_rows
                if left <= 0:
                    return


class Source:
    """An opened source: versions are pinned, rows counted, the schema is known.

    :param rows: number of rows.
    :param schema: columns and types of every batch.
    :param identity: JSON-able; equal if the content is the same: names, sizes and versions of files, the hash of literal
        rows, the manifest's hash of published datasets.
    :param files: the files behind it, in order; none for literal rows.
    """

    def __init__(self, pieces: Sequence[_Piece], schema: pa.Schema) -> None:
        self._pieces = pieces
        self.schema = schema
        self.rows = sum(piece.contents.rows for piece in pieces)
        self.identity: dict[str, Any] = {"inputs": _identities(pieces)}
        self.files = [
            SourceFile(file.uri, file.entry.size, file.entry.version, format_of(file.entry.name), piece.contents.rows)
            for piece in pieces
            if (file := piece.file)
        ]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order; the same ones at each call.

        :raises SourceError: if a file cannot be read, or changed since the source was opened.
        """
        for piece in self._pieces:
            yield from piece.batches(self.schema)

    def verify(self) -> None:
        """Check that every file is still the one that was opened. New files beside them do not matter.

        :raises SourceError: if one changed or is gone.
        """
        files = [piece.file for piece in self._pieces if piece.file]
        for _, group in groupby(files, key=lambda file: (id(file.store), file.listing)):
            found = list(group)
            with _readable(str(found[0].root)):
                now = {entry.name: entry for entry in found[0].store.list(found[0].listing)}
            for file in found:
                if now.get(file.entry.name) != file.entry:
                    what = "changed" if file.entry.name in now else "was deleted"
                    raise SourceError(
                        f"{file.uri} {what} while it was being read. Answers so far are kept; the next try reads the new "
                        "content and asks only what is new. Let upstream write new files instead of replacing them."
                    )


def open_source(
    source: Any,
    *,
    stores: Stores = open_store,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    schema: Mapping[str, str] | None = None,
) -> Source:
    """Open a source and look into it, so that what is wrong with it is said before anything is asked.

    :param source: URI of a file, of a folder or of a published dataset, or a pattern (`*` and `?` within a segment, `**`
        for any folders); rows (dicts); a summary of a published dataset; or any sequence of one of these kinds, which
        means their rows in that order. Names that start with `_` or `.` below a folder are skipped.
    :param stores: opens stores.
    :param limit: read the first rows only; files beyond are not looked at.
    :param columns: columns to read, in this order. Default: all.
    :param schema: column to Arrow type name (`int64`, `double`, `string`, `bool`, `timestamp[us]`…).
    :raises SourceError: if there is no row, or something cannot be read, or types do not fit together.
    :raises NotPublished: if a dataset of ours has no edition yet.
    :raises TaskDefinitionError: if the arguments make no sense.
    """
    if limit is not None and limit < 1:
        raise TaskDefinitionError(f"limit={limit}: give at least 1, or None for all rows.")
    if columns is not None and (not columns or len(set(columns)) < len(columns)):
        raise TaskDefinitionError(f"columns={list(columns)}: name at least one column, and each once; None means all.")
    types = {column: _type(column, alias) for column, alias in (schema or {}).items()}
    pieces = _scanned(_pieces(source, stores, types, limit), limit)
    if not sum(piece.contents.rows for piece in pieces):
        raise SourceError(
            f"the source has no rows: {_described(source)}. Nothing was asked. If that can happen, let a "
            "@task.short_circuit upstream skip this task."
        )
    return _fitted(pieces, columns, types)


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """Return the rows of a batch as Python values, those of JSON columns parsed."""
    rows: list[Row] = batch.to_pylist()
    for name in (column.name for column in batch.schema if column.type == JSON):
        for row in rows:
            row[name] = None if row[name] is None else json.loads(row[name])
    return rows


def find_parts(source: Any, *, stores: Stores = open_store) -> list[tuple[Store, list[str]]]:
    """Return the files behind a URI, summary or list of them as (store, names), in order; nothing is opened.

    :raises SourceError: if there are none, or `source` is made of rows.
    :raises NotPublished: if a dataset of ours has no edition yet.
    """
    kind, items = _sorted_out(source)
    if kind == "row":
        raise SourceError("rows are no dataset yet: publish them first.")
    files = _found(items, stores)
    return [(group[0].store, [file.entry.name for file in group]) for _, group in _by_store(files)]


def _by_store(files: Iterable[_File]) -> Iterator[tuple[int, list[_File]]]:
    for key, group in groupby(files, key=lambda file: id(file.store)):
        yield key, list(group)


# What is meant


Kind: TypeAlias = Literal["uri", "row", "summary"]


def _sorted_out(source: Any) -> tuple[Kind, list[Any]]:
    """Return what the source is made of."""
    if isinstance(source, Mapping) and _kind(source) == "row":
        raise TaskDefinitionError(f"source is a dict that is no summary of a dataset: {_described(source)}. One row is [row].")
    items = list(_flattened(source))
    kinds = {_kind(item) for item in items}
    if len(kinds) > 1:
        raise TaskDefinitionError(f"source mixes {' and '.join(sorted(f'{kind}s' for kind in kinds))}; a list is of one kind.")
    return (kinds.pop() if kinds else "row"), items


def _flattened(source: Any) -> Iterator[Any]:
    if isinstance(source, str | Mapping | URI | os.PathLike):
        yield source
        return
    # By its methods: what a mapped upstream returned is a lazy sequence of Airflow's, which this layer does not know.
    if not (hasattr(source, "__iter__") and hasattr(source, "__len__")) or isinstance(source, bytes | set | frozenset):
        empty = " (did the upstream return nothing?)" if source is None else ""
        raise TaskDefinitionError(
            f"source is a {type(source).__name__}{empty}. Known are URIs, rows (dicts), summaries, and lists of them."
        )
    items = list(source)
    if len(items) == 2 and isinstance(items[0], str) and items[0].isidentifier():
        raise TaskDefinitionError(
            f"source is the pair ({items[0]!r}, …): .expand(source=upstream.output) maps over the entries of one summary. Pass "
            "it whole, without mapping: source=upstream.output."
        )
    for item in items:
        yield from _flattened(item)


def _kind(item: Any) -> Kind:
    if not isinstance(item, Mapping):
        return "uri"
    made_as = item.get("format")
    if not (isinstance(made_as, str) and made_as.startswith("airflow-distil/") and "manifest" in item):
        return "row"
    if made_as != FORMAT:
        raise TaskDefinitionError(
            f"the summary has format {made_as!r}; this version reads {FORMAT!r}. Update airflow-distil here."
        )
    return "summary"


def _pieces(source: Any, stores: Stores, types: Mapping[str, pa.DataType], limit: int | None) -> list[_Piece]:
    kind, items = _sorted_out(source)
    if kind == "row":
        return [_rows_piece(items[:limit])] if items else []
    return [_file_piece(file, types) for file in _found(items, stores)]


def _rows_piece(rows: list[Mapping[str, Any]]) -> _Piece:
    located = [Located(f"row {number}", 0, without_surrogates(dict(row))) for number, row in enumerate(rows)]
    content = json.dumps([row.value for row in located], sort_keys=True, default=str).encode()
    reader = JSONReader(lambda _open, _name: iter(located))
    return _Piece("source", reader, io.BytesIO, {"rows": hashlib.sha256(content).hexdigest()})


def _file_piece(file: _File, types: Mapping[str, pa.DataType]) -> _Piece:
    entry = file.entry
    identity = {"uri": str(replace(file.uri, conn_id=None)), "size": entry.size, "version": entry.version}
    return _Piece(
        str(file.uri),
        reader_for(format_of(str(file.uri)), types),
        file.open,
        {"manifest": file.manifest} if file.manifest else identity,
        file,
    )


def _found(items: list[Any], stores: Stores) -> list[_File]:
    opened: dict[URI, Store] = {}

    def store_at(uri: URI) -> Store:
        if uri not in opened:
            opened[uri] = stores(uri)
        return opened[uri]

    files: list[_File] = []
    for item in items:
        if isinstance(item, Mapping):
            files += _of_summary(item, store_at)
        else:
            uri = item if isinstance(item, URI) else URI.parse(os.fspath(item))
            with _readable(str(uri)):
                files += _matching(uri, store_at) if re.search(r"[*?]", uri.key) else _at(uri, store_at)
    _refuse_several_attempts(files)
    return files


def _matching(uri: URI, stores: Stores) -> list[_File]:
    segments = uri.key.split("/")
    fixed = next(index for index, segment in enumerate(segments) if re.search(r"[*?]", segment))
    root = replace(uri, key="/".join(segments[:fixed]))
    pattern = "/".join(segments[fixed:])
    listing = re.split(r"[*?]", pattern)[0]
    regex = re.compile(_regex(segments[fixed:]))
    store = stores(root)
    files = [
        _File(store, root, entry, listing)
        for entry in store.list(listing)
        if regex.fullmatch(entry.name) and _visible(entry.name)
    ]
    if not files:
        raise SourceError(
            f"no files match {uri}. Nothing was asked. A pattern names files, such as folder/*.parquet, not folders."
        )
    return files


def _regex(segments: list[str]) -> str:
    """Return the pattern as a regular expression over names."""
    regex = ""
    for segment in segments[:-1]:
        literal = re.escape(segment).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        regex += "(?:[^/]+/)*" if segment == "**" else f"{literal}/"
    last = re.escape(segments[-1]).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return regex + (r"(?:[^/]+/)*[^/]+" if segments[-1] == "**" else last)


def _visible(name: str) -> bool:
    return not any(segment.startswith(("_", ".")) for segment in name.split("/"))


def _at(uri: URI, stores: Stores) -> list[_File]:
    """Return the one file at the URI, or the files of the folder there."""
    denied: OSError | None = None
    if uri.key:
        parent = stores(uri.parent)
        try:
            # In sorted order the exact name is the first of those that start with it.
            first = next(iter(parent.list(uri.name)), None)
        except PermissionError as error:
            # A folder can be readable though what it is in cannot be listed.
            first, denied = None, error
        if first and first.name == uri.name:
            return [_File(parent, uri.parent, first, uri.name)]
    files = _in_folder(uri, stores)
    if not files:
        if denied:
            raise denied
        raise SourceError(f"there is no file {uri}, and no files in a folder of that name. Nothing was asked. Check the path.")
    return files


def _in_folder(uri: URI, stores: Stores) -> list[_File]:
    store = stores(uri)
    manifests = [entry.name for entry in store.list(MANIFESTS)]
    if manifests:
        return _of_manifest(uri, manifests[-1], None, stores)
    if next(iter(store.list(CLAIMS)), None):
        raise NotPublished(
            f"{uri} has no published edition: the task that writes it has not finished. Its parts are not read, as they "
            "may be half of the data. Wait for that task, or clear it."
        )
    entries = list(store.list())
    datasets = list(dict.fromkeys(entry.name.partition("/_distil/")[0] for entry in entries if "/_distil/" in entry.name))
    inside = tuple(f"{name}/" for name in datasets)
    files = [
        _File(store, uri, entry, "")
        for entry in entries
        if _visible(entry.name) and not (inside and entry.name.startswith(inside))
    ]
    if datasets and files:
        raise SourceError(
            f"{uri} holds published datasets ({datasets[0]}/) and other files ({files[0].entry.name}). Name those meant."
        )
    # The instances of a mapped task write side by side: their editions, in order, are the dataset.
    return [file for name in datasets for file in _in_folder(uri / name, stores)] or files


def _of_summary(summary: Mapping[str, Any], stores: Stores) -> list[_File]:
    try:
        root, manifest, sha256 = URI.parse(summary["uri"]), URI.parse(summary["manifest"]), str(summary["sha256"])
    except (KeyError, AttributeError) as error:
        raise TaskDefinitionError(f"the summary is not complete ({error}): {_described(summary)}.") from error
    # A summary is an XCom, which users can edit; it may only lead to a manifest in its own dataset.
    if manifest.parent != root.join(MANIFESTS):
        raise TaskDefinitionError(f"the summary of {root} names a manifest elsewhere: {manifest}.")
    with _readable(str(manifest)):
        return _of_manifest(root, MANIFESTS + manifest.name, sha256, stores)


def _of_manifest(root: URI, name: str, sha256: str | None, stores: Stores) -> list[_File]:
    store = stores(root)
    content = store.get(name)
    actual = hashlib.sha256(content).hexdigest()
    if sha256 not in {None, actual}:
        raise SourceError(f"{root / name} is not the manifest that the summary was made from (sha256 {actual}, not {sha256}).")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SourceError(f"{root / name} is no manifest of this version: {first['loc']}: {first['msg']}.") from error
    folders = dict.fromkeys(f"{part.path.rpartition('/')[0]}/".lstrip("/") for part in manifest.parts)
    entries = {entry.name: entry for folder in folders for entry in store.list(folder)}
    files = [file for member in manifest.members for file in _of_summary(member, stores)]
    for part in manifest.parts:
        entry = entries.get(part.path)
        if entry is None or entry.size != part.bytes:
            what = "is missing" if entry is None else f"has {entry.size} bytes instead of {part.bytes}"
            raise SourceError(f"{root / part.path} {what}; {root / name} names it. Clear the task that wrote it.")
        files.append(_File(store, root, entry, f"{part.path.rpartition('/')[0]}/".lstrip("/"), part.rows, actual))
    return files


def _refuse_several_attempts(files: Iterable[_File]) -> None:
    attempts: dict[str, str] = {}
    for file in files:
        if file.manifest is None and (found := ATTEMPT.fullmatch(file.uri.key)):
            first = attempts.setdefault(found["destination"], found["attempt"])
            if first != found["attempt"]:
                raise SourceError(
                    f"the source spans several attempts of one dataset (data/{first} and data/{found['attempt']} of "
                    f"{replace(file.uri, key=found['destination'])}), which hold the same rows. Pass the dataset's own URI: "
                    "its manifest tells what is published."
                )


# Looking into it


def _identities(pieces: Sequence[_Piece]) -> list[dict[str, Any]]:
    """Return what tells this content from other content; the parts of one edition have one identity, its manifest's."""
    return [
        item
        for first, same in groupby(piece.identity for piece in pieces)
        for item in ([{**first, "parts": len(list(same))}] if "manifest" in first else same)
    ]


def _scanned(pieces: list[_Piece], limit: int | None) -> list[_Piece]:
    if limit is None:
        with ThreadPoolExecutor(min(LOOKERS, max(len(pieces), 1))) as lookers:
            return list(lookers.map(lambda piece: piece.scanned(None), pieces))
    # Enough is enough: ten rows of a terabyte are found in its first file.
    scanned: list[_Piece] = []
    for piece in pieces:
        left = limit - sum(other.contents.rows for other in scanned)
        if left:
            scanned.append(piece.scanned(left))
    return scanned


def _fitted(pieces: list[_Piece], columns: Sequence[str] | None, types: Mapping[str, pa.DataType]) -> Source:
    """Return the source with the one schema that holds all pieces."""
    existing = list(dict.fromkeys(name for piece in pieces for name in piece.contents.schema.names))
    for what, names in (("columns", columns or ()), ("schema", types)):
        if missing := [name for name in names if name not in existing]:
            raise TaskDefinitionError(f"{what} names {missing}, which the source does not have. Its columns are {existing}.")
    if not existing:
        raise SourceError("the source's rows have no columns.")
    schema = pa.schema([])
    for piece in pieces:
        for column in piece.contents.schema:
            if columns is None or column.name in columns:
                schema = _unified(schema, pa.field(column.name, types.get(column.name, column.type)), piece.name)
    schema = pa.schema([schema.field(name) for name in columns or schema.names])
    for piece in pieces:
        _try_casts(piece, schema)
    return Source(pieces, schema)


def _unified(schema: pa.Schema, column: pa.Field, name: str) -> pa.Schema:
    try:
        return pa.unify_schemas([schema, pa.schema([column])], promote_options="permissive")
    except pa.ArrowException as error:
        raise SourceError(
            f"column {column.name!r} is {column.type} in {name}, and {schema.field(column.name).type} in files before. Declare "
            f"its type (schema={{{column.name!r}: 'string'}}), or leave it out with columns=[…]."
        ) from error


def _try_casts(piece: _Piece, schema: pa.Schema) -> None:
    """Read the columns whose type has to change: a value that does not fit must show before half of the rows are paid for."""
    own = piece.contents.schema
    changing = [
        column for column in schema if column.name in own.names and own.field(column.name).type not in {pa.null(), column.type}
    ]
    if changing:
        for _ in piece.batches(pa.schema(changing)):
            pass


def _conformed(batch: pa.RecordBatch, schema: pa.Schema, name: str) -> pa.RecordBatch:
    arrays = []
    for column in schema:
        index = batch.schema.get_field_index(column.name)
        if index < 0 or pa.types.is_null(batch.schema.field(index).type):
            arrays.append(pa.nulls(batch.num_rows, column.type))
            continue
        try:
            arrays.append(cast_to(batch.column(index), column.type))
        except pa.ArrowException as error:
            own = batch.schema.field(index).type
            raise SourceError(
                f"{name}: column {column.name!r} is {own} and cannot be read as {column.type}: {error}."
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _type(column: str, alias: str) -> pa.DataType:
    try:
        return pa.type_for_alias(alias)
    except (ValueError, TypeError) as error:
        raise TaskDefinitionError(
            f"schema: {alias!r} of column {column!r} is no Arrow type. Common ones are string, int64, double, bool, date32, "
            "timestamp[us]."
        ) from error


def _described(source: Any) -> str:
    text = source if isinstance(source, str) else repr(source)
    return text if len(text) <= 200 else f"{text[:200]}…"


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except DistilError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{name} cannot be read: {error}. What was answered is kept, and the next try goes on.") from error
