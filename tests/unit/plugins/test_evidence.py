"""An XCom can be edited by whoever may do that in Airflow: what it leads to is believed only if it belongs to the task."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from airflow_distil.datasets.uri import URI
from airflow_distil.plugins import evidence
from airflow_distil.plugins.attempts import attempts
from airflow_distil.plugins.evidence import Place, Problem, believe, within_roots
from airflow_distil.testing import FakeLLM
from tests.unit.operators.attempts import attempt

PLACE = Place("dag", "run", "task", -1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset root, and so the only folder that the UI reads."""
    evidence._opened.cache_clear()
    folder = tmp_path / "root"
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(folder))
    return folder


@pytest.fixture
def summary(root: Path) -> dict[str, Any]:
    """What a task instance has returned."""
    return published()


def published(**of: Any) -> dict[str, Any]:
    from airflow_distil.operators import TextGenerationOperator

    with FakeLLM() as llm, llm.as_connection("distil_llm_default"):
        source = [{"instruction": "one"}, {"instruction": "two"}]
        return attempt(TextGenerationOperator(task_id="task", source=source), **of)


def why(summary: Any, place: Place = PLACE) -> str:
    with pytest.raises(Problem) as caught:
        _ = believe(summary, place).table
    return caught.value.kind


def test_what_a_task_published_is_believed(summary):
    """The rule was so strict that nothing was shown."""
    dataset = believe(summary, PLACE)
    assert dataset.table.rows == 2
    assert dataset.outputs == ["generation"]


@pytest.mark.parametrize("summary", [None, 1, "file:///etc/passwd", [], {}, {"format": "airflow-distil/2"}, {"uri": "/"}])
def test_what_is_no_summary_is_nothing(root, summary):
    """A task of another package, or one that returned something else, was an error of the page."""
    assert why(summary) == "nothing"


def test_another_tasks_dataset_is_not_shown(summary, root):
    """Who may see one DAG and edit its XComs could read every other's rows."""
    other = published(dag_id="secret")
    assert why(other) == "foreign"
    assert believe(other, PLACE._replace(dag_id="secret")).table.rows == 2
    assert why(summary, PLACE._replace(task_id="other")) == "foreign"


@pytest.mark.parametrize(
    "change",
    [
        lambda given: {"sha256": "0" * 64},
        lambda given: {"manifest": given["manifest"].replace("000001", "1")},
        lambda given: {"manifest": given["manifest"].replace("_distil/", "")},
        lambda given: {"uri": "relative"},
        lambda given: {"uri": "file:///a/../b"},
        lambda given: {"uri": "https://user:secret@host/x"},
        lambda given: {"uri": 7},
        lambda given: {"manifest": None},
    ],
)
def test_an_edited_summary_is_not_believed(summary, change):
    """A summary with one field of somebody's choice led somewhere."""
    assert why({**summary, **change(summary)}) == "foreign"


def test_outside_the_roots_nothing_is_read(summary, root, monkeypatch, tmp_path):
    """The API server reads what its account may read: of that, pages are for the datasets."""
    for folder, expected in (
        (tmp_path / "roo", "outside"),
        (root / "dag2", "outside"),
        ("gs://bucket", "outside"),
        ("", "no_roots"),
    ):
        monkeypatch.setenv("AIRFLOW__DISTIL__UI_ROOTS", str(folder))
        if not folder:
            monkeypatch.delenv("AIRFLOW__DISTIL__DATASET_ROOT")
        assert why(summary) == expected


def test_a_link_does_not_lead_out_of_a_root(summary, root, monkeypatch, tmp_path):
    """A link in a shared folder made the API server read what its maker may not."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(root)
    monkeypatch.setenv("AIRFLOW__DISTIL__UI_ROOTS", str(inside))
    moved = {name: str(summary[name]).replace(str(root), str(inside / "link")) for name in ("uri", "manifest")}
    assert why({**summary, **moved}) == "outside"


@pytest.mark.parametrize(
    ("root", "uri", "inside"),
    [
        ("gs://conn@bucket/a", "gs://conn@bucket/a/b", True),
        ("gs://conn@bucket/a", "gs://conn@bucket/ab", False),
        ("gs://conn@bucket/a", "gs://bucket/a/b", False),
        ("gs://bucket/a", "gs://admin@bucket/a/b", False),
        ("gs://bucket", "gs://bucket/a", True),
        ("gs://bucket", "s3://bucket/a", False),
        ("gs://other, \n gs://bucket/x", "gs://bucket/x", True),
    ],
)
def test_a_root_is_a_folder_with_its_connection(monkeypatch, root, uri, inside):
    """An edited XCom chose which of Airflow's connections a bucket was read with."""
    monkeypatch.setenv("AIRFLOW__DISTIL__UI_ROOTS", root)
    monkeypatch.setattr(evidence, "store_for", str)
    if inside:
        assert within_roots(URI.parse(uri)) == uri
    else:
        with pytest.raises(Problem) as caught:
            within_roots(URI.parse(uri))
        assert caught.value.kind == "outside"


def test_what_is_gone_or_broken_is_told_without_content(summary, root):
    """An error that quotes what it could not read shows a file that nobody was to see."""
    (manifest,) = root.rglob("_distil/manifests/000001.json")
    content = manifest.read_bytes()
    manifest.write_text("root:x:0:0:secret")
    with pytest.raises(Problem) as caught:
        believe(summary, PLACE)
    assert caught.value.kind == "unreadable"
    assert "secret" not in str(caught.value.told)
    manifest.write_bytes(content)
    (part,) = root.rglob("part-*.parquet")
    part.unlink()
    assert why(summary) == "gone"
    manifest.unlink()
    evidence._opened.cache_clear()
    assert why(summary) == "gone"


def test_a_manifest_that_names_other_datasets_stays_in_the_roots(summary, root, monkeypatch, tmp_path):
    """A list of datasets led out of the roots through its members."""
    import airflow_distil

    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path / "elsewhere"))
    listed = airflow_distil.publish([summary], str(tmp_path / "lists"))
    monkeypatch.setenv("AIRFLOW__DISTIL__UI_ROOTS", str(tmp_path / "lists"))
    assert why(listed, Place("", "", "", -1)) == "outside"
    monkeypatch.setenv("AIRFLOW__DISTIL__UI_ROOTS", f"{tmp_path / 'lists'}, {root}")
    evidence._opened.cache_clear()
    assert believe(listed, Place("", "", "", -1)).table.rows == 2


def test_attempts_are_told_to_their_owner_only(summary, root):
    """What a task paid is nobody else's business; and what it paid once is counted once."""
    store = within_roots(URI.parse(summary["uri"]))
    told = attempts(store, PLACE)
    (one,) = told["attempts"]
    assert (one["claim"], one["answers"], one["edition"]) == (1, 2, 1)
    assert (one["input_tokens"], one["output_tokens"]) == (summary["input_tokens"], summary["output_tokens"])
    assert attempts(store, PLACE._replace(run_id="another"))["others"] == 1
    with pytest.raises(LookupError):
        attempts(store, PLACE._replace(dag_id="another"))


def test_the_checksum_is_that_of_the_stored_bytes(summary, root):
    """A test of the tests above: the summary names the file that is there."""
    (manifest,) = root.rglob("_distil/manifests/000001.json")
    assert hashlib.sha256(manifest.read_bytes()).hexdigest() == summary["sha256"]
