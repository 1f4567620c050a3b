"""All facts that an attempt may use: those in the log when it began, and its own.

They lie in two local files: a copy of what the log held, and this attempt's scratch file, which is write-ahead log and upload
source in one. Where the fact of a key stands is told by two more. The *openings* have the first requests of one work by row and
sample, and are read in the order of the rows: mostly a row asks again what it asked last time. An index has all others by their
keys; the openings are entered into it only when a row first asks for what is not at its own place.
"""

from __future__ import annotations

import logging
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import Any

import msgspec

from airflow_distil.conversation import digest
from airflow_distil.datasets.diskarray import DiskArray
from airflow_distil.datasets.diskmap import DiskMap
from airflow_distil.datasets.log import BATCH_FACTS, MOST_BYTES, Fact, Kind, Scratch, Segment, decode_segment, encode_segment
from airflow_distil.datasets.manifest import LOG, Claim
from airflow_distil.datasets.memory import give_back
from airflow_distil.datasets.stores import Entry, Store, create
from airflow_distil.engine.dialogue import Turn, check_body, read_body
from airflow_distil.engine.workspace import FACTS, Workspace
from airflow_distil.exceptions import one_line

__all__ = ["Facts", "is_compaction", "read_segment"]

log = logging.getLogger(__name__)

# A segment of this size is worth an upload before its time, and small enough to be built in memory.
SEGMENT_BYTES = 4 * 1024 * 1024
# Beyond this many small segments, opening them one by one is what a resume spends its time on. What is not small would only be
# written once more, into nearly as many.
MANY_SEGMENTS = 200
SMALL_BYTES = SEGMENT_BYTES // 4
# Reading the log is waiting for the store. Small segments are read many at a time, of large ones as many as have so many bytes.
READERS = 8
READ_BYTES = 16 * 1024 * 1024

# The beginning of its key, by which it is recognised without a look at it, and its place.
_NAME = 8
_OPENING = struct.Struct(f"<{_NAME}sQ")
# Where the best fact of a key stands and its claim, and the same among the facts of this ask.
_SLOT = struct.Struct("<QIQI")
_NOWHERE = (0, 0, 0, 0)
# Places are offsets plus one, so that zero means nowhere; this bit tells the scratch file from the copy of the log.
_OWN_FILE = 1 << 63


