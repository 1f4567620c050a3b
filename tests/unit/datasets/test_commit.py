"""The commit protocol, paragraph by paragraph of the design."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from airflow_distil.datasets.commit import Commit
from airflow_distil.datasets.manifest import Claim, Identity, Manifest, claim_name, manifest_name
from airflow_distil.datasets.stores import MemoryStore, create
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DestinationError, Superseded

IDENTITY = Identity(dag_id="dag", task_id="task", run_id="run")


@pytest.fixture
def store():
    bucket = uuid.uuid4().hex
    yield MemoryStore(URI.parse(f"memory://{bucket}/dataset"))
    MemoryStore._buckets.pop(bucket, None)


class Spy:
    """A store that lets a test in before a verb, and can lose replies."""

    def __init__(self, store, before=lambda verb, name: None, lose=lambda verb, name: False):
        self.store, self.before, self.lose = store, before, lose
        self.verbs = []

    def __str__(self):
        return str(self.store)

    def put(self, name, data):
        self._seen("put", name)
        self.store.put(name, data)
        if self.lose("put", name):
            self.store.put(name, data)

    def get(self, name, start=0, length=None, version=None):
        self._seen("get", name)
        return self.store.get(name, start, length, version)

    def list(self, prefix=""):
        self._seen("list", prefix)
        return self.store.list(prefix)

    def delete(self, name):
        self._seen("delete", name)
        self.store.delete(name)

    def _seen(self, verb, name):
        self.verbs.append((verb, name))
        self.before(verb, name)


class Unfenced(MemoryStore):
    """A store whose put overwrites, as some FUSE mounts and S3 clones do."""

    def put(self, name: str, data: bytes | Path) -> None:
        self.delete(name)
        super().put(name, data)


def commit_of(store, ask="ask 1", identity=IDENTITY, **options) -> Commit:
    return Commit(store, identity, ask, **options)


def claimed(store, ask="ask 1", fingerprint="work", on_existing="reuse", **options) -> Commit:
    commit = commit_of(store, ask, **options)
    assert isinstance(commit.begin(fingerprint, on_existing), Claim)
    return commit


def published(store, ask="ask 1", fingerprint="work", on_existing="reuse", **counts) -> Manifest:
    return claimed(store, ask, fingerprint, on_existing).publish(counts)


def claims(store) -> list[Claim]:
    return [Claim.model_validate_json(store.get(entry.name)) for entry in store.list("_distil/claims/")]


class TestClaim:
    def test_first_claim_says_whose_work_it_is(self, store):
        """A claim without the identity could not refuse another task later, nor tell a person who runs."""
        claim = claimed(store, try_number=3).claim
        assert (claim.number, claim.edition, claim.round, claim.ask, claim.try_number) == (1, 1, 1, "ask 1", 3)
        assert claim.identity == IDENTITY
        assert claims(store) == [claim]

    def test_second_attempt_takes_the_next_number(self, store):
        """A retry that took over its predecessor's claim would write into the same folders."""
        first, second = claimed(store).claim, claimed(store).claim
        assert second.number == 2
        assert first.folder != second.folder

    def test_claim_taken_meanwhile_is_not_taken_again(self, store):
        """Between listing and putting another attempt can claim; both would hold one number."""
        other = []

        def before(verb, name):
            if verb == "put" and not other:
                other.append(claimed(store))

        commit = commit_of(Spy(store, before))
        claim = commit.begin("work")
        assert claim.number == 2
        assert other[0].claim.number == 1

    def test_lost_reply_of_a_claim_is_recognised(self, store):
        """The client's own retry meets its own claim; taken for another's, it would leave a claim behind that nobody holds."""
        spy = Spy(store, lose=lambda verb, name: verb == "put" and name == claim_name(1))
        claim = commit_of(spy).begin("work")
        assert claim.number == 1
        assert claims(store) == [claim]

    def test_edition_published_meanwhile_is_the_answer(self, store):
        """An attempt that lost the race for a claim must look again whether there is anything left to do."""
        done = []

        def before(verb, name):
            if verb == "put" and not done:
                done.append(published(store))

        assert commit_of(Spy(store, before)).begin("work").sha256 == done[0].sha256
        assert len(claims(store)) == 1

    def test_claims_beyond_a_million_are_in_order(self, store):
        """Sorted as text, 1000000 comes before 999999, and its holder would never be seen."""
        for number in (999_999, 1_000_000):
            claim = Claim(number=number, nonce="0" * 16, identity=IDENTITY, ask="a", round=1, edition=1, fingerprint="f")
            store.put(claim_name(number), claim.to_bytes())
        assert claimed(store).claim.number == 1_000_001

    def test_files_of_others_among_the_claims_are_ignored(self, store):
        """A temporary file of a sync tool must not stop the destination for ever."""
        store.put("_distil/claims/000001.json.tmp", b"")
        store.put("_distil/claims/.DS_Store", b"")
        assert claimed(store).claim.number == 1

    def test_before_begin_there_is_no_claim(self, store):
        """A programming error must not look like claim None in a path."""
        with pytest.raises(RuntimeError, match="not begun"):
            _ = commit_of(store).claim


