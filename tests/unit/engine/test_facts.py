"""The facts of an attempt: the log as it was, the scratch of the dead, and its own."""

from __future__ import annotations

import logging
import uuid

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from airflow_distil.conversation import Chat, canonical, digest, user
from airflow_distil.datasets.log import Fact, Kind, decode_segment, encode_segment
from airflow_distil.datasets.manifest import LOG, Claim, Identity
from airflow_distil.datasets.stores import MemoryStore
from airflow_distil.datasets.uri import URI
from airflow_distil.engine import facts as facts_module
from airflow_distil.engine.dialogue import Turn
from airflow_distil.engine.facts import Facts
from airflow_distil.engine.workspace import Workspace

ASK, OTHER_ASK = "aa" * 16, "bb" * 16


@pytest.fixture
def store():
    bucket = uuid.uuid4().hex
    yield MemoryStore(URI.parse(f"memory://{bucket}/dataset"))
    MemoryStore._buckets.pop(bucket, None)


@pytest.fixture
def begin(store, tmp_path):
    """Begin attempts, and end them."""
    opened = []

    def open_facts(number: int = 1, *, ask: str = ASK, host: str = "host", fingerprint: str = "work") -> Facts:
        claim = claimed(number, ask, fingerprint)
        workspace = Workspace(tmp_path / host, "destination", claim.folder)
        facts = Facts(store, claim, workspace, rows=9)
        opened.append((facts, workspace))
        return facts

    yield open_facts
    for facts, workspace in opened:
        facts.close()
        workspace.close(keep=False)


def claimed(number: int, ask: str, fingerprint: str) -> Claim:
    nonce = f"{number:016x}"
    return Claim(number=number, nonce=nonce, identity=Identity(), ask=ask, round=1, edition=1, fingerprint=fingerprint)


def turn(text: str = "a", step: int = 0) -> Turn:
    content = canonical(Chat([user(text)]))
    return Turn(Chat([user(text)]), content, digest(content), step)


def write(facts: Facts, *texts: str, kind: Kind = Kind.ANSWER, said: str = "yes", step: int = 0) -> list[Fact]:
    written = [
        facts.fact(turn(text, step), ordinal=n, sample=0, kind=kind, body={"text": said}) for n, text in enumerate(texts)
    ]
    facts.add(written)
    return written


def test_flush_uploads_each_fact_once(begin, store):
    """A segment per flush, of what is new since the last one."""
    facts = begin()
    write(facts, "a", "b")
    facts.flush()
    facts.flush()
    write(facts, "c")
    facts.flush()
    names = [entry.name for entry in store.list("_distil/log/")]
    assert [len(list(decode_segment(store.get(name)).facts)) for name in names] == [2, 1]
    assert facts.pending == 0


def test_much_is_uploaded_in_several_segments(begin, store, monkeypatch):
    """A segment is built in memory."""
    monkeypatch.setattr(facts_module, "SEGMENT_BYTES", 500)
    facts = begin()
    for text in "abcdefghij":
        write(facts, text, said="x" * 100)
    facts.flush()
    names = [entry.name for entry in store.list("_distil/log/")]
    assert len(names) > 2
    assert [fact.number for name in names for fact in decode_segment(store.get(name)).facts] == list(range(1, 11))


def test_only_what_is_full_goes_before_its_time(begin, store, monkeypatch):
    """At thousands of rows a second each upload left a small segment behind, two for each full one."""
    monkeypatch.setattr(facts_module, "SEGMENT_BYTES", 500)
    facts = begin()
    for text in "abcdefghij":
        write(facts, text, said="x" * 100)
    facts.flush(500)
    assert 0 < facts.pending < 500
    uploaded = len(list(store.list("_distil/log/")))
    facts.flush(500)
    assert len(list(store.list("_distil/log/"))) == uploaded
    facts.flush()
    assert begin(2).load() == 10


def test_failed_flush_loses_nothing(begin, store, monkeypatch):
    """The next one takes it along, with what came meanwhile."""
    facts = begin()
    write(facts, "a")
    put = store.put
    monkeypatch.setattr(store, "put", lambda *_: (_ for _ in ()).throw(OSError("503")))
    with pytest.raises(OSError, match="503"):
        facts.flush()
    monkeypatch.setattr(store, "put", put)
    write(facts, "b")
    facts.flush()
    assert begin(2).load() == 2


def test_flush_that_is_overtaken_loses_nothing(begin, store, monkeypatch):
    """While one upload hung, another began and failed: what that one had taken counted as uploaded."""
    facts = begin()
    write(facts, "a")
    put = store.put

    def hanging(*told):
        monkeypatch.setattr(store, "put", lambda *_: (_ for _ in ()).throw(OSError("503")))
        write(facts, "b")
        with pytest.raises(OSError, match="503"):
            facts.flush()
        monkeypatch.setattr(store, "put", put)
        put(*told)

    monkeypatch.setattr(store, "put", hanging)
    facts.flush()
    assert facts.pending
    facts.flush()
    assert begin(2).load() == 2


