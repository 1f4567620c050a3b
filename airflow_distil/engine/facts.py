"""All facts that an attempt may use: those in the log when it began, and its own.

They lie in two local files: a copy of what the log held, and this attempt's scratch file, which is write-ahead log and upload
source in one. An index on disk tells where the fact of a key stands.
"""

from __future__ import annotations

import logging
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import msgspec

from airflow_distil.conversation import digest
from airflow_distil.datasets.diskmap import DiskMap
from airflow_distil.datasets.log import MOST_BYTES, Fact, Kind, Scratch, decode_segment, encode_segment
from airflow_distil.datasets.manifest import LOG, Claim
from airflow_distil.datasets.stores import Store, create
from airflow_distil.engine.dialogue import Turn, check_body
from airflow_distil.engine.workspace import FACTS, Workspace
from airflow_distil.exceptions import one_line

__all__ = ["Facts", "is_compaction", "read_segment"]

log = logging.getLogger(__name__)

# A segment of this size is worth an upload before its time, and small enough to be built in memory.
SEGMENT_BYTES = 8 * 1024 * 1024
# Beyond this many segments, opening them one by one is what a resume spends its time on.
MANY_SEGMENTS = 200
# Reading the log is waiting for the store; this many reads at a time keep it busy without holding many segments in memory.
READERS = 8

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
    :param count: told of each fact that earlier attempts wrote down, of copies too.
    """

    def __init__(
        self, store: Store, claim: Claim, workspace: Workspace, count: Callable[[Fact], object] = lambda _: None
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
        self._index = DiskMap(workspace.path / "index", _SLOT.size)
        self._firsts = DiskMap(workspace.path / "firsts", 16)
        self._uploaded = 0
        self._segment = 0
        self._number = 0

    def load(self) -> int:
        """Read the log as it is now, and what killed attempts left on this host. Return how many facts there were."""
        names = [entry.name for entry in self._store.list(LOG)]
        compacted = [name for name in names if is_compaction(name)]
        covered: set[str] = set()
        uploaded: dict[bytes, int] = defaultdict(int)
        count = self._take_compacted(compacted, covered, uploaded)
        loose = [name for name in names if name not in covered and name not in compacted]
        gone: set[str] = set()
        for name, segment in zip(loose, self._read_all(loose), strict=True):
            if segment is None:
                gone.add(name)
            else:
                count += self._take(segment[0], uploaded)
        if gone:
            # Upkeep has removed them since, as a compaction that we did not know of repeats them.
            newer = [entry.name for entry in self._store.list(LOG) if is_compaction(entry.name) and entry.name not in compacted]
            count += self._take_compacted(newer, covered, uploaded)
            if lost := gone - covered:
                raise FileNotFoundError(f"{self._store}/{min(lost)} was deleted while the log was read")
        if len(loose) > MANY_SEGMENTS:
            self._compact(loose)
        return count + self._pick_up(uploaded)

    def find(self, key: bytes, *, own: bool) -> Fact | None:
        """Return the fact of a key: the one with the highest claim, or with `own` the one of this ask."""
        slot = self._index.get(key)
        if slot is None:
            return None
        best, _, mine, _ = _SLOT.unpack(slot)
        place = mine if own else best
        if not place:
            return None
        file = self._scratch if place & _OWN_FILE else self._copied
        return file.at((place & ~_OWN_FILE) - 1)

    def first(self, ordinal: int, sample: int) -> bytes | None:
        """Return the key under which the same work logged the first request of this row and sample, if it did."""
        return self._firsts.get(_who(ordinal, sample))

    @property
    def knows_firsts(self) -> bool:
        """Whether the log holds requests of the same work."""
        return len(self._firsts) > 0

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

    def flush(self) -> None:
        """Upload what is pending, as immutable segments. Safe to call from another thread than the one that adds.

        :raises OSError: if the store fails; nothing is lost, and the next flush takes it along.
        """
        end = self._scratch.size
        while self._uploaded < end:
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

    def close(self) -> None:
        """Remove the indexes and the copy of the log; the scratch file is the workspace's."""
        self._index.close()
        self._firsts.close()
        self._copied.remove()
        self._scratch.close()

    def _take_compacted(self, names: list[str], covered: set[str], uploaded: dict[bytes, int]) -> int:
        count = 0
        for facts, covers in filter(None, self._read_all(names)):
            covered.update(covers)
            count += self._take(facts, uploaded)
        return count

    def _read_all(self, names: list[str]) -> Iterator[tuple[list[Fact], list[str]] | None]:
        with ThreadPoolExecutor(READERS) as readers:
            # In groups, because `map` reads ahead without a bound.
            for start in range(0, len(names), READERS):
                group = names[start : start + READERS]
                # Read ahead as bytes: as facts, eight segments are a quarter of a gigabyte.
                for name, data in zip(group, readers.map(partial(_fetch, self._store), group), strict=True):
                    yield None if data is None else _decode(f"{self._store}/{name}", data)

    def _take(self, facts: Iterable[Fact], uploaded: dict[bytes, int]) -> int:
        count = 0
        for fact in facts:
            if fact.kind is Kind.TRANSIENT:
                continue  # no attempt of ours uploads one
            # Numbers are uploaded in order, so the highest one tells what of a killed attempt's scratch is missing here.
            uploaded[fact.nonce] = max(uploaded[fact.nonce], fact.number)
            self._place(fact, self._copied.append([fact])[0] + 1)
            self._count(fact)
            count += 1
        return count

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
                    self._count(fact)
            scratch.close()
            # Into our own file: so they are uploaded with what we add.
            for fact, offset in zip(fresh, self._scratch.append(fresh), strict=True):
                self._place(fact, (offset + 1) | _OWN_FILE)
            count += len(fresh)
        return count

    def _place(self, fact: Fact, place: int) -> None:
        if fact.kind is Kind.BAD_ROW and fact.ask != self._ask:
            return  # void outside its ask; the answers before it hold
        self._index.update(fact.key, partial(self._better, fact, place))
        if fact.step == 0 and fact.work == self._work and fact.claim != self._claim.number:
            self._firsts.put(_who(fact.ordinal, fact.sample), fact.key)

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
            read, _ = read_segment(self._store, name, whole=True) or ([], [])
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


