"""What no attempt and no reader needs any more at a destination, and its removal.

Claims and manifests are never removed. They are small, and they are all that `Commit` decides by: an attempt that lists them
and then reads them, or that wakes after a week and puts a manifest which is there already, finds what it would have found.
What goes is data that nothing names, and log segments that a compaction repeats. Both are told from what is still needed
without a clock; the grace period is a second belt, for readers and for people who want to look.

Data of an attempt is an orphan if no manifest names it *and none can come to*. To publish, an attempt puts the manifest of its
claim's edition. If that is there already, made by others, it may claim the very next number and publish its parts as the next
edition, and only then: once a newer attempt holds that number, it is superseded. So an attempt is followed along the claims
that could be its own to the last one. Its data is an orphan if that is not the highest claim and its edition is published.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from airflow_distil.datasets.log import Fact, Scratch
from airflow_distil.datasets.manifest import (
    CLAIMS,
    LOG,
    MANIFESTS,
    Claim,
    Manifest,
    manifest_name,
    numbers,
    read_claim,
    read_manifest,
)
from airflow_distil.datasets.stores import Entry, FileStore, Store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine.facts import is_compaction, read_segment
from airflow_distil.engine.workspace import FACTS, dead_folders, remove
from airflow_distil.exceptions import DestinationError, TaskDefinitionError

__all__ = ["GRACE", "Finding", "Report", "Upkeep", "find_destinations"]

# Longer than any attempt is paused, any reader reads, and anybody takes to miss what is about to go.
GRACE = dt.timedelta(days=7)

# What attempts write, and nothing that somebody else may have put beside it.
_PART = re.compile(r"(?P<folder>data/[0-9]{6,9}-[0-9a-f]{16})/part-[0-9]{5,}\.parquet")
_SEGMENT = re.compile(r"(?P<folder>_distil/log/[0-9]{6,9}-[0-9a-f]{16})/[A-Za-z0-9-]+\.arrow")


@dataclass(slots=True)
class Finding:
    """Objects of one attempt that nobody needs.

    :param folder: where they are; of a segment that is kept, its name.
    :param why: why they can go, or why they cannot yet.
    """

    folder: str
    why: str
    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count an object."""
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class Report:
    """What was removed at one destination, or with `dry_run` would be, and what else nobody needs but was kept.

    :param destination: its URI.
    """

    destination: str
    dry_run: bool
    removed: list[Finding] = field(default_factory=list)
    kept: list[Finding] = field(default_factory=list)

    @property
    def objects(self) -> int:
        """How many objects and files went."""
        return sum(finding.objects for finding in self.removed)

    @property
    def bytes(self) -> int:
        """How large they were."""
        return sum(finding.bytes for finding in self.removed)

    def line(self) -> str:
        """Return it in one line."""
        did = "would remove" if self.dry_run else "removed"
        kept = sum(finding.objects for finding in self.kept)
        later = f", kept {kept} for now" if kept else ""
        return f"{self.destination}: {did} {self.objects} ({self.bytes / 1e6:,.1f} MB){later}"


def find_destinations(store: Store) -> Iterator[str]:
    """Yield where datasets are written in or below a folder: names relative to it, the empty string for itself."""
    known = None
    for entry in store.list():
        folder, found, name = f"/{entry.name}".rpartition(f"/{CLAIMS}")
        if found and folder != known and numbers([name], ""):
            known = folder
            yield folder[1:]


