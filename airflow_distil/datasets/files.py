"""Which files a source means: a file, a folder, a pattern, a published dataset, a summary, or a list of them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import pyarrow as pa

from airflow_distil.datasets.manifest import CLAIMS, FORMAT, MANIFESTS, manifest_name, numbers, read_manifest
from airflow_distil.datasets.stores import Entry, RangeFile, Store, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DistilError, NotPublished, SourceError, TaskDefinitionError

log = logging.getLogger(__name__)

__all__ = ["File", "Stores", "check_members", "described", "find_files", "find_parts", "readable", "sorted_out"]

Stores: TypeAlias = Callable[[URI], Store]
"""Opens the store rooted at a URI; the caller knows the credentials."""

# Lists of lists of datasets. Each list names its members by their hash, so none can hold itself, but a chain can be long, and
# a list of a thousand lists of a thousand lists is a few kilobytes that never end.
DEPTH = 4
MOST_LOOKS = 100_000

# Part files of one attempt. Several attempts of one destination hold the same rows again.
ATTEMPT = re.compile(r"(?P<destination>.*?)(?:^|/)data/(?P<attempt>\d{6}-[0-9a-f]{8,})/part-\d+\.parquet")


@dataclass(frozen=True)
class File:
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
        """Where it is."""
        return self.root / self.entry.name

    def open(self) -> BinaryIO:
        """Return its content, in the version that was listed."""
        return cast("BinaryIO", RangeFile(self.store, self.entry))


def find_parts(source: Any, *, stores: Stores = open_store) -> list[tuple[Store, list[str]]]:
    """Return the files behind a URI, summary or list of them as (store, names), in order; nothing is opened.

    :raises SourceError: if there are none, or `source` is made of rows.
    :raises NotPublished: if a dataset of ours has no edition yet.
    """
    kind, items = sorted_out(source)
    if kind == "row":
        raise SourceError("rows are no dataset yet: publish them first.")
    files = find_files(items, stores)
    return [(group[0].store, [file.entry.name for file in group]) for _, group in _by_store(files)]


def _by_store(files: Iterable[File]) -> Iterator[tuple[int, list[File]]]:
    for key, group in groupby(files, key=lambda file: id(file.store)):
        yield key, list(group)


Kind: TypeAlias = Literal["uri", "row", "summary"]
PLURALS = {"uri": "URIs", "row": "rows", "summary": "summaries"}


def sorted_out(source: Any) -> tuple[Kind, list[Any]]:
    """Return what the source is made of."""
    if isinstance(source, Mapping) and _kind(source) == "row":
        names = ", ".join(map(repr, source))
        raise TaskDefinitionError(f"source is a dict that is no summary of a dataset: it has {names}. One row is [row].")
    items = list(_flattened(source))
    kinds = {_kind(item) for item in items}
    if len(kinds) > 1:
        mixed = " and ".join(sorted(PLURALS[kind] for kind in kinds))
        raise TaskDefinitionError(f"source mixes {mixed}; a list is of one kind.")
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


def find_files(items: list[Any], stores: Stores) -> list[File]:
    """Return the files behind URIs or summaries, in order.

    :raises SourceError: if there are none, or they hold the same rows twice.
    :raises NotPublished: if a dataset of ours has no edition yet.
    """
    opened: dict[URI, Store] = {}
    looks = iter(range(MOST_LOOKS))

    def store_at(uri: URI) -> Store:
        if next(looks, None) is None:
            raise SourceError(f"the source leads to over {MOST_LOOKS} folders and datasets. Name fewer.")
        if uri not in opened:
            opened[uri] = stores(uri)
        return opened[uri]

    files: list[File] = []
    # All are read before one is opened: what is wrong with the last one must not wait for the first one's store.
    places = [item if isinstance(item, Mapping | URI) else URI.parse(os.fspath(item)) for item in items]
    for place in places:
        if isinstance(place, Mapping):
            files += _of_summary(place, store_at)
        else:
            with readable(str(place)):
                files += _matching(place, store_at) if re.search(r"[*?]", place.key) else _at(place, store_at)
    _refuse_several_attempts(files)
    return files


def _matching(uri: URI, stores: Stores) -> list[File]:
    segments = uri.key.split("/")
    fixed = next(index for index, segment in enumerate(segments) if re.search(r"[*?]", segment))
    root = replace(uri, key="/".join(segments[:fixed]))
    pattern = "/".join(segments[fixed:])
    listing = re.split(r"[*?]", pattern)[0]
    regex = re.compile(_regex(segments[fixed:]))
    store = stores(root)
    files, folders = [], set()
    for entry in store.list(listing):
        if not _visible(entry.name):
            continue
        if regex.fullmatch(entry.name):
            files.append(File(store, root, entry, listing))
        else:
            folder = entry.name.rpartition("/")[0]
            while folder and not regex.fullmatch(folder):
                folder = folder.rpartition("/")[0]
            folders.add(folder)
    folders.discard("")
    also = f" It matches the folder {root / min(folders)}: name that, or {uri}/**." if folders else ""
    if not files:
        raise SourceError(
            f"no files match {uri}. Nothing was asked. A pattern names files, such as folder/*.parquet, not folders.{also}"
        )
    if folders:
        log.warning("%s names files; those in folders that it matches too are not read: %s", uri, ", ".join(sorted(folders)))
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


def _at(uri: URI, stores: Stores) -> list[File]:
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
            return [File(parent, uri.parent, first, uri.name)]
    files = _in_folder(uri, stores)
    if not files:
        if denied:
            raise denied
        raise SourceError(f"there is no file {uri}, and no files in a folder of that name. Nothing was asked. Check the path.")
    return files


def _in_folder(uri: URI, stores: Stores) -> list[File]:
    store = stores(uri)
    editions = numbers((entry.name for entry in store.list(MANIFESTS)), MANIFESTS)
    if editions:
        return _of_manifest(uri, editions[-1], None, stores)
    if next(iter(store.list(CLAIMS)), None):
        raise NotPublished(
            f"{uri} has no published edition: the task that writes it has not finished. Its parts are not read, as they "
            "may be half of the data. Wait for that task, or clear it."
        )
    entries = list(store.list())
    datasets = list(dict.fromkeys(entry.name.partition("/_distil/")[0] for entry in entries if "/_distil/" in entry.name))
    inside = tuple(f"{name}/" for name in datasets)
    files = [
        File(store, uri, entry, "")
        for entry in entries
        if _visible(entry.name) and not (inside and entry.name.startswith(inside))
    ]
    if datasets and files:
        raise SourceError(
            f"{uri} holds published datasets ({datasets[0]}/) and other files ({files[0].entry.name}). Name those meant."
        )
    # The instances of a mapped task write side by side: their editions, in order, are the dataset.
    return [file for name in datasets for file in _in_folder(uri / name, stores)] or files


def check_members(root: URI, members: Iterable[Mapping[str, Any]]) -> None:
    """Refuse members of a list-dataset that would be read with another connection than the dataset itself.

    Who writes a manifest names its members; which of the reader's connections are used is not theirs to say.

    :raises SourceError: if there is one.
    """
    for member in members:
        conn_id = URI.parse(str(member.get("uri"))).conn_id
        if conn_id not in {None, root.conn_id}:
            raise SourceError(
                f"{root} lists a dataset of connection {conn_id!r}. A list is read with the connection that it is opened with, "
                "or with none. Pass the list of summaries itself, or publish the rows."
            )


def _of_summary(summary: Mapping[str, Any], stores: Stores, depth: int = 0) -> list[File]:
    try:
        root, manifest, sha256 = URI.parse(summary["uri"]), URI.parse(summary["manifest"]), str(summary["sha256"])
    except (KeyError, AttributeError) as error:
        raise TaskDefinitionError(f"the summary is not complete ({error}): it has {', '.join(map(str, summary))}.") from error
    # A summary is an XCom, which users can edit; it may only lead to a manifest in its own dataset.
    editions = numbers([MANIFESTS + manifest.name], MANIFESTS)
    if manifest.parent != root.join(MANIFESTS) or not editions:
        raise TaskDefinitionError(f"the summary of {root} names a manifest elsewhere: {manifest}.")
    with readable(str(manifest)):
        return _of_manifest(root, editions[0], sha256, stores, depth)


def _of_manifest(root: URI, edition: int, sha256: str | None, stores: Stores, depth: int = 0) -> list[File]:
    store, name = stores(root), manifest_name(edition)
    try:
        manifest = read_manifest(store, edition)
    except ValueError as error:
        raise SourceError(str(error)) from error
    actual = manifest.sha256
    if sha256 not in {None, actual}:
        raise SourceError(f"{root / name} is not the manifest that the summary was made from (sha256 {actual}, not {sha256}).")
    if depth > DEPTH:
        raise SourceError(f"{root} is a list of lists of datasets, over {DEPTH} deep. Publish its rows instead.")
    check_members(root, manifest.members)
    folders = dict.fromkeys(f"{part.path.rpartition('/')[0]}/".lstrip("/") for part in manifest.parts)
    entries = {entry.name: entry for folder in folders for entry in store.list(folder)}
    files = [file for member in manifest.members for file in _of_summary(member, stores, depth + 1)]
    for part in manifest.parts:
        entry = entries.get(part.path)
        if entry is None and edition < (latest := numbers((each.name for each in store.list(MANIFESTS)), MANIFESTS)[-1]):
            raise NotPublished(
                f"edition {edition} of {root} has no data any more: {latest} is the latest, and upkeep removes that of older "
                f"ones where keep_editions says so. Read {root} itself, or clear the task that passes this edition on."
            )
        if entry is None or entry.size != part.bytes:
            what = "is missing" if entry is None else f"has {entry.size} bytes instead of {part.bytes}"
            raise SourceError(f"{root / part.path} {what}; {root / name} names it. Clear the task that wrote it.")
        files.append(File(store, root, entry, f"{part.path.rpartition('/')[0]}/".lstrip("/"), part.rows, actual))
    return files


def _refuse_several_attempts(files: Iterable[File]) -> None:
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


def described(source: Any) -> str:
    """Return a source as an error message shows it."""
    text = source if isinstance(source, str) else repr(source)
    return text if len(text) <= 200 else f"{text[:200]}…"


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Say which file it was that could not be read."""
    try:
        yield
    except DistilError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{name} cannot be read: {str(error).rstrip('.')}. What was answered is kept.") from error