def test_lost_reply_of_a_flush_loses_nothing(begin, store, monkeypatch):
    """The name of the first try is taken, by us, with other content than the second try has."""
    facts = begin()
    write(facts, "a")
    put = store.put

    def lose(name, data):
        put(name, data)
        raise OSError("lost")

    monkeypatch.setattr(store, "put", lose)
    with pytest.raises(OSError, match="lost"):
        facts.flush()
    monkeypatch.setattr(store, "put", put)
    write(facts, "b")
    facts.flush()
    later = begin(2)
    later.load()
    assert later.find(turn("a").key, 0, 0, own=False) is not None
    assert later.find(turn("b").key, 1, 0, own=False) is not None


class TestLoad:
    def test_answers_of_other_asks_hold(self, begin):
        """An answer is a fact, whichever run asked."""
        first = begin(1, ask=OTHER_ASK)
        [written] = write(first, "a")
        first.flush()
        second = begin(2)
        assert second.load() == 1
        assert second.find(turn("a").key, 0, 0, own=False) == written
        assert second.find(turn("a").key, 0, 0, own=True) is None

    def test_answers_of_the_same_ask_are_own(self, begin):
        """A retry that did not count its predecessor's answers as its own would ask the unparsed rows once more."""
        first = begin(1)
        [written] = write(first, "a")
        first.flush()
        second = begin(2)
        second.load()
        assert second.find(turn("a").key, 0, 0, own=True) == written

    def test_bad_rows_of_other_asks_are_void(self, begin):
        """A clear asks the failed rows again."""
        first = begin(1, ask=OTHER_ASK)
        write(first, "a", kind=Kind.BAD_ROW)
        first.flush()
        second = begin(2)
        second.load()
        assert second.find(turn("a").key, 0, 0, own=False) is None
        third = begin(3, ask=OTHER_ASK)
        third.load()
        assert third.find(turn("a").key, 0, 0, own=False).kind is Kind.BAD_ROW

    def test_void_bad_row_does_not_hide_the_answer_before(self, begin):
        """Claim 2 was refused what claim 1 had been answered; claim 3, of the first ask, uses the answer."""
        first = begin(1)
        [answer] = write(first, "a")
        first.flush()
        second = begin(2, ask=OTHER_ASK)
        write(second, "a", kind=Kind.BAD_ROW)
        second.flush()
        third = begin(3)
        third.load()
        assert third.find(turn("a").key, 0, 0, own=False) == answer

    @pytest.mark.parametrize("order", [(1, 2), (2, 1)])
    def test_highest_claim_counts(self, begin, order):
        """Whatever the order of names: two attempts must not publish two truths."""
        for number in order:
            facts = begin(number, ask=OTHER_ASK)
            write(facts, "a", said=f"claim {number}")
            facts.flush()
        later = begin(3)
        later.load()
        assert b"claim 2" in later.find(turn("a").key, 0, 0, own=False).body

    def test_copy_of_an_older_fact_does_not_win_by_its_place(self, begin):
        """Claim 3 picked up a fact of claim 1 and uploaded it behind what claim 2 was answered."""
        second = begin(2)
        write(second, "a", said="claim 2")
        second.flush()
        third = begin(3)
        older = third.fact(turn("a"), ordinal=0, sample=0, kind=Kind.ANSWER, body={"text": "claim 1"})._replace(claim=1)
        third.add([older])
        third.flush()
        later = begin(4)
        later.load()
        for own in (True, False):
            assert b"claim 2" in later.find(turn("a").key, 0, 0, own=own).body

    def test_damaged_segment_is_left_out_and_named(self, begin, store, caplog):
        """Its rows are asked again; refusing to start would need a person at night."""
        first = begin(1)
        write(first, "a")
        first.flush()
        write(first, "b")
        first.flush()
        [name, _] = [entry.name for entry in store.list("_distil/log/")]
        data = store.get(name)
        store.delete(name)
        store.put(name, data[:-3])
        with caplog.at_level(logging.WARNING):
            assert begin(2).load() == 1
        assert f"{name} is left out" in caplog.text

    def test_first_requests_of_the_same_work_are_known(self, begin):
        """Drift is seen by them; of other work they say nothing."""
        first = begin(1, fingerprint="work")
        write(first, "a", "b")
        write(first, "c", step=1)
        first.flush()
        same, other = begin(2), begin(3, fingerprint="other work")
        same.load(), other.load()
        assert [same.first(ordinal, 0) and same.first(ordinal, 0).key for ordinal in range(3)] == [
            turn("a").key,
            turn("b").key,
            None,
        ]
        assert not any(other.first(ordinal, 0) for ordinal in range(9))

    def test_own_first_requests_are_no_news(self, begin):
        """An attempt cannot drift from itself."""
        facts = begin()
        write(facts, "a")
        assert facts.first(0, 0) is None

    @pytest.mark.parametrize(("ordinal", "sample"), [(2**63, 0), (0, 2**31), (9, 0)])
    def test_rows_that_are_not_there_take_no_memory(self, begin, store, ordinal, sample):
        """A fact of row 2**63 made room for that many."""
        begin(1)
        forged = begin(2).fact(turn("a"), ordinal=ordinal, sample=sample, kind=Kind.ANSWER, body={"text": "yes"})
        store.put(f"{LOG}000001-{1:016x}/000001.arrow", encode_segment([forged]))
        later = begin(3)
        assert later.load() == 1
        assert not any(later.first(row, 0) for row in range(9))
        assert later.find(turn("a").key, 0, 0, own=False) == forged


