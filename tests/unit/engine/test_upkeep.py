"""What upkeep takes and what it leaves, piece by piece; that it is safe at any moment is shown beside the commit protocol."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import uuid
from pathlib import Path

import pytest

from airflow_distil.datasets.commit import Commit
from airflow_distil.datasets.files import find_parts
from airflow_distil.datasets.log import Fact, Kind, Scratch, encode_segment
from airflow_distil.datasets.manifest import LOG, Claim, Identity, Manifest, manifest_name
from airflow_distil.datasets.stores import MemoryStore, Store, create, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine.upkeep import Report, Upkeep, find_destinations
from airflow_distil.engine.workspace import FACTS, Workspace
from airflow_distil.exceptions import DestinationError, NotPublished, TaskDefinitionError

IDENTITY = Identity(dag_id="dag", task_id="task", run_id="run")
DAYS = dt.timedelta(days=1)


@pytest.fixture
def store():
    bucket = uuid.uuid4().hex
    yield MemoryStore(URI.parse(f"memory://{bucket}/dataset"))
    MemoryStore._buckets.pop(bucket, None)


def begin(store: Store, ask: str = "ask", code: str = "code") -> Commit:
    commit = Commit(store, IDENTITY, ask)
    assert isinstance(commit.begin(code), Claim)
    return commit


def write(commit: Commit) -> list[dict]:
    data = commit.claim.nonce.encode()
    path = f"data/{commit.claim.folder}/part-00000.parquet"
    assert create(commit.store, path, data)
    return [{"path": path, "rows": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]


def publish(store: Store, ask: str = "ask", code: str = "code") -> Manifest:
    commit = begin(store, ask, code)
    return commit.publish({"parts": write(commit), "rows": 1, "ok": 1})


def late(store: Store) -> str:
    """Leave parts of an attempt that came too late, and return their folder."""
    slow = begin(store)
    write(slow)
    publish(store)
    return f"data/{slow.claim.folder}"


def clean(store: Store, *, after: dt.timedelta = 30 * DAYS, dry_run: bool = False, listed=(), **options) -> Report:
    now = dt.datetime.now(dt.UTC) + after
    return Upkeep(store, now=now, **options).clean(dry_run=dry_run, listed=listed)


def names(store: Store, prefix: str = "") -> list[str]:
    return [entry.name for entry in store.list(prefix)]


def folders(report: Report) -> tuple[list[str], list[str]]:
    return [finding.folder for finding in report.removed], [finding.folder for finding in report.kept]


def facts(count: int, nonce: int = 1) -> list[Fact]:
    return [
        Fact(bytes([n]) * 16, nonce.to_bytes(8, "big"), n, 1, b"a" * 16, b"w" * 16, n, 0, 0, Kind.ANSWER, b'{"text":"yes"}')
        for n in range(1, count + 1)
    ]


def log_of(store: Store, *, compacted: list[Fact], segments: list[list[Fact]]) -> list[str]:
    """Log segments of claim 1 and their compaction by claim 2; return the segments' names."""
    first, second = begin(store).claim.folder, begin(store).claim.folder
    begin(store)
    covered = [f"{LOG}{first}/{number:06d}.arrow" for number in range(1, len(segments) + 1)]
    for name, segment in zip(covered, segments, strict=True):
        store.put(name, encode_segment(segment))
    store.put(f"{LOG}{second}/compact-000001.arrow", encode_segment(compacted, covered))
    return covered


class TestData:
    def test_what_is_young_stays(self, store):
        """Whoever found the parts of a failed run in the morning wants to look at them in the afternoon."""
        folder = late(store)
        before = names(store)
        report = clean(store, after=6 * DAYS)
        assert folders(report) == ([], [folder])
        assert report.kept[0].why == "in its grace period"
        assert names(store) == before
        assert folders(clean(store, after=8 * DAYS)) == ([folder], [])
        assert names(store) == [name for name in before if not name.startswith(folder)]

    def test_dry_run_only_tells(self, store):
        """The first thing that careful people do must not be the last."""
        folder, before = late(store), names(store)
        report = clean(store, dry_run=True)
        assert folders(report) == ([folder], [])
        assert (report.objects, report.bytes) == (1, 16)
        assert report.line() == f"{store}: would remove 1 (0.0 MB)"
        assert names(store) == before

    def test_of_an_edition_that_is_not_published_stays(self, store):
        """An attempt that slept between its last look and its put published parts that were gone."""
        write(begin(store))
        begin(store)
        [finding] = clean(store).kept
        assert "edition 1 is not published yet" in finding.why

    def test_what_is_not_ours_stays(self, store):
        """A note that somebody put beside the parts, and a dataset below another, are nobody's orphans."""
        late(store)
        foreign = ["data/README.md", "data/000009-0123456789abcdef/part-00000.parquet", "data/000001-x/part-00000.parquet"]
        foreign += ["data/000001-0123456789abcdef/notes.txt", f"{LOG}notes.txt"]
        for name in foreign:
            store.put(name, b"")
        clean(store)
        assert set(foreign) <= set(names(store))

    def test_nothing_goes_where_manifests_may_be_replaced(self, store):
        """On a store that does not fence, the attempt that came too late may still win."""
        folder = late(store)
        published = Manifest.parse(store.get(manifest_name(1)))
        store.delete(manifest_name(1))
        store.put(manifest_name(1), published.model_copy(update={"fencing": "none"}).to_bytes())
        assert folders(clean(store)) == ([], [folder])

    @pytest.mark.parametrize("name", ["_distil/manifests/000002.json", "_distil/claims/000003.json"])
    def test_what_cannot_be_read_stops_it(self, store, name):
        """A manifest of a newer version names parts that this one cannot see."""
        late(store)
        store.put(name, b'{"format": "airflow-distil/2"}')
        before = names(store)
        with pytest.raises(DestinationError, match=rf"{name} is no .* of this version.*Nothing was removed"):
            clean(store)
        assert names(store) == before

    def test_a_destination_that_begins_anew_meanwhile(self, store, monkeypatch):
        """What was listed before belongs to another life of the destination."""
        late(store)
        listing = store.list

        def list_(prefix=""):
            found = list(listing(prefix))
            if prefix == "data/":
                for entry in list(listing("_distil/")):
                    store.delete(entry.name)
            return iter(found)

        monkeypatch.setattr(store, "list", list_)
        with pytest.raises(DestinationError, match="was deleted while it was being cleaned"):
            clean(store)
        assert len(list(listing("data/"))) == 2

    def test_nothing_there(self, store):
        """An empty folder is no error."""
        assert folders(clean(store)) == ([], [])


