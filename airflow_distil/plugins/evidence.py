"""Which dataset a task instance may show: XComs can be edited by users, so they only point at what is then looked up.

A summary is believed if the manifest that it names lies under `[distil] ui_roots`, has the summary's checksum, and was
published for this DAG and task. No path ever comes from an address.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from airflow_distil.datasets.files import find_parts
from airflow_distil.datasets.manifest import FORMAT, MANIFESTS, Manifest, numbers, read_manifest
from airflow_distil.datasets.stores import Store
from airflow_distil.datasets.table import Table
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DistilError, NotPublished, SourceError, one_line
from airflow_distil.hooks.storage import store_for, ui_roots

__all__ = ["Dataset", "Place", "Problem", "believe", "readable", "within_roots"]

log = logging.getLogger(__name__)

# A connection that was changed, or a bucket that was emptied, is noticed after that many seconds.
FRESH = 300


class Place(NamedTuple):
    """A task instance, as an address names it. `map_index` is -1 if it is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @property
    def owner(self) -> tuple[str, str]:
        """Whom its datasets belong to."""
        return self.dag_id, self.task_id


class Problem(Exception):
    """Why there is nothing to show: what happened, and what to do. Never has any content of what was read.

    :param kind: one word, for the page and for tests.
    """

    def __init__(self, kind: str, title: str, advice: str) -> None:
        super().__init__(title)
        self.kind = kind
        self.title = title
        self.advice = advice

    @property
    def told(self) -> dict[str, str]:
        """As JSON."""
        return {"kind": self.kind, "title": self.title, "advice": self.advice}


# Not exceptions themselves: one object that is raised again and again keeps the traces of all its users.
NOTHING = (
    "nothing",
    "This task instance has returned no dataset.",
    "It has not succeeded yet, or it is no task of airflow-distil.",
)
OUTSIDE = (
    "outside",
    "The dataset lies outside the folders that the UI may read.",
    "Add its folder, with its connection if it has one, to [distil] ui_roots on the API server.",
)
NO_ROOTS = (
    "no_roots",
    "The UI may read no folder.",
    "Set [distil] ui_roots, or dataset_root, on the API server (AIRFLOW__DISTIL__UI_ROOTS).",
)
FOREIGN = (
    "foreign",
    "The summary of this task instance leads to a dataset that it did not publish.",
    "The XCom may have been edited. Clear the task instance: it returns what is published, without asking anew.",
)
GONE = (
    "gone",
    "The dataset is not there any more.",
    "It was deleted or has expired. Clear the task instance to make it again; what its log still has is not paid twice.",
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A published edition that is believed."""

    uri: URI
    manifest: Manifest

    @cached_property
    def table(self) -> Table:
        """Its rows."""
        try:
            parts = find_parts([self.manifest.summary(str(self.uri))], stores=within_roots)
        except (SourceError, NotPublished):  # parts are missing, or not those that were published
            raise Problem(*GONE) from None
        return Table(parts)

    @cached_property
    def outputs(self) -> list[str]:
        """The task's own columns: not the source's, not ours."""
        described = self.manifest.task.get("outputs")
        names = [str(name) for name in described] if isinstance(described, list) else list(self.manifest.columns)
        return [name for name in names if name in self.manifest.columns and not name.startswith("distil_")]


def believe(summary: Any, place: Place) -> Dataset:
    """Return the dataset that a task instance's summary leads to.

    :raises Problem: if there is none, or it is not believed, or cannot be read.
    """
    if not (isinstance(summary, Mapping) and summary.get("format") == FORMAT):
        raise Problem(*NOTHING)
    with readable(place):
        try:
            root, manifest = URI.parse(str(summary.get("uri"))), URI.parse(str(summary.get("manifest")))
        except DistilError:
            raise Problem(*FOREIGN) from None
        editions = numbers([MANIFESTS + manifest.name], MANIFESTS)
        if manifest.parent != root.join(MANIFESTS) or not editions:
            raise Problem(*FOREIGN)
        within_roots(root)
        dataset = _opened(root, editions[0], int(time.monotonic() // FRESH))
    if dataset.manifest.sha256 != summary.get("sha256") or dataset.manifest.identity.owner != place.owner:
        raise Problem(*FOREIGN)
    return dataset


def within_roots(uri: URI) -> Store:
    """Open the store of a URI.

    :raises Problem: if it is not under one of `[distil] ui_roots`, or names another connection than that root.
    """
    roots = [URI.parse(root) for root in ui_roots()]
    if not roots:
        raise Problem(*NO_ROOTS)
    if not any(_is_under(uri, root) for root in roots):
        raise Problem(*OUTSIDE)
    return store_for(uri)


@contextmanager
def readable(place: Place) -> Iterator[None]:
    """Turn whatever goes wrong with a store, a connection or a file into a problem that quotes nothing of it."""
    try:
        yield
    except Problem:
        raise
    except FileNotFoundError:
        raise Problem(*GONE) from None
    except Exception as error:  # noqa: BLE001 - whatever a store, an SDK or a forged file raises
        name = type(error).__name__
        log.warning("The dataset of %s cannot be read: %s: %s", place, name, one_line(str(error)))
        raise Problem(
            "unreadable",
            f"The API server cannot read the dataset ({name}).",
            "Its log says why. It needs the same access to the store as the workers: the connection, the environment's "
            "credentials, or the shared disk.",
        ) from None


@lru_cache(maxsize=16)
def _opened(root: URI, edition: int, window: int) -> Dataset:
    del window  # a new one opens anew
    return Dataset(root, read_manifest(within_roots(root), edition))


def _is_under(uri: URI, root: URI) -> bool:
    if (uri.scheme, uri.conn_id, uri.bucket) != (root.scheme, root.conn_id, root.bucket):
        return False
    if uri.scheme == "file":
        # A link in the folder must not lead out of it.
        return Path(f"/{uri.key}").resolve().is_relative_to(Path(f"/{root.key}").resolve())
    return not root.key or uri.key == root.key or uri.key.startswith(f"{root.key}/")
