"""Claims and manifests: what is read back from storage is not trusted."""

from __future__ import annotations

import hashlib
import json

import pytest
from pydantic import ValidationError

from airflow_distil.datasets.manifest import FORMAT, Claim, Identity, Manifest, Part, claim_name, manifest_name

PART = {"path": "data/000001-0123456789abcdef/part-00000.parquet", "rows": 2, "bytes": 10, "sha256": "0" * 64}


def manifest(**fields) -> Manifest:
    made = {"edition": 1, "claim": 1, "nonce": "0" * 16, "identity": Identity(), "ask": "a", "round": 1, "fingerprint": "f"}
    return Manifest(**{**made, **fields})


def test_names_sort_as_numbers():
    """Stores list by name; without zeros edition 10 would come before edition 9."""
    assert sorted([claim_name(10), claim_name(9)]) == [claim_name(9), claim_name(10)]
    assert manifest_name(1) == "_distil/manifests/000001.json"


def test_identity_ignores_no_part_of_itself():
    """Two task instances with one key would share an ask, and one would return the other's dataset."""
    one = Identity(dag_id="d", task_id="t", run_id="r", map_index=1)
    others = [
        Identity(dag_id="x", task_id="t", run_id="r", map_index=1),
        Identity(dag_id="d", task_id="x", run_id="r", map_index=1),
        Identity(dag_id="d", task_id="t", run_id="x", map_index=1),
        Identity(dag_id="d", task_id="t", run_id="r", map_index=2),
        Identity(dag_id="d", task_id="tr", run_id="", map_index=1),
        Identity(dag_id="dt", task_id="", run_id="r", map_index=1),
    ]
    assert len({identity.key for identity in [one, *others]}) == 7


def test_ask_changes_with_a_clear_and_not_with_a_retry():
    """A retry that looked like a clear would ask every failed row again; a clear that looked like a retry would do nothing."""
    identity = Identity(dag_id="d", task_id="t", run_id="r")
    ask = identity.ask(1, "2026-01-01")
    assert ask == identity.ask(1, "2026-01-01")
    assert (
        len({ask, identity.ask(2, "2026-01-01"), identity.ask(1, "2026-01-02"), Identity(dag_id="d").ask(1, "2026-01-01")}) == 4
    )
    assert len(bytes.fromhex(ask)) == 16


def test_identity_keys_are_stable():
    """The key is in every log; a new hash would make all of them strangers."""
    assert Identity(dag_id="d", task_id="t", run_id="r", map_index=-1).key == Identity(dag_id="d", task_id="t", run_id="r").key
    assert Identity().key == "d18307eaa2042fbe2a738347fdf4347d"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "data/../../x", "data//x", "", ".", "data/./x", "a\\b", "data/x/"]
)
def test_part_outside_the_destination_is_refused(path):
    """Who can write a manifest could otherwise make its readers open any file of theirs."""
    with pytest.raises(ValidationError, match="plain path"):
        Part(**{**PART, "path": path})


@pytest.mark.parametrize("wrong", [{"rows": -1}, {"bytes": -1}, {"sha256": "abc"}, {"sha256": "G" * 64}])
def test_part_with_impossible_figures_is_refused(wrong):
    """A damaged count would be found out after the rows were used."""
    with pytest.raises(ValidationError):
        Part(**{**PART, **wrong})


@pytest.mark.parametrize(
    "wrong", [{"number": 0}, {"nonce": "short"}, {"nonce": "../../../../../."}, {"round": 0}, {"edition": 0}]
)
def test_claim_with_impossible_figures_is_refused(wrong):
    """The nonce becomes part of a path."""
    fields = {"number": 1, "nonce": "0" * 16, "identity": Identity(), "ask": "a", "round": 1, "edition": 1, "fingerprint": "f"}
    Claim(**fields)
    with pytest.raises(ValidationError):
        Claim(**{**fields, **wrong})


def test_another_format_is_refused():
    """An older version would misread a newer document."""
    document = json.loads(manifest().to_bytes()) | {"format": "airflow-distil/2"}
    with pytest.raises(ValidationError):
        Manifest.parse(json.dumps(document).encode())


def test_manifest_survives_the_round_trip():
    """What is published must be what is read."""
    one = manifest(parts=[PART], rows=2, numbers={"x": {"mean": 1.5}}, reasons={"naïve 🙂": 1}, cost_usd=0.1, input_tokens=None)
    again = Manifest.parse(one.to_bytes())
    assert again.to_bytes() == one.to_bytes()
    assert again.sha256 == one.sha256 == hashlib.sha256(one.to_bytes()).hexdigest()


def test_checksum_is_of_the_stored_bytes():
    """Recomputed from known fields only, it would differ from what another version's summary says."""
    data = json.dumps(json.loads(manifest().to_bytes()) | {"colour": "blue"}).encode()
    assert Manifest.parse(data).sha256 == hashlib.sha256(data).hexdigest()


def test_documents_cannot_be_changed():
    """A result that is changed after it was published is a lie about what is published."""
    with pytest.raises(ValidationError):
        manifest().rows = 3


def test_summary_names_the_edition_and_holds_no_rows():
    """XCom is a database column; downstream opens what the summary names."""
    one = manifest(parts=[PART], rows=2, ok=1, failed=1, columns={"a": "string"})
    summary = one.summary("gs://conn@bucket/a dataset/")
    assert summary["format"] == FORMAT
    assert summary["uri"] == "gs://conn@bucket/a dataset"
    assert summary["manifest"] == "gs://conn@bucket/a dataset/_distil/manifests/000001.json"
    assert summary["data_uri"] == "gs://conn@bucket/a dataset/data/000001-0123456789abcdef"
    assert summary["sha256"] == one.sha256
    assert (summary["rows"], summary["ok"], summary["failed"], summary["unparsed"], summary["skipped"]) == (2, 1, 1, 0, 0)
    json.dumps(summary)


def test_summary_of_a_dataset_without_files_has_no_folder():
    """The destination itself as `data_uri` would make readers glob above all attempts."""
    assert manifest().summary("/x")["data_uri"] is None
