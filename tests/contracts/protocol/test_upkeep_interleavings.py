"""Upkeep between any two verbs of attempts that begin, crash, publish and regenerate, without any grace."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
import uuid
from pathlib import Path
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, precondition, rule

from airflow_distil.conversation import Chat, canonical, digest, user
from airflow_distil.datasets.commit import Commit
from airflow_distil.datasets.log import Kind, decode_segment
from airflow_distil.datasets.manifest import LOG, Claim, Manifest
from airflow_distil.datasets.stores import MemoryStore, Store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine import facts as facts_module
from airflow_distil.engine.dialogue import Turn
from airflow_distil.engine.facts import Facts
from airflow_distil.engine.upkeep import Report, Upkeep
from airflow_distil.engine.workspace import Workspace
from airflow_distil.exceptions import Superseded
from tests.contracts.protocol.attempts import Actor, Attempt, Crash
from tests.contracts.protocol.test_interleavings import LONG, Protocol, pick

QUESTIONS = 2
# Later than all modification times: nothing is kept for being young.
LATER = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)

Id = tuple[bytes, int]


class AskingAttempt(Attempt):
    """An attempt that asks, and logs what it is told, before it writes its parts."""

    def __init__(self, store: Store, scratch: Path, *args, **kwargs) -> None:
        self.scratch = scratch
        self.bare = store
        self.forgotten: set[bytes] = set()
        super().__init__(store, *args, **kwargs)

    def _produce(self, commit: Commit, claim: Claim) -> Manifest:
        workspace = Workspace(self.scratch, str(self.store), claim.folder)
        facts = Facts(self.store, claim, workspace, rows=QUESTIONS)
        try:
            logged = {fact.key for fact in logged_facts(self.bare).values()}
            facts.load()
            self.forgotten = {key for key in logged if facts.find(key, 0, 0, own=False) is None}
            for number in range(QUESTIONS):
                content = canonical(Chat([user(f"round {claim.round}, {self.fingerprint}, question {number}")]))
                turn = Turn(Chat([user("")]), content, digest(content), 0)
                if facts.find(turn.key, number, 0, own=False) is None:
                    facts.add([facts.fact(turn, ordinal=number, sample=0, kind=Kind.ANSWER, body={"text": "yes"})])
                    commit.look()
                    facts.flush()
        finally:
            facts.close()
            workspace.close(keep=False)
        return super()._produce(commit, claim)


class Cleaner(Actor):
    """One upkeep of the destination."""

    def __init__(self, store: Store, keep_editions: int | None) -> None:
        self.keep_editions = keep_editions
        super().__init__(store)

    def _gate(self, label: str) -> str:
        if label.startswith(("put", "delete")):
            assert label.startswith(("delete data/", "delete _distil/log/")), label
            assert "/compact-" not in label
        return super()._gate(label)

    def _work(self):
        return Upkeep(self.store, grace=dt.timedelta(0), keep_editions=self.keep_editions, now=LATER).clean()


def logged_facts(store: Store) -> dict[Id, object]:
    facts = [fact for entry in store.list(LOG) for fact in decode_segment(store.get(entry.name)).facts]
    return {(fact.nonce, fact.number): fact for fact in facts}


class CleanedProtocol(Protocol):
    """What holds without upkeep holds with it; see `Protocol`."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="airflow-distil-upkeep-"))
        self.cleaners: list[Cleaner] = []
        self.keeping: list[int] = []
        self.paid: dict[Id, object] = {}
        self.logged: set[str] = set()
        # Small logs compact early; and one reader at a time, as verbs are taken one by one.
        self.patches = [patch.object(facts_module, "MANY_SEGMENTS", 1), patch.object(facts_module, "READERS", 1)]
        for each in self.patches:
            each.start()

    def attempt(self, ask, code, on_existing, **more):
        return AskingAttempt(self.store, self.scratch, digest(ask.encode()).hex(), code, on_existing, **more)

    def must_have_data(self, edition, latest):
        return edition > latest - min(self.keeping, default=latest)

    @precondition(lambda self: sum(cleaner.alive for cleaner in self.cleaners) < 2)
    @rule(keep_editions=st.sampled_from([None, None, 1, 2]))
    def begin_to_clean(self, keep_editions) -> None:
        if keep_editions:
            self.keeping.append(keep_editions)
        self.cleaners.append(Cleaner(self.store, keep_editions))

    @rule(keep_editions=st.sampled_from([None, None, None, 1]))
    def clean_at_once(self, keep_editions) -> None:
        if keep_editions:
            self.keeping.append(keep_editions)
        cleaner = Cleaner(self.store, keep_editions)
        cleaner.finish()
        self.cleaners.append(cleaner)

    @precondition(lambda self: self.cleaning)
    @rule(who=st.integers(0, 1), times=st.integers(1, 10))
    def clean_on(self, who, times) -> None:
        cleaner = self.cleaning[who % len(self.cleaning)]
        for _ in range(times):
            if cleaner.alive:
                cleaner.step()
                self.what_must_hold()

    @precondition(lambda self: self.cleaning)
    @rule(who=st.integers(0, 1))
    def clean_to_the_end(self, who) -> None:
        cleaner = self.cleaning[who % len(self.cleaning)]
        while cleaner.alive:
            cleaner.step()
            self.what_must_hold()

    @precondition(lambda self: self.cleaning)
    @rule(who=st.integers(0, 1))
    def clean_to_the_brink(self, who) -> None:
        """It has looked, and is about to delete."""
        cleaner = self.cleaning[who % len(self.cleaning)]
        while cleaner.alive and not cleaner.verb.startswith("delete"):
            cleaner.step()

    @precondition(lambda self: self.cleaning)
    @rule(who=st.integers(0, 1), steps=st.integers(0, 20), order=st.sampled_from(["refuse", "lose", "crash", "crash after"]))
    def cleaning_goes_wrong(self, who, steps, order) -> None:
        cleaner = self.cleaning[who % len(self.cleaning)]
        for _ in range(steps):
            if cleaner.alive:
                cleaner.step()
        if cleaner.alive:
            cleaner.step(order)

    @precondition(lambda self: self.moving)
    @rule(who=pick, where=st.sampled_from([f"get {LOG}", "put _distil/manifests"]))
    def one_to(self, who, where) -> None:
        """It has listed the log, and is about to read what may be gone by then; or it has looked, and its parts may be gone."""
        attempt = self.moving[who % len(self.moving)]
        while attempt.alive and not attempt.verb.startswith(where):
            attempt.step()

    @property
    def cleaning(self) -> list[Cleaner]:
        return [cleaner for cleaner in self.cleaners if cleaner.alive]

    @invariant()
    def nothing_that_was_paid_is_lost(self) -> None:
        if not hasattr(self, "store"):
            return
        names = {entry.name for entry in self.store.list(LOG)}
        if names != self.logged:
            self.logged = names
            now = logged_facts(self.store)
            assert self.paid.keys() <= now.keys(), "an answer is gone"
            self.paid = now
        for attempt in self.attempts:
            assert not attempt.forgotten, "an answer would be paid again"
        for cleaner in self.cleaners:
            assert cleaner.error is None or cleaner.hit or isinstance(cleaner.error, Crash), repr(cleaner.error)

    def _ended_well(self, attempt, claims, manifests) -> None:
        if "was taken, and is not there" in str(attempt.error) and len(claims) > attempt.claims[-1].number:
            # It was superseded, and would have seen so at its next look; between its put of a part and reading it back, to see
            # whose it is, the part was an orphan.
            return
        super()._ended_well(attempt, claims, manifests)

    def teardown(self) -> None:
        try:
            for cleaner in self.cleaning:
                while cleaner.alive:
                    cleaner.step()
            if hasattr(self, "store"):
                self.nothing_that_was_paid_is_lost()
            super().teardown()
        finally:
            for each in self.patches:
                each.stop()
            for cleaner in self.cleaning:
                cleaner.kill()
            shutil.rmtree(self.scratch)