class Facts:
    """The facts of one attempt at a destination.

    :param store: the destination.
    :param claim: this attempt's claim.
    :param workspace: its local folder.
    :param rows: of the source, or candidates.
    :param samples: of each row.
    :param count: told of each fact that earlier attempts wrote down, and of its body; of copies too.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        workspace: Workspace,
        *,
        rows: int = 0,
        samples: int = 1,
        count: Callable[[Fact, dict[str, Any]], object] = lambda _fact, _body: None,
    ) -> None:
        self._store = store
        self._count = count
        self._claim = claim
        self._workspace = workspace
        self._nonce = bytes.fromhex(claim.nonce)
        self._ask = bytes.fromhex(claim.ask)
        self._work = digest(claim.fingerprint.encode(), str(claim.round).encode())
        self._scratch = Scratch(workspace.path / FACTS)
        self._copied = Scratch(workspace.path / "log")
        self._index = DiskMap(workspace.path / "index", _SLOT.size, expected=rows * samples)
        self._openings = DiskArray(workspace.path / "openings", _OPENING)
        self._opened = b""  # the work that they are of
        self._indexed = True
        self._picked_up = 0
        self._rows = rows
        self._samples = samples
        self._uploaded = 0
        self._segment = 0
        self._number = 0

    def load(self) -> int:
        """Read the log as it is now, and what killed attempts left on this host. Return how many facts there were."""
        entries = list(self._store.list(LOG))
        compacted = [entry for entry in entries if is_compaction(entry.name)]
        covered: set[str] = set()
        uploaded: dict[bytes, int] = defaultdict(int)
        count = self._take_compacted(compacted, covered, uploaded)
        loose = [entry for entry in entries if entry.name not in covered and entry not in compacted]
        gone: set[str] = set()
        small: list[str] = []
        for name, data in self._read_all(loose):
            if data is None:
                gone.add(name)
                continue
            before = self._copied.size
            count += self._take(name, data, uploaded)[0]
            # Both: of what others wrote much may be left out, and it is read whole when it is compacted.
            if self._copied.size - before < SMALL_BYTES and len(data) < SMALL_BYTES:
                small.append(name)
        if gone:
            # Upkeep has removed them since, as a compaction that we did not know of repeats them.
            newer = [entry for entry in self._store.list(LOG) if is_compaction(entry.name) and entry not in compacted]
            count += self._take_compacted(newer, covered, uploaded)
            if lost := gone - covered:
                raise FileNotFoundError(f"{self._store}/{min(lost)} was deleted while the log was read")
        if len(small) > MANY_SEGMENTS:
            self._compact(small)
        return count + self._pick_up(uploaded)

    def find(self, key: bytes, ordinal: int, sample: int, *, own: bool) -> Fact | None:
        """Return the fact of a key: the one with the highest claim, or with `own` the one of this ask.

        Within one work a key has one row and sample. Where a forged log, or a task whose prompts wander, has it at two, either.

        :param ordinal: the row that asks; if the openings have the fact for it, that is found at once.
        """
        best = None
        if place := self._opened_at(key, ordinal, sample):
            opening = self._at(place)
            if opening.key == key and (opening.ask == self._ask or not own):
                best = opening
        if best is None and not self._indexed:
            self._index_all()
        if (slot := self._index.get(key)) is not None:
            place, claim, mine, mine_claim = _SLOT.unpack(slot)
            if own:
                place, claim = mine, mine_claim
            if place and (best is None or claim >= best.claim):
                best = self._at(place)
        return best

    def opens(self, key: bytes, ordinal: int, sample: int) -> bool:
        """Tell, by the beginning of its key, if the openings have this as the first request of this row and sample."""
        return self._opened_at(key, ordinal, sample) > 0

    def first(self, ordinal: int, sample: int) -> Fact | None:
        """Return the first request of this row and sample that the same work logged, whatever it asked."""
        place = self._opening(ordinal, sample)[1] if self._opened == self._work else 0
        return self._at(place) if place else None

    def fact(self, turn: Turn, *, ordinal: int, sample: int, kind: Kind, body: Mapping[str, Any]) -> Fact:
        """Make a fact of this attempt out of what became of a turn."""
        self._number += 1
        return Fact(
            key=turn.key,
            nonce=self._nonce,
            number=self._number,
            claim=self._claim.number,
            ask=self._ask,
            work=self._work,
            ordinal=ordinal,
            sample=sample,
            step=turn.step,
            kind=kind,
            body=msgspec.json.encode(body),
        )

    def add(self, facts: list[Fact]) -> None:
        """Write facts down, before anything else is done with them.

        :raises OSError: if the disk is full.
        """
        self._scratch.append(facts)

    @property
    def pending(self) -> int:
        """Bytes that are not uploaded yet."""
        return self._scratch.size - self._uploaded

    def flush(self, least: int = 1) -> None:
        """Upload what is pending, as immutable segments. Safe to call from another thread than the one that adds.

        :param least: bytes; what is less is left pending.
        :raises OSError: if the store fails; nothing is lost, and the next flush takes it along.
        """
        end = self._scratch.size
        while end - self._uploaded >= least:
            segment = _Segment(self._scratch, self._uploaded, end)
            facts = iter(segment)
            if (first := next(facts, None)) is not None:
                # A new name for each try: of an upload that seemed to fail the reply may have been lost, and by the next try
                # there are more facts to put into the segment. Copies count once.
                self._segment += 1
                name = f"{LOG}{self._claim.folder}/{self._segment:06d}.arrow"
                if not create(self._store, name, encode_segment(chain([first], facts))):
                    raise OSError(f"{name} exists already and is not ours")
            self._uploaded = segment.end
            give_back()

    def close(self) -> None:
        """Remove the index and the copy of the log; the scratch file is the workspace's."""
        self._index.close()
        self._openings.close()
        self._copied.remove()
        self._scratch.close()

    def _take_compacted(self, entries: list[Entry], covered: set[str], uploaded: dict[bytes, int]) -> int:
        count = 0
        for name, data in self._read_all(entries):
            if data is not None:
                taken, covers = self._take(name, data, uploaded)
                covered.update(covers)
                count += taken
        return count

    def _read_all(self, entries: list[Entry]) -> Iterator[tuple[str, bytes | None]]:
        with ThreadPoolExecutor(READERS) as readers:
            # In groups, because `map` reads ahead without a bound.
            for group in _groups(entries):
                yield from zip(group, readers.map(partial(_fetch, self._store), group), strict=True)

    def _take(self, name: str, data: bytes, uploaded: dict[bytes, int]) -> tuple[int, list[str]]:
        """Take over the facts of a segment. Return how many there are, and the names of the segments that it repeats."""
        segment = _decoded(f"{self._store}/{name}", data)
        count, covers = 0, segment.covers
        while some := list(islice(segment.facts, BATCH_FACTS)):
            good = []
            for fact in some:
                try:
                    body = check_body(fact)
                except ValueError as error:
                    log.warning("A fact of %s is left out: %s", one_line(f"{self._store}/{name}"), one_line(str(error)))
                    covers = []  # what repeats others must not stand for what it does not have
                    continue
                if fact.kind is not Kind.TRANSIENT:  # no attempt of ours uploads one
                    good.append(fact)
                    self._count(fact, body)
            for fact, offset in zip(good, self._copied.append(good), strict=True):
                self._place(fact, offset + 1)
            # Numbers are uploaded in order, so the highest one tells what of a killed attempt's scratch is missing here.
            for nonce, ours in groupby(good, key=attrgetter("nonce")):
                uploaded[nonce] = max(uploaded[nonce], *(fact.number for fact in ours))
            count += len(good)
        give_back()
        return count, covers

    def _pick_up(self, uploaded: dict[bytes, int]) -> int:
        """Take over what earlier attempts on this host wrote down and did not upload."""
        count = 0
        for folder in self._workspace.earlier():
            if not (folder / FACTS).exists():
                continue
            scratch = Scratch(folder / FACTS)
            fresh = []
            for _, fact in scratch.read():
                if fact.number > uploaded[fact.nonce]:
                    uploaded[fact.nonce] = fact.number
                    fresh.append(fact)
                    self._count(fact, read_body(fact))
            scratch.close()
            # Into our own file: so they are uploaded with what we add.
            offsets = self._scratch.append(fresh)
            self._picked_up = self._scratch.size
            for fact, offset in zip(fresh, offsets, strict=True):
                self._place(fact, (offset + 1) | _OWN_FILE)
            count += len(fresh)
        return count

    def _place(self, fact: Fact, place: int) -> None:
        """Note where a fact stands that was just written there."""
        # What is forged may name any row.
        if fact.step == 0 and fact.ordinal < self._rows and fact.sample < self._samples and not self._is_void(fact):
            self._opened = self._opened or fact.work
            if fact.work == self._work != self._opened:  # drift is seen by these only
                self._index_all()
                self._openings.clear()
                self._opened = fact.work
            number = fact.ordinal * self._samples + fact.sample
            if fact.work == self._opened and not self._openings[number][1]:
                self._openings[number] = fact.key[:_NAME], place
                self._indexed = False
                return
        self._enter(fact, place)

    def _index_all(self) -> None:
        # It takes six seconds a million facts: who watches should see that something goes on.
        log.info("Indexing the answers of the log: a row asks for one that is not at its place")
        for offset, fact in self._copied.read():
            self._enter(fact, offset + 1)
        for offset, fact in self._scratch.read(0, self._picked_up):
            self._enter(fact, (offset + 1) | _OWN_FILE)
        self._indexed = True

    def _enter(self, fact: Fact, place: int) -> None:
        if not self._is_void(fact):
            self._index.update(fact.key, lambda slot: self._better(fact, place, slot))

    def _is_void(self, fact: Fact) -> bool:
        # A refusal holds in its ask; in others the answers before it do.
        return fact.kind is Kind.BAD_ROW and fact.ask != self._ask

    def _opening(self, ordinal: int, sample: int) -> tuple[bytes, int]:
        if not self._opened:  # most runs begin without a log
            return b"", 0
        name, place = self._openings[ordinal * self._samples + sample]
        return name, place

    def _opened_at(self, key: bytes, ordinal: int, sample: int) -> int:
        """Return the place of the opening of this row and sample, if it begins as the key does."""
        name, place = self._opening(ordinal, sample)
        return place if name == key[:_NAME] else 0

    def _at(self, place: int) -> Fact:
        file = self._scratch if place & _OWN_FILE else self._copied
        return file.at((place & ~_OWN_FILE) - 1)

    def _better(self, fact: Fact, place: int, slot: bytes | None) -> bytes:
        """Return the slot of a fact's key, with its place where the fact is the best."""
        best, best_claim, mine, mine_claim = _SLOT.unpack(slot) if slot else _NOWHERE
        if fact.claim >= best_claim:
            best, best_claim = place, fact.claim
        if fact.ask == self._ask and fact.claim >= mine_claim:
            mine, mine_claim = place, fact.claim
        return _SLOT.pack(best, best_claim, mine, mine_claim)

    def _compact(self, names: list[str]) -> None:
        """Write the facts of many segments into few, each of which says what it covers. Nothing is deleted."""
        facts: list[Fact] = []
        covers: list[str] = []
        size = number = 0
        for position, name in enumerate(names, 1):
            read, _ = read_segment(self._store, name) or ([], [])
            if read:  # else it is gone, or damaged, or of a newer format: who can read it must still find it
                facts += read
                covers.append(name)
                size += sum(len(fact.body) for fact in read)
            if facts and (size >= SEGMENT_BYTES or position == len(names)):
                number += 1
                create(self._store, f"{LOG}{self._claim.folder}/compact-{number:06d}.arrow", encode_segment(facts, covers))
                facts, covers, size = [], [], 0
        log.info("Compacted %d log segments into %d", len(names), number)