class TestOwner:
    def test_another_task_is_refused_before_anything_is_written(self, store):
        """Two tasks with one destination would publish over each other for ever, each green."""
        claimed(store)
        other = commit_of(store, identity=Identity(dag_id="dag", task_id="other", run_id="run"))
        with pytest.raises(DestinationError, match=r"belongs to task 'task' of DAG 'dag'.*task 'other'.*Nothing was written"):
            other.begin("work")
        assert len(claims(store)) == 1

    def test_same_task_of_another_dag_is_refused(self, store):
        """Task ids repeat across DAGs."""
        claimed(store)
        with pytest.raises(DestinationError, match="DAG 'dag'"):
            commit_of(store, identity=Identity(dag_id="other", task_id="task")).begin("work")

    def test_another_run_of_the_same_task_is_welcome(self, store):
        """A fixed destination is shared by all runs: that is how a nightly dataset grows cheap."""
        claimed(store)
        assert claimed(store, identity=Identity(dag_id="dag", task_id="task", run_id="next")).claim.number == 2

    def test_owner_is_checked_before_the_published_edition_is_returned(self, store):
        """With the same fingerprint, the other task's dataset would come back as this one's."""
        published(store)
        with pytest.raises(DestinationError, match="belongs to"):
            commit_of(store, identity=Identity(dag_id="dag", task_id="other")).begin("work")

    def test_two_tasks_that_begin_together_do_not_share(self, store):
        """The owner check reads an empty list when nobody has claimed yet."""
        done = []

        def before(verb, name):
            if verb == "put" and not done:
                done.append(claimed(store))

        other = commit_of(Spy(store, before), identity=Identity(dag_id="dag", task_id="other"))
        with pytest.raises(DestinationError, match="belongs to"):
            other.begin("work")


class TestLook:
    def test_alone_it_goes_on(self, store):
        """A look that fails without a reason stops every run."""
        claimed(store).look()

    def test_higher_claim_stops_it_and_says_who(self, store):
        """Without the name nobody finds the other process; without the stop both pay."""
        old = claimed(store)
        claimed(store, try_number=7)
        with pytest.raises(
            Superseded, match=r"attempt 1 .* superseded by attempt 2 \(try 7 on .*\)\. What this one paid for is kept"
        ):
            old.look()

    def test_newer_attempt_is_not_stopped_by_an_older_one(self, store):
        """Comparing for 'another claim' instead of 'a higher one' would stop both, and nobody would ever finish."""
        claimed(store)
        claimed(store).look()

    def test_deleted_destination_is_named(self, store):
        """Whoever deletes a destination while it is written must not get half a dataset published into it."""
        commit = claimed(store)
        store.delete(claim_name(1))
        with pytest.raises(DestinationError, match="deleted while it was being written"):
            commit.look()

    def test_deleted_lower_claims_do_not_matter(self, store):
        """Upkeep deletes old claims; the numbers go on from the highest."""
        for _ in range(3):
            claimed(store)
        store.delete(claim_name(2))
        commit = claimed(store)
        commit.look()
        assert commit.claim.number == 4