TestCleanedProtocol = CleanedProtocol.TestCase
TestCleanedProtocol.settings = settings(
    max_examples=5000 if LONG else 150,
    stateful_step_count=80 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture
def store():
    bucket = uuid.uuid4().hex
    yield MemoryStore(URI.parse(f"memory://{bucket}/destination"))
    MemoryStore._buckets.pop(bucket, None)


def go_to(actor: Actor, verb: str) -> None:
    while actor.alive and not actor.verb.startswith(verb):
        actor.step()
    assert actor.alive


def clean(store: Store) -> Report:
    cleaner = Cleaner(store, None)
    cleaner.finish()
    assert cleaner.error is None
    return cleaner.result


def test_parts_that_are_published_under_a_later_claim(store):
    """Their folder has the number of the first claim, which is not the highest any more, and whose edition is another's."""
    late = Attempt(store, "ask 1", "code 1", "reuse", number=1)
    go_to(late, "put _distil/manifests/000001")
    newest = Attempt(store, "ask 2", "code 2", "reuse", number=2)
    go_to(newest, "put _distil/manifests/000001")
    late.finish()
    go_to(newest, "put _distil/manifests/000002")
    assert [claim.number for claim in newest.claims] == [2, 3]
    assert clean(store).removed == []
    newest.finish()
    assert newest.result.edition == 2
    assert all(store.get(part.path) for part in newest.result.parts)


def test_parts_that_came_too_late_go(store):
    """Else upkeep that keeps everything would pass all other tests."""
    late = Attempt(store, "ask 1", "code 1", "reuse", number=1)
    go_to(late, "put _distil/manifests/000001")
    newest = Attempt(store, "ask 1", "code 1", "reuse", number=2)
    newest.finish()
    [finding] = clean(store).removed
    assert (finding.folder, finding.objects) == (f"data/{late.claims[0].folder}", 2)
    assert list(store.list(finding.folder)) == []
    late.finish()
    assert late.result.sha256 == newest.result.sha256


def test_segments_that_go_while_they_are_about_to_be_read(store, tmp_path, monkeypatch):
    """An attempt had listed the log before a compaction was written, and died of the segments that were gone then."""
    monkeypatch.setattr(facts_module, "MANY_SEGMENTS", 1)
    monkeypatch.setattr(facts_module, "READERS", 1)
    asks = [digest(b"%d" % number).hex() for number in range(3)]
    first = AskingAttempt(store, tmp_path, asks[0], "code", "reuse", number=1)
    go_to(first, "put data/")
    first.kill()
    reading = AskingAttempt(store, tmp_path, asks[0], "code", "reuse", number=2)
    go_to(reading, f"get {LOG}")
    compacting = AskingAttempt(store, tmp_path, asks[0], "code", "reuse", number=3)
    go_to(compacting, "put data/")
    assert [finding.objects for finding in clean(store).removed] == [2]
    reading.finish()
    assert isinstance(reading.error, Superseded)
    assert reading.forgotten == set()
    compacting.finish()
    assert compacting.result.edition == 1
