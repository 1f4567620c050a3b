"""The protocol on every store: two writers race, one result is published."""

from __future__ import annotations

import threading

import pytest

from airflow_distil.datasets.commit import Commit
from airflow_distil.datasets.manifest import Claim, Manifest
from airflow_distil.datasets.stores import MemoryStore, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import Superseded
from tests.contracts.protocol.attempts import IDENTITY

WRITERS = 4


@pytest.fixture(params=["file", "memory"])
def uri(request, tmp_path):
    if request.param == "file":
        yield URI.parse(str(tmp_path / "a root"))
    else:
        yield URI.parse(f"memory://{tmp_path.name}/a root")
        MemoryStore._buckets.pop(tmp_path.name, None)


def test_attempts_that_begin_together_hold_different_claims(uri):
    """Two attempts that both held claim 1 would write their facts as one, and neither would ever stop spending."""
    together = threading.Barrier(WRITERS)
    claims: list[Claim] = []

    def begin() -> None:
        commit = Commit(open_store(uri), IDENTITY, "ask")
        together.wait()
        begun = commit.begin("work")
        assert isinstance(begun, Claim)
        claims.append(begun)

    threads = [threading.Thread(target=begin) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.number for claim in claims) == [1, 2, 3, 4]
    assert len({claim.nonce for claim in claims}) == WRITERS


def test_attempts_that_publish_together_publish_one_edition(uri):
    """With list-then-write instead of put-if-absent both would think that they published, and one dataset would be lost."""
    commits = [Commit(open_store(uri), IDENTITY, "ask") for _ in range(WRITERS)]
    for commit in commits:
        commit.begin("work")
    together = threading.Barrier(WRITERS)
    results: list[Manifest | Superseded] = []

    def publish(commit: Commit) -> None:
        together.wait()
        try:
            results.append(commit.publish({"rows": 1}))
        except Superseded as error:
            results.append(error)

    threads = [threading.Thread(target=publish, args=(commit,)) for commit in commits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {manifest.sha256 for manifest in results if isinstance(manifest, Manifest)} == {commits[0].latest().sha256}
    assert len(list(open_store(uri).list("_distil/manifests/"))) == 1