class TestPublish:
    def test_the_manifest_carries_claim_and_content(self, store):
        """Who reads an edition must find the attempt that made it."""
        commit = claimed(store)
        manifest = commit.publish({"rows": 3, "ok": 3})
        stored = Manifest.parse(store.get(manifest_name(1)))
        assert stored.sha256 == manifest.sha256
        assert (stored.claim, stored.nonce, stored.ask, stored.round, stored.fingerprint, stored.rows, stored.fencing) == (
            1,
            commit.claim.nonce,
            "ask 1",
            1,
            "work",
            3,
            "put-if-absent",
        )

    def test_lost_reply_of_the_manifest_is_success(self, store):
        """Else the dataset is published and the task red, or worse, published a second time."""
        spy = Spy(store, lose=lambda verb, name: name == manifest_name(1))
        manifest = claimed(spy).publish({"rows": 1})
        assert manifest.edition == 1
        assert len(list(store.list("_distil/manifests/"))) == 1

    def test_superseded_attempt_does_not_publish(self, store):
        """The newer attempt may run other code; the older one's result must not appear under its feet."""
        old = claimed(store)
        claimed(store)
        with pytest.raises(Superseded):
            old.publish({"rows": 1})
        assert commit_of(store).latest() is None

    def test_same_work_published_meanwhile_is_adopted(self, store):
        """A zombie that finished first made the same dataset: one more edition would be paid for by every reader downstream."""
        zombie = claimed(store)
        newer = claimed(store)
        first = self._publish_unseen(zombie, store, rows=1)
        adopted = newer.publish({"rows": 1, "model": "mine"})
        assert adopted.sha256 == first.sha256
        assert len(claims(store)) == 2
        assert len(list(store.list("_distil/manifests/"))) == 1

    @pytest.mark.parametrize(("ask", "fingerprint"), [("ask 1", "changed code"), ("ask 2", "work")])
    def test_other_work_published_meanwhile_makes_ours_the_next_edition(self, store, ask, fingerprint):
        """Adopting it would return the dataset of the old code (or of before the clear) as if it were new."""
        zombie = claimed(store, "ask 1", "work")
        newer = claimed(store, ask, fingerprint)
        self._publish_unseen(zombie, store, rows=1)
        ours = newer.publish({"rows": 2})
        assert (ours.edition, ours.claim, ours.rows, ours.fingerprint, ours.ask) == (2, 3, 2, fingerprint, ask)
        assert [claim.round for claim in claims(store)] == [1, 1, 1]
        assert commit_of(store).latest().sha256 == ours.sha256

    def test_only_the_highest_claim_may_go_on_to_the_next_edition(self, store):
        """Two attempts of different work would otherwise outbid each other with editions."""
        newest = []

        def before(verb, name):
            if (verb, name) == ("put", manifest_name(1)) and not newest:
                newest.append(published(store, "ask 2", "changed code"))

        old = claimed(Spy(store, before))
        with pytest.raises(Superseded):
            old.publish({"rows": 1})
        assert commit_of(store).latest().sha256 == newest[0].sha256
        assert len(list(store.list("_distil/manifests/"))) == 1

    def test_an_edition_keeps_its_parts_of_the_first_claim(self, store):
        """The parts lie under the claim that wrote them; claiming again must not lose them."""
        zombie = claimed(store)
        newer = claimed(store, "ask 2", "changed")
        self._publish_unseen(zombie, store, rows=1)
        path = f"data/{newer.claim.folder}/part-00000.parquet"
        store.put(path, b"rows")
        part = {"path": path, "rows": 1, "bytes": 4, "sha256": "0" * 64}
        assert newer.publish({"parts": [part]}).parts[0].path == path

    @staticmethod
    def _publish_unseen(zombie: Commit, store, **content) -> Manifest:
        """Publish as an attempt that was paused between its look and its put."""
        zombie.look = lambda: None
        return zombie.publish(content)