class TestEditions:
    def test_all_are_kept_by_default(self, store):
        """Nobody asked for less."""
        for number in range(3):
            publish(store, f"ask {number}", f"code {number}")
        before = names(store)
        assert folders(clean(store)) == ([], [])
        assert names(store) == before

    def test_data_of_old_ones_goes_and_readers_are_told(self, store):
        """A reader of an old edition was told that a part is missing, and to clear the task that wrote it."""
        old, middle, latest = (publish(store, f"ask {number}", f"code {number}") for number in range(3))
        assert folders(clean(store, keep_editions=2))[0] == [old.folder]
        stores = {"stores": MemoryStore}
        for kept in (middle, latest):
            assert find_parts(kept.summary(str(store)), **stores)
        with pytest.raises(NotPublished, match=r"edition 1 of .* has no data any more: 3 is the latest"):
            find_parts(old.summary(str(store)), **stores)
        assert find_parts(str(store), **stores)[0][1] == [latest.parts[0].path]
        assert folders(clean(store, keep_editions=2)) == ([], [])
        assert folders(clean(store, keep_editions=1))[0] == [middle.folder]

    def test_grace_counts_from_what_pushed_it_out(self, store):
        """An edition of last year, replaced a minute ago, is what everybody still reads."""
        old = publish(store)
        moved = MemoryStore._buckets[store.uri.bucket].objects
        for name, (content, version, _) in list(moved.items()):
            moved[name] = content, version, dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        publish(store, "another ask", "other code")
        report = clean(store, after=6 * DAYS, keep_editions=1)
        assert folders(report) == ([], [old.folder])
        assert report.kept[0].why == "edition 1 of 2, in its grace period"
        assert folders(clean(store, after=8 * DAYS, keep_editions=1)) == ([old.folder], [])

    def test_what_a_list_of_datasets_names_stays(self, store):
        """A list is recorded without copying: its rows are elsewhere."""
        old = publish(store)
        publish(store, "another ask", "other code")
        whole = MemoryStore(store.uri.parent / "whole")
        begin(whole).publish({"members": [old.summary(str(store))]})
        listed = Upkeep(whole, keep_editions=1).members()
        report = clean(store, keep_editions=1, listed=listed)
        assert folders(report) == ([], [old.folder])
        assert "another dataset lists" in report.kept[0].why

    def test_the_latest_always_stays(self, store):
        """Zero would be a delete with another name."""
        with pytest.raises(TaskDefinitionError, match="keep_editions is 0"):
            Upkeep(store, keep_editions=0)

    def test_a_failure_in_between_leaves_a_dataset(self, store, monkeypatch):
        """Half of it was deleted when the store went away, and the next upkeep, or a reader, stumbled over the rest."""
        for number in range(4):
            publish(store, f"ask {number}", f"code {number}")
        delete, left = store.delete, [2]

        def fail(name):
            left[0] -= 1
            if left[0] < 0:
                raise OSError("503")
            delete(name)

        with monkeypatch.context() as patched:
            patched.setattr(store, "delete", fail)
            with pytest.raises(OSError, match="503"):
                clean(store, keep_editions=1)
        assert len(names(store, "data/")) == 2
        assert find_parts(str(store), stores=MemoryStore)
        assert len(clean(store, keep_editions=1).removed) == 1
        assert len(names(store, "data/")) == 1