WORKS = ("work", "other work", "third work")
logged = st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.booleans())


@given(facts=st.lists(logged, max_size=12))
@settings(max_examples=80, deadline=None)
def test_answer_is_found_wherever_its_row_was(tmp_path_factory, facts):
    """Rows move, prompts come back, works take turns: what is not found is paid again, what is older is a second truth."""
    folder = tmp_path_factory.mktemp("facts")
    store = MemoryStore(URI.parse(f"memory://{folder.name}/dataset"))
    best: dict[bytes, dict[bool, Fact]] = {}
    for position, (number, text, ours) in enumerate(facts):
        # As it is: a claim has one work, and within that a key has one row and step.
        work = WORKS[number % len(WORKS)]
        ordinal, step = ("abc".index(text) + number % len(WORKS)) % 3, int(text == "c")
        begun = opened(store, folder, number, fingerprint=work, ask=ASK if ours else OTHER_ASK)
        fact = begun.fact(turn(text, step), ordinal=ordinal, sample=0, kind=Kind.ANSWER, body={"text": str(position)})
        begun.close()
        store.put(f"{LOG}{number:06d}-{number:016x}/{position:06d}.arrow", encode_segment([fact]))
    later = opened(store, folder, 9)
    assert later.load() == len(facts)
    # In the order of the log.
    for name in sorted(entry.name for entry in store.list(LOG)):
        [fact] = decode_segment(store.get(name)).facts
        for own in (False, True):
            if not own or fact.ask == bytes.fromhex(ASK):
                known = best.setdefault(fact.key, {}).get(own)
                if known is None or fact.claim >= known.claim:
                    best[fact.key][own] = fact
    for text in "abc":
        for own in (False, True):
            expected = best.get(turn(text).key, {}).get(own)
            assert [later.find(turn(text).key, ordinal, 0, own=own) for ordinal in range(9)] == [expected] * 9
    later.close()
    MemoryStore._buckets.pop(folder.name, None)


def opened(store, folder, number: int, *, fingerprint: str = "work", ask: str = ASK) -> Facts:
    return Facts(store, claimed(number, ask, fingerprint), Workspace(folder, "destination", uuid.uuid4().hex), rows=9)