class TestExisting:
    def test_same_work_of_the_same_ask_is_returned(self, store):
        """A retry after a lost worker would pay for everything again."""
        first = published(store, failed=1, rows=2)
        assert commit_of(store).begin("work").sha256 == first.sha256
        assert commit_of(store).begin("work", "regenerate").sha256 == first.sha256
        assert commit_of(store).begin("work", "fail").sha256 == first.sha256
        assert len(claims(store)) == 1

    def test_changed_code_in_the_same_ask_is_made(self, store):
        """Whoever fixes a prompt and retries must not get the old rows."""
        published(store)
        assert claimed(store, "ask 1", "changed").claim.edition == 2

    def test_changed_code_in_the_same_ask_is_no_clash_with_fail(self, store):
        """`fail` is about other asks: it must not refuse the retry of this one."""
        published(store)
        assert claimed(store, "ask 1", "changed", "fail").claim.edition == 2

    def test_reuse_returns_the_edition_without_failures(self, store):
        """A cleared task with nothing to improve must cost nothing."""
        first = published(store, rows=2, ok=1, skipped=1)
        assert commit_of(store, "ask 2").begin("work", "reuse").sha256 == first.sha256

    @pytest.mark.parametrize("bad", ["failed", "unparsed"])
    def test_reuse_asks_again_what_failed(self, store, bad):
        """Clearing is how people ask for the failed rows."""
        published(store, rows=2, ok=1, **{bad: 1})
        assert claimed(store, "ask 2").claim.edition == 2

    def test_reuse_compares_with_the_latest_edition_only(self, store):
        """After code A, then B, then A again, the latest is B: returning the first edition would put time back silently."""
        published(store, "ask 1", "A")
        published(store, "ask 2", "B")
        assert claimed(store, "ask 3", "A").claim.edition == 3

    def test_fail_refuses_the_edition_of_another_ask(self, store):
        """`fail` that overwrote would be `regenerate`."""
        published(store)
        with pytest.raises(DestinationError, match=r"has edition 1.*on_existing is 'fail'.*Nothing was asked"):
            commit_of(store, "ask 2").begin("work", "fail")
        assert len(claims(store)) == 1

    def test_fail_with_nothing_there_begins(self, store):
        """`fail` must not refuse the first run, nor one that continues a crash."""
        claimed(store, "ask 1", "work", "fail")
        assert claimed(store, "ask 2", "work", "fail").claim.number == 2


