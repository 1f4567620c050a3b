"""The maintenance operator: what it finds, what it says, and that one bad dataset does not spare it the others."""

from __future__ import annotations

import datetime as dt
import logging
import os
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_distil.datasets.stores import open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.operators import CleanDatasetsOperator
from tests.unit.engine.test_upkeep import begin, late, publish


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A dataset root."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", str(tmp_path / "scratch"))
    return tmp_path / "root"


def old(folder: Path) -> Path:
    """Make everything in a folder a month old."""
    then = (dt.datetime.now(dt.UTC) - dt.timedelta(days=30)).timestamp()
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
    return folder


def with_orphan(folder: Path) -> Path:
    return folder / late(open_store(URI.parse(str(folder)))) / "part-00000.parquet"


def clean(**arguments):
    return CleanDatasetsOperator(task_id="clean", **arguments).execute({})


def test_all_below_the_dataset_root_by_default(root, caplog):
    """Forty destinations, and somebody has to list them in a DAG that nobody keeps up to date."""
    orphans = [with_orphan(root / name) for name in ("dag/task/run 1", "dag/task/run 2/map-00000")]
    young = with_orphan(root / "dag/other")
    for orphan in orphans:
        old(orphan.parents[2])
    with caplog.at_level(logging.INFO):
        summary = clean()
    assert summary == {"datasets": 3, "objects": 2, "bytes": 32, "kept": 1, "dry_run": False}
    assert [path.exists() for path in (*orphans, young)] == [False, False, True]
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if ": removed" in line] == [
        f"file://{root}/dag/other: removed 0 (0.0 MB), kept 1 for now",
        f"file://{root}/dag/task/run 1: removed 1 (0.0 MB)",
        f"file://{root}/dag/task/run 2/map-00000: removed 1 (0.0 MB)",
    ]


def test_dry_run_names_the_folders(root, caplog):
    """A count is nothing to agree to."""
    orphan = with_orphan(root)
    old(root)
    with caplog.at_level(logging.INFO):
        assert clean(dry_run=True)["objects"] == 1
    assert orphan.exists()
    assert any(str(orphan.parent.relative_to(root)) in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("form", ["one", "list", "summary"])
def test_datasets_that_are_named(root, form):
    """The same forms as everywhere else in the package; and twice is once."""
    named, other = with_orphan(root / "named"), with_orphan(root / "other")
    old(root)
    uri = str(root / "named")
    datasets = {"one": uri, "list": [uri, f"file://{uri}"], "summary": [{"uri": uri, "format": "airflow-distil/1"}]}[form]
    assert clean(datasets=datasets)["datasets"] == 1
    assert (named.exists(), other.exists()) == (False, True)


def test_an_unreadable_dataset_does_not_stop_the_others(root):
    """The first bad manifest kept everything behind it in the alphabet from being cleaned, for ever."""
    orphan = with_orphan(root / "b")
    with_orphan(root / "a")
    (root / "a/_distil/manifests/000002.json").write_text("{}")
    old(root)
    with pytest.raises(AirflowException, match=r"1 of 2 could not be cleaned: file://.*/a: .*000002\.json") as caught:
        clean()
    assert not isinstance(caught.value, AirflowFailException)
    assert not orphan.exists()


def test_old_editions(root):
    """A list of datasets that is cleaned along keeps what it is made of; and all is kept if its manifest cannot be read."""
    stores = [open_store(URI.parse(str(root / name))) for name in ("one", "two", "whole")]
    editions = [[publish(store, f"ask {number}", f"code {number}") for number in range(2)] for store in stores[:2]]
    begin(stores[2]).publish({"members": [editions[1][0].summary(str(stores[1]))]})
    old(root)
    claim = root / "whole/_distil/manifests/000002.json"
    claim.write_text("{}")
    with pytest.raises(AirflowException, match="whole"):
        clean(keep_editions=1)
    assert len(list(root.glob("*/data/*/*.parquet"))) == 4
    claim.unlink()
    assert clean(keep_editions=1)["objects"] == 1
    left = {str(path.relative_to(root)) for path in root.glob("*/data/*/*.parquet")}
    assert left == {f"one/{editions[0][1].parts[0].path}", *(f"two/{each.parts[0].path}" for each in editions[1])}


def test_no_dataset_is_a_warning(root, caplog):
    """The first night, before there is any; but a misspelt URI should be seen."""
    assert clean(datasets=str(root / "nothing"))["datasets"] == 0
    assert "There is no dataset in or below" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grace": dt.timedelta(hours=1)}, "grace is 1:00:00; give at least 1 day"),
        ({"grace": 0}, r"grace is 0; give a timedelta"),
        ({"keep_editions": 0}, "keep_editions is 0"),
        ({"dry_run": "{{ params.dry_run }}"}, "it is no template"),
    ],
)
def test_arguments_that_would_cost_data(arguments, message):
    """They are refused while the DAG is parsed."""
    with pytest.raises(TaskDefinitionError, match=message):
        CleanDatasetsOperator(task_id="clean", **arguments)


def test_no_root_is_final(monkeypatch):
    """A retry does not set an option."""
    monkeypatch.delenv("AIRFLOW__DISTIL__DATASET_ROOT", raising=False)
    with pytest.raises(AirflowFailException, match="dataset_root"):
        clean()