class TestLog:
    def test_repeated_segments_go_and_their_compaction_stays(self, store):
        """The log of a long history never shrank."""
        ours = facts(4)
        covered = log_of(store, compacted=ours, segments=[ours[:2], ours[2:]])
        assert clean(store).removed[0].objects == 2
        assert not set(covered) & set(names(store))
        assert len(names(store, LOG)) == 1

    @pytest.mark.parametrize(
        "lacking", [facts(4)[:3], [*facts(3), facts(4)[3]._replace(body=b'{"text":"no"}')], facts(4, nonce=2)]
    )
    def test_an_answer_that_the_compaction_lacks_is_kept(self, store, lacking):
        """It says that it covers them; a forged or buggy one must not cost an answer."""
        ours = facts(4)
        covered = log_of(store, compacted=lacking, segments=[ours[2:]])
        report = clean(store)
        assert set(covered) <= set(names(store))
        assert report.kept[0].why == "its compaction does not hold all of its answers"

    @pytest.mark.parametrize("damaged", ["compaction", "segment"])
    def test_nothing_goes_if_either_cannot_be_read(self, store, damaged):
        """A damaged copy is no copy; and a damaged original is for whoever can repair it."""
        ours = facts(4)
        covered = log_of(store, compacted=ours, segments=[ours])
        [name] = covered if damaged == "segment" else set(names(store, LOG)) - set(covered)
        content = store.get(name)
        store.delete(name)
        store.put(name, content[:50] + b"!" + content[51:])
        before = names(store)
        clean(store)
        assert names(store) == before

    def test_a_compaction_with_a_body_that_no_attempt_reads(self, store):
        """Its checksum was right, so its originals went; and attempts left all of it out."""
        ours = facts(4)
        covered = log_of(store, compacted=[*ours, ours[0]._replace(number=9, body=b"[]")], segments=[ours])
        clean(store)
        assert set(covered) <= set(names(store))

    def test_young_segments_and_those_of_young_compactions_stay(self, store):
        """An attempt may be about to read them."""
        ours = facts(4)
        log_of(store, compacted=ours, segments=[ours])
        assert clean(store, after=6 * DAYS).removed == []

    def test_the_newest_attempts_log_stays(self, store):
        """It is being written."""
        ours = facts(2)
        older = begin(store).claim.folder
        newest = begin(store).claim.folder
        name = f"{LOG}{newest}/000001.arrow"
        store.put(name, encode_segment(ours))
        store.put(f"{LOG}{older}/compact-000001.arrow", encode_segment(ours, [name]))
        assert clean(store).removed == []


class TestHost:
    @pytest.fixture
    def dead(self, store, tmp_path):
        """Scratch of an attempt at the store that was killed, with two answers."""
        claim = begin(store).claim
        workspace = Workspace(tmp_path, str(store), claim.folder)
        scratch = Scratch(workspace.path / FACTS)
        scratch.append(facts(2))
        scratch.close()
        os.close(workspace._lock)
        return workspace.path

    def test_answers_that_are_nowhere_else_stay(self, store, dead, tmp_path):
        """They are paid for; only an attempt can upload them."""
        store.put(f"{LOG}000001-0123456789abcdef/000001.arrow", encode_segment(facts(1)))
        [finding] = clean(store, scratch=tmp_path).kept
        assert "answers that are nowhere else (1)" in finding.why
        assert (dead / FACTS).exists()

    def test_those_in_the_log_go(self, store, dead, tmp_path):
        """A worker's disk filled up with the scratch of tasks that never ran there again."""
        store.put(f"{LOG}000001-0123456789abcdef/000001.arrow", encode_segment(facts(2)))
        assert folders(clean(store, scratch=tmp_path, after=6 * DAYS)) == ([], [str(dead)])
        assert folders(clean(store, scratch=tmp_path, dry_run=True)) == ([str(dead)], [])
        assert dead.exists()
        clean(store, scratch=tmp_path)
        assert not dead.exists()

    def test_a_living_attempt_keeps_its_own(self, store, tmp_path):
        """An attempt that waits for its endpoint for a week writes nothing meanwhile."""
        workspace = Workspace(tmp_path, str(store), begin(store).claim.folder)
        assert folders(clean(store, scratch=tmp_path)) == ([], [])
        assert workspace.path.exists()
        workspace.close(keep=False)

    def test_half_written_files(self, tmp_path):
        """No listing shows them, so nobody else finds them."""
        store = open_store(URI.parse(str(tmp_path)))
        publish(store)
        (tmp_path / "data" / ".distil-01.tmp").write_bytes(b"half")
        [finding] = clean(store).removed
        assert (finding.objects, finding.bytes) == (1, 4)
        assert list(Path(tmp_path).rglob(".distil-*")) == []


def test_destinations_are_found_by_their_claims(store):
    """A folder of other files was taken for a dataset, or an instance of a mapped task was not found."""
    for name in ("", "a", "a/map-00000", "a/map-00001", "b c"):
        begin(MemoryStore(store.uri / name))
    for name in ("other/file.parquet", "no/_distil/claims/notes.txt", "x_distil/claims/000001.json"):
        store.put(name, b"")
    assert sorted(find_destinations(store)) == ["", "a", "a/map-00000", "a/map-00001", "b c"]