class TestRound:
    def test_regenerate_after_publication_is_a_new_round(self, store):
        """In the old round every answer would come from the log, and nothing would be regenerated."""
        published(store)
        assert claimed(store, "ask 2", "work", "regenerate").claim.round == 2

    def test_retry_of_a_regeneration_stays_in_its_round(self, store):
        """A crash while regenerating must not pay a second time."""
        published(store)
        claimed(store, "ask 2", "work", "regenerate")
        assert claimed(store, "ask 2", "work", "regenerate").claim.round == 2

    def test_clear_of_an_unpublished_regeneration_stays_in_its_round(self, store):
        """What was regenerated and never published is as good as new."""
        published(store)
        claimed(store, "ask 2", "work", "regenerate")
        assert claimed(store, "ask 3", "work", "regenerate").claim.round == 2

    def test_clear_of_a_published_regeneration_is_the_next_round(self, store):
        """Whoever clears with `regenerate` wants new answers each time."""
        published(store)
        published(store, "ask 2", "work", "regenerate")
        assert claimed(store, "ask 3", "work", "regenerate").claim.round == 3

    def test_first_regenerate_of_all_is_round_one(self, store):
        """A DAG that always says `regenerate` must resume its first crash too."""
        assert claimed(store, "ask 1", "work", "regenerate").claim.round == 1
        assert claimed(store, "ask 1", "work", "regenerate").claim.round == 1
        assert claimed(store, "ask 2", "work", "regenerate").claim.round == 1

    def test_reuse_after_a_regeneration_uses_its_answers(self, store):
        """Going back to round 1 would publish the answers that somebody wanted replaced."""
        published(store)
        published(store, "ask 2", "work", "regenerate", failed=1)
        assert claimed(store, "ask 3", "work", "reuse").claim.round == 2

    def test_reuse_after_an_unpublished_regeneration_of_another_uses_the_edition(self, store):
        """The round that somebody began and left has no answers: all that is paid would be asked once more."""
        published(store, failed=1)
        claimed(store, "ask 2", "work", "regenerate")
        assert claimed(store, "ask 3", "work", "reuse").claim.round == 1

    def test_retry_of_a_regeneration_as_reuse_stays_in_its_round(self, store):
        """Who regenerates, crashes, and sets the option back before the retry has paid for the new round."""
        published(store, failed=1)
        claimed(store, "ask 2", "work", "regenerate")
        assert claimed(store, "ask 2", "work", "reuse").claim.round == 2

    def test_regenerate_after_a_reuse_goes_to_the_highest_round(self, store):
        """The highest claim is not the one with the highest round."""
        published(store, failed=1)
        claimed(store, "ask 2", "work", "regenerate")
        claimed(store, "ask 3", "work", "reuse")
        assert claimed(store, "ask 4", "work", "regenerate").claim.round == 2

    def test_own_edition_with_other_code_keeps_the_round(self, store):
        """Changed code on a retry of a regeneration pays for what changed, not for a third set of answers."""
        published(store)
        published(store, "ask 2", "work", "regenerate")
        assert claimed(store, "ask 2", "changed", "regenerate").claim.round == 2

    def test_others_edition_of_the_round_counts_behind_ones_own(self, store):
        """Round 1: edition 1 by ask 1, edition 2 by ask 2 with reuse. Ask 2 retried with regenerate asks for new answers."""
        published(store, "ask 1", "A")
        published(store, "ask 2", "B")
        assert claimed(store, "ask 2", "C", "regenerate").claim.round == 2


class TestFencing:
    def test_store_that_overwrites_is_found_out(self, store):
        """Fencing that is not there must be said in the manifest, not found out by a lost dataset."""
        unfenced = Unfenced(store.uri)
        commit = claimed(unfenced)
        assert not commit.fences
        assert commit.publish({"rows": 1}).fencing == "none"

    def test_unfenced_store_still_serves_one_attempt_after_another(self, store):
        """A probe that destroyed the claim would break sequential use."""
        unfenced = Unfenced(store.uri)
        first = claimed(unfenced).publish({"rows": 1, "failed": 1})
        second = claimed(unfenced, "ask 2").publish({"rows": 1})
        assert (first.edition, second.edition) == (1, 2)

    def test_store_that_fences_is_probed_once_per_claim(self, store):
        """Each probe is a paid request at an object store; one tells enough."""
        spy = Spy(store)
        commit = claimed(spy)
        assert commit.fences
        assert spy.verbs.count(("put", claim_name(1))) == 2
        commit.publish({"rows": 1})
        assert spy.verbs.count(("put", claim_name(1))) == 2