class TestCompaction:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch):
        monkeypatch.setattr(facts_module, "MANY_SEGMENTS", 5)

    def segments(self, begin, count: int, number: int = 1, **options) -> None:
        facts = begin(number, **options)
        for position in range(count):
            write(facts, f"{number}/{position}")
            facts.flush()

    def compact(self, store) -> list[str]:
        return [entry.name for entry in store.list("_distil/log/") if "/compact-" in entry.name]

    def test_many_segments_become_few(self, begin, store):
        """A resume that opens a thousand objects one by one takes minutes before its first call."""
        self.segments(begin, 6)
        assert begin(2).load() == 6
        [name] = self.compact(store)
        facts, covers = decode_segment(store.get(name))
        assert [fact.number for fact in facts] == [1, 2, 3, 4, 5, 6]
        assert covers == [f"_distil/log/000001-{1:016x}/{n:06d}.arrow" for n in range(1, 7)]

    def test_few_segments_stay(self, begin, store):
        """Each compaction writes everything once more."""
        self.segments(begin, 5)
        begin(2).load()
        assert self.compact(store) == []

    def test_full_segments_stay_however_many(self, begin, store, monkeypatch):
        """A resume of a million rows wrote all of them once more, into as many segments as there were."""
        monkeypatch.setattr(facts_module, "SMALL_BYTES", 100)
        self.segments(begin, 9)
        assert begin(2).load() == 9
        assert self.compact(store) == []

    def test_only_the_small_ones_are_repeated(self, begin, store, monkeypatch):
        """A large one would be read and written for nothing."""
        monkeypatch.setattr(facts_module, "SMALL_BYTES", 4000)
        facts = begin(1)
        write(facts, "large", said="x" * 4000)  # packed it is not larger than the others
        facts.flush()
        self.segments(begin, 6, number=2)
        [_, *small] = store.list("_distil/log/")
        assert begin(3).load() == 7
        [name] = self.compact(store)
        assert decode_segment(store.get(name)).covers == [entry.name for entry in small]
        assert begin(4).load() == 7

    def test_nothing_is_lost_and_covered_segments_are_not_read(self, begin, store, monkeypatch):
        """Id, claim and ask survive: else void failures come back, and answers are counted twice."""
        self.segments(begin, 7, ask=OTHER_ASK)
        before = begin(2)
        before.load()
        read = []
        get = store.get
        monkeypatch.setattr(store, "get", lambda name, *rest: read.append(name) or get(name, *rest))
        after = begin(3)
        assert after.load() == 7
        assert read == self.compact(store)
        for position in range(7):
            key = turn(f"1/{position}").key
            assert after.find(key, 0, 0, own=False) == before.find(key, 0, 0, own=False)
            assert after.find(key, 0, 0, own=False).ask == bytes.fromhex(OTHER_ASK)
            assert after.find(key, 0, 0, own=True) is None

    def test_later_segments_are_compacted_on_their_own(self, begin, store):
        """Compacting the compacted again would write the whole log each time."""
        self.segments(begin, 6)
        begin(2).load()
        self.segments(begin, 6, number=3)
        assert begin(4).load() == 12
        assert len(self.compact(store)) == 2
        assert begin(5).load() == 12

    def test_damaged_compaction_is_made_up_for(self, begin, store):
        """Nothing was deleted: the segments are still there."""
        self.segments(begin, 6)
        begin(2).load()
        [name] = self.compact(store)
        store.delete(name)
        store.put(name, b"half")
        assert begin(3).load() == 6

    def test_segment_that_cannot_be_read_is_not_covered(self, begin, store):
        """It may be of a newer version, which then could never find it again."""
        self.segments(begin, 6)
        newer = f"_distil/log/000001-{1:016x}/000009.arrow"
        store.put(newer, encode_segment([])[:-8] + b"distil-2")
        begin(2).load()
        [name] = self.compact(store)
        assert newer not in decode_segment(store.get(name)).covers

    def test_large_logs_become_several_compactions(self, begin, store, monkeypatch):
        """They are built in memory."""
        self.segments(begin, 9)
        monkeypatch.setattr(facts_module, "SEGMENT_BYTES", 40)
        begin(2).load()
        names = self.compact(store)
        assert len(names) > 2
        assert sum(len(list(decode_segment(store.get(name)).facts)) for name in names) == 9
        assert begin(3).load() == 9

    def test_more_than_the_real_number_of_segments(self, begin, store, monkeypatch):
        """The number in the design, once."""
        monkeypatch.setattr(facts_module, "MANY_SEGMENTS", 200)
        self.segments(begin, 201)
        assert begin(2).load() == 201
        assert len(self.compact(store)) == 1
        assert begin(3).load() == 201


class TestPickUp:
    def test_of_a_living_attempt_is_read_and_kept(self, begin, tmp_path):
        """Its scratch is still being written; removing it would lose what comes after."""
        living = begin(1)
        write(living, "a")
        newer = begin(2)
        assert newer.load() == 1
        newer._workspace.forget_earlier()
        write(living, "b")
        third = begin(3)
        assert third.load() == 2

    def test_that_dies_after_it_was_read_is_not_forgotten(self, begin):
        """What it wrote between our reading and its death is in no other place."""
        dying = begin(1)
        write(dying, "a")
        newer = begin(2)
        newer.load()
        write(dying, "b")
        dying.flush = lambda: None
        dying._workspace.close(keep=True)
        dying._workspace.close = lambda **_: None
        newer._workspace.forget_earlier()
        assert begin(3).load() == 2

    def test_uploaded_facts_are_not_picked_up(self, begin):
        """They are in the log already; a copy of a copy at each attempt would grow for ever."""
        living = begin(1)
        write(living, "a", "b")
        living.flush()
        write(living, "c")
        newer = begin(2)
        newer.load()
        assert newer.pending > 0
        assert [fact.number for _, fact in newer._scratch.read()] == [3]

    def test_on_another_host_there_is_nothing(self, begin):
        """Its disk is not ours."""
        write(begin(1), "a")
        assert begin(2, host="another").load() == 0