class _Segment:
    """What stands in a scratch file from `start` and fills a segment. `end` is where that ends, once all of it is taken."""

    end: int

    def __init__(self, scratch: Scratch, start: int, last: int) -> None:
        self._scratch = scratch
        self._start = start
        self._last = last

    def __iter__(self) -> Iterator[Fact]:
        for offset, fact in self._scratch.read(self._start, self._last):
            if offset - self._start >= SEGMENT_BYTES:
                self.end = offset
                return
            yield fact
        self.end = self._last


def _groups(entries: list[Entry]) -> Iterator[list[str]]:
    """Yield the names of what is read at a time."""
    group: list[str] = []
    size = 0
    for entry in entries:
        if group and (len(group) == READERS or size + entry.size > READ_BYTES):
            yield group
            group, size = [], 0
        group.append(entry.name)
        size += entry.size
    if group:
        yield group


def is_compaction(name: str) -> bool:
    """Tell whether a segment repeats others."""
    return "/compact-" in name


def read_segment(store: Store, name: str) -> tuple[list[Fact], list[str]] | None:
    """Return the facts of a segment and the names of those that it covers. None if it is not there.

    No facts if it is damaged, or if a single one is not as we write them: who repeats or deletes a segment must know all of it.
    """
    data = _fetch(store, name)
    if data is None:
        return None
    found = _decoded(f"{store}/{name}", data)
    facts = list(found.facts)
    try:
        for fact in facts:
            check_body(fact)
    except ValueError as error:
        log.warning("%s is left out: %s", one_line(f"{store}/{name}"), one_line(str(error)))
        return [], []
    return facts, found.covers


def _fetch(store: Store, name: str) -> bytes | None:
    try:
        return store.get(name, 0, MOST_BYTES + 1)
    except FileNotFoundError:
        return None


def _decoded(place: str, data: bytes) -> Segment:
    try:
        return decode_segment(data)
    except ValueError as error:
        # Its rows are asked again; nothing can be read from half a segment.
        log.warning("%s is left out: %s", one_line(place), one_line(str(error)))
        return Segment(iter(()), [])