class TestDamage:
    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "airflow-distil/2"}', b"\xff\xfe"])
    def test_damaged_manifest_is_named(self, store, content):
        """Guessing past it would publish over somebody's edition; a bare validation error does not say which file."""
        claimed(store)
        store.put(manifest_name(1), content)
        with pytest.raises(DestinationError, match=r"manifests/000001\.json is no manifest of this version"):
            commit_of(store).begin("work")

    @pytest.mark.parametrize("content", [b"", b"null", b'{"format": "airflow-distil/2", "number": 1}'])
    def test_damaged_claim_is_named(self, store, content):
        """The owner cannot be read from it, so nobody may write."""
        store.put(claim_name(1), content)
        with pytest.raises(DestinationError, match=r"claims/000001\.json is no claim of this version"):
            commit_of(store).begin("work")

    def test_damaged_higher_claim_stops_the_older_attempt(self, store):
        """A claim of a newer version of this package is unreadable here, and supersedes all the same."""
        commit = claimed(store)
        store.put(claim_name(2), b'{"format": "airflow-distil/2"}')
        with pytest.raises((Superseded, DestinationError)):
            commit.look()

    def test_damage_is_described_without_its_content(self, store):
        """What lies in somebody else's file may be a secret, and errors go to logs."""
        store.put(claim_name(1), json.dumps({"nonce": "hunter2-is-my-password"}).encode())
        with pytest.raises(DestinationError) as caught:
            commit_of(store).begin("work")
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("name", [manifest_name, claim_name])
    def test_a_document_without_end_is_not_read(self, store, name, monkeypatch):
        """Two gigabytes under the name of a manifest were read into memory by whoever came next."""
        monkeypatch.setattr("airflow_distil.datasets.manifest.DOCUMENT_BYTES", 2**20)
        asked = []
        spy = Spy(store)
        spy.get = lambda name, start=0, length=None, version=None: (
            asked.append(length) or store.get(name, start, length, version)
        )
        claimed(spy)
        store.delete(name(1))
        store.put(name(1), b" " * 2**22)
        with pytest.raises(DestinationError, match="larger than 1 MiB"):
            commit_of(spy).begin("work")
        assert None not in asked
        assert max(asked) == 2**20 + 1

    def test_a_taken_name_is_compared_with_as_much_as_was_meant(self, store):
        """To see whether a name holds our own bytes, all that anybody put there was read."""
        asked = []
        spy = Spy(store)
        spy.get = lambda name, start=0, length=None, version=None: (
            asked.append(length) or store.get(name, start, length, version)
        )
        store.put("x", b" " * 2**20)
        assert not create(spy, "x", b"mine")
        assert asked == [5]

    def test_nobody_publishes_what_nobody_reads(self, store, monkeypatch):
        """A manifest over the limit was put, and the dataset was there and could not be opened."""
        commit = claimed(store)
        monkeypatch.setattr("airflow_distil.datasets.commit.DOCUMENT_BYTES", 100)
        with pytest.raises(DestinationError, match=r"no reader takes more.*answers are kept"):
            commit.publish({"rows": 1})
        assert not list(store.list("_distil/manifests/"))

    @pytest.mark.parametrize(
        "name", ["9" * 5000, "4294967296", "1", "\u0661\u0662\u0663\u0664\u0665\u0666", "000001.json\n", "-00001"]
    )
    def test_a_name_that_is_no_number_is_none(self, store, name):
        """`int` refuses 5,000 digits, and the log has no room for more than nine: one object stopped all attempts for ever."""
        store.put(f"_distil/claims/{name}.json", b"{}")
        assert claimed(store).claim.number == 1

    def test_a_document_under_another_number_is_refused(self, store):
        """Edition 3 in the place of edition 2 made the next one number 4, beside a gap that readers fall into."""
        manifest = published(store)
        store.put(manifest_name(2), manifest.to_bytes())
        with pytest.raises(DestinationError, match="is of edition 1"):
            commit_of(store).latest()

    def test_fields_of_a_newer_minor_version_are_ignored(self, store):
        """A rolling update runs both versions at one destination."""
        manifest = published(store)
        document = json.loads(manifest.to_bytes()) | {"colour": "blue"}
        store.delete(manifest_name(1))
        store.put(manifest_name(1), json.dumps(document).encode())
        assert commit_of(store).latest().fingerprint == "work"