def is_compaction(name: str) -> bool:
    """Tell whether a segment repeats others."""
    return "/compact-" in name


def read_segment(store: Store, name: str, *, whole: bool = False) -> tuple[list[Fact], list[str]] | None:
    """Return the facts of a segment and the names of those that it covers: none if it is damaged; None if it is not there.

    :param whole: none also if a single fact is not as we write them: who repeats or deletes a segment must know all of it.
    """
    data = _fetch(store, name)
    return None if data is None else _decode(f"{store}/{name}", data, whole=whole)


def _fetch(store: Store, name: str) -> bytes | None:
    try:
        return store.get(name, 0, MOST_BYTES + 1)
    except FileNotFoundError:
        return None


def _decode(place: str, data: bytes, *, whole: bool = False) -> tuple[list[Fact], list[str]]:
    try:
        facts, covers = decode_segment(data)
    except ValueError as error:
        # Its rows are asked again; nothing can be read from half a segment.
        log.warning("%s is left out: %s", one_line(place), one_line(str(error)))
        return [], []
    good = []
    for fact in facts:
        try:
            check_body(fact)
        except ValueError as error:
            log.warning("A fact of %s is left out: %s", one_line(place), one_line(str(error)))
        else:
            good.append(fact)
    if len(good) < len(facts):
        return [] if whole else good, []  # what repeats others must not stand for what it does not have
    return good, covers


def _who(ordinal: int, sample: int) -> bytes:
    return digest(f"{ordinal}/{sample}".encode())