class Upkeep:
    """Upkeep of one destination.

    :param store: the destination. No more than its four verbs is used, but for half-written files of `FileStore`.
    :param grace: what is younger stays.
    :param keep_editions: how many of the latest editions keep their data; None for all. Of the others the manifest stays.
    :param scratch: folder on this host where attempts work; None to leave it alone.
    """

    def __init__(
        self,
        store: Store,
        *,
        grace: dt.timedelta = GRACE,
        keep_editions: int | None = None,
        scratch: Path | None = None,
        now: dt.datetime | None = None,
    ) -> None:
        if keep_editions is not None and keep_editions < 1:
            raise TaskDefinitionError(
                f"keep_editions is {keep_editions}; at least the latest edition is kept: 1 or more, or None."
            )
        self.store = store
        self.keep_editions = keep_editions
        self.scratch = scratch
        self._before = (now or dt.datetime.now(dt.UTC)) - grace
        self._editions: dict[int, dt.datetime] = {}  # when each was published
        self._manifests: dict[int, Manifest] = {}
        self._claims: dict[int, Claim] = {}
        self._highest = 0

    def members(self) -> set[str]:
        """Return the manifests of other destinations whose rows the editions that stay here are made of, as URIs.

        :raises DestinationError: if a document cannot be read.
        """
        self._look()
        outdated = self._outdated()
        staying = [edition for edition in self._editions if edition not in outdated]
        try:
            return {_plain(str(member["manifest"])) for edition in staying for member in self._manifests[edition].members}
        except (KeyError, TaskDefinitionError) as error:
            raise DestinationError(f"{self.store} is a list of datasets, and names one that is none: {error}.") from error

    def clean(self, *, listed: Collection[str] = (), dry_run: bool = False) -> Report:
        """Remove what nobody needs, and tell.

        :param listed: manifests that datasets elsewhere list as their members; these editions stay.
        :param dry_run: tell only.
        :raises DestinationError: if a document cannot be read; nothing was removed.
        :raises OSError: if the store fails. What was removed until then was not needed; the next time goes on.
        """
        report = Report(str(self.store), dry_run)
        self._look()
        if not self._claims:
            return report
        self._highest = max(self._claims)
        self._clean_data(report, listed)
        self._clean_log(report)
        self._clean_host(report)
        return report

    def _look(self) -> None:
        # Manifests first and claims later, so that each claim that a manifest names is among them.
        self._editions = _numbered(self.store.list(MANIFESTS), MANIFESTS)
        try:
            self._manifests = {edition: read_manifest(self.store, edition) for edition in self._editions}
            claimed = _numbered(self.store.list(CLAIMS), CLAIMS)
            self._claims = {number: read_claim(self.store, number) for number in claimed}
        except ValueError as error:
            # It may name anything.
            raise DestinationError(f"{error} Nothing was removed.") from error

    def _outdated(self) -> set[int]:
        """Return the editions that need not be kept, and have not needed to for as long as the grace period."""
        if self.keep_editions is None:
            return set()
        # Each was pushed out by the one that came so many later.
        pushed = {edition: self._editions.get(edition + self.keep_editions) for edition in self._editions}
        return {edition for edition, since in pushed.items() if since is not None and since < self._before}

    def _last(self, number: int) -> int:
        """Return the last claim that the attempt which put this one can hold by now; see `Commit.publish`."""
        while (after := self._claims.get(number + 1)) and _may_be_the_same(self._claims[number], after):
            number += 1
        return number

    # Data.

    def _clean_data(self, report: Report, listed: Collection[str]) -> None:
        folders: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.store.list("data/"):
            if found := _PART.fullmatch(entry.name):
                folders[found["folder"]].append(entry)
        published = {
            part.path.rpartition("/")[0]: edition
            for edition, manifest in sorted(self._manifests.items())
            for part in manifest.parts
        }
        going: list[list[Entry]] = []
        for folder, entries in folders.items():
            if folder in published:
                if self.keep_editions is None or published[folder] > max(self._editions) - self.keep_editions:
                    continue
                goes, why = self._verdict_of_edition(published[folder], listed)
            else:
                goes, why = self._verdict_of_attempt(folder, entries)
            finding = Finding(folder, why)
            for entry in entries:
                finding.add(entry.size)
            (report.removed if goes else report.kept).append(finding)
            if goes:
                going.append(entries)
        for entries in going:
            self._delete(entries, report)

    def _verdict_of_edition(self, edition: int, listed: Collection[str]) -> tuple[bool, str]:
        what = f"edition {edition} of {max(self._editions)}"
        if f"{_plain(str(self.store))}/{manifest_name(edition)}" in listed:
            return False, f"{what}, which another dataset lists"
        if self._manifests[edition].claim == self._highest:
            return False, f"{what}, of the newest attempt"
        if edition not in self._outdated():
            return False, f"{what}, in its grace period"
        return True, what

    def _verdict_of_attempt(self, folder: str, entries: list[Entry]) -> tuple[bool, str]:
        number = int(folder[len("data/") :].partition("-")[0])
        claim = self._claims.get(number)
        if claim is None or f"data/{claim.folder}" != folder:
            return False, "no claim of this destination is of this folder"
        last = self._claims[self._last(number)]
        if last.number == self._highest:
            return False, "the newest attempt may publish it yet"
        decided = self._manifests.get(last.edition)
        if decided is None:
            return False, f"edition {last.edition} is not published yet, and an attempt that sleeps could publish this as such"
        if decided.fencing == "none":
            return False, "this store keeps no two attempts apart, so the manifest could be replaced"
        if any(entry.modified >= self._before for entry in entries):
            return False, "in its grace period"
        return True, f"edition {last.edition} was published by another attempt"

    # The log.

    def _clean_log(self, report: Report) -> None:
        compactions, segments = self._old_log()
        gone: dict[str, Finding] = {}
        kept: dict[str, tuple[Entry, str]] = {}
        for compaction in compactions:
            # As attempts read it: what they would leave out holds no answers.
            facts, covers = read_segment(self.store, compaction) or ([], [])
            held = set(facts)
            for segment in filter(None, map(segments.get, covers)):
                name, folder = segment.name, segment.name.rpartition("/")[0]
                why = self._why_keep(name, held)
                if why:
                    kept[name] = segment, why
                    continue
                kept.pop(name, None)
                del segments[name]
                gone.setdefault(folder, Finding(folder, "repeated by a compaction")).add(segment.size)
                self._delete([segment], report)
        report.removed += gone.values()
        for name, (segment, why) in kept.items():
            report.kept.append(Finding(name, why, 1, segment.size))

    def _old_log(self) -> tuple[list[str], dict[str, Entry]]:
        """Return the names of compactions, and by name the other segments: those out of their grace period."""
        newest = {self._claims[number].folder for number in self._claims if self._last(number) == self._highest}
        compactions: list[str] = []
        segments: dict[str, Entry] = {}
        for entry in self.store.list(LOG):
            if (found := _SEGMENT.fullmatch(entry.name)) and entry.modified < self._before:
                if is_compaction(entry.name):
                    compactions.append(entry.name)
                elif found["folder"].removeprefix(LOG) not in newest:
                    segments[entry.name] = entry
        return compactions, segments

    def _why_keep(self, name: str, held: set[Fact]) -> str:
        """Compare a segment, fact by fact, with the compaction that says that it covers it."""
        segment = read_segment(self.store, name)
        if segment is None:
            return "removed by another upkeep meanwhile"
        facts, _ = segment
        if not facts:
            return "damaged, or of another version"
        return "" if held.issuperset(facts) else "its compaction does not hold all of its answers"

    # This host.

    def _clean_host(self, report: Report) -> None:
        if isinstance(self.store, FileStore):
            objects, size = self.store.sweep(self._before, dry_run=report.dry_run)
            if objects:
                report.removed.append(
                    Finding(report.destination, "half-written files of processes that were killed", objects, size)
                )
        if self.scratch is None:
            return
        for folder in dead_folders(self.scratch, str(self.store)):
            with suppress(FileNotFoundError):  # an attempt has taken it over, and removed it
                self._clean_scratch(folder, report)

    def _clean_scratch(self, folder: Path, report: Report) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        status = [path.stat() for path in (folder, *files)]
        finding = Finding(str(folder), "scratch of a dead attempt", len(files), sum(each.st_size for each in status[1:]))
        if max(each.st_mtime for each in status) >= self._before.timestamp():
            finding.why += ", in its grace period"
        elif only := self._only_here(folder):
            finding.why += f", with answers that are nowhere else ({only}); the next attempt on this host uploads them"
        else:
            report.removed.append(finding)
            if not report.dry_run:
                remove(folder)
            return
        report.kept.append(finding)

    def _only_here(self, folder: Path) -> int:
        """Return how many answers in a scratch folder are not in the log."""
        if not (folder / FACTS).exists():
            return 0
        scratch = Scratch(folder / FACTS)
        missing = {fact for _, fact in scratch.read()}
        scratch.close()
        if missing:
            for entry in self.store.list(LOG):
                facts, _ = read_segment(self.store, entry.name) or ([], [])
                missing.difference_update(facts)
        return len(missing)

    def _delete(self, entries: Iterable[Entry], report: Report) -> None:
        if report.dry_run:
            return
        # The second look: the highest claim never falls, unless somebody deletes the destination and others begin anew there.
        highest = max(_numbered(self.store.list(CLAIMS), CLAIMS), default=0)
        if highest < self._highest:
            raise DestinationError(f"{self.store} was deleted while it was being cleaned. Nothing more was removed.")
        for entry in entries:
            self.store.delete(entry.name)


def _numbered(entries: Iterable[Entry], prefix: str) -> dict[int, dt.datetime]:
    found = ((numbers([entry.name], prefix), entry.modified) for entry in entries)
    return {number: modified for those, modified in found for number in those}


def _plain(uri: str) -> str:
    """Return a URI in the one form that it has without its connection."""
    return str(replace(URI.parse(uri), conn_id=None))


def _may_be_the_same(claim: Claim, after: Claim) -> bool:
    """Tell whether the attempt that put a claim can have put the next one, to publish its parts as a later edition."""
    return after.edition > claim.edition and all(
        getattr(claim, name) == getattr(after, name)
        for name in ("identity", "ask", "round", "fingerprint", "try_number", "host")
    )
