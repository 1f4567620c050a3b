"""URIs as Airflow users write them."""

from __future__ import annotations

import builtins

import pytest

from airflow_distil.datasets.manifest import Identity
from airflow_distil.datasets.stores import FileStore
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.hooks.storage import destination_of, scratch_dir, store_for


def identity(**fields):
    return Identity(**{"dag_id": "dag", "task_id": "task", "run_id": "run", **fields})


def test_a_plain_uri_opens_its_store(tmp_path):
    """Local paths need no connection, no provider and no network."""
    store = store_for(URI.parse(f"{tmp_path}/a"))
    assert isinstance(store, FileStore)
    store.put("x", b"1")
    assert (tmp_path / "a" / "x").read_bytes() == b"1"


def test_a_connection_for_local_files_is_refused():
    """A connection id that is ignored lets users believe that it is used."""
    with pytest.raises(TaskDefinitionError, match=r"takes no connection\. Leave 'my_conn' out"):
        store_for(URI.parse("file://my_conn@/data"))


def test_without_the_google_provider_a_connection_says_what_to_install(monkeypatch):
    """An ImportError of a module that the user never heard of."""
    real = builtins.__import__

    def refuses(name, *args, **kwargs):
        if name.startswith("airflow.providers.google"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuses)
    with pytest.raises(TaskDefinitionError, match=r"pip install apache-airflow-providers-google"):
        store_for(URI.parse("gs://my_conn@bucket/data"))


def test_the_default_destination_keeps_each_part_in_one_folder(monkeypatch):
    """A run id with a slash, or one that is `..`, must not lead out of its folder."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", "gs://bucket/root/")
    uri = destination_of(None, Identity(dag_id="a.b", task_id="group.task", run_id="manual__2026-01-01T00:00:00+00:00/é"))
    assert str(uri) == "gs://bucket/root/a.b/group.task/manual__2026-01-01T00%3A00%3A00%2B00%3A00%2F%C3%A9"


@pytest.mark.parametrize("part", [".", ".."])
def test_parts_that_are_dots_do_not_move_the_destination(monkeypatch, part):
    """`quote` leaves dots alone: a task of that name would write into the folder of its DAG, or beside it."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", "/root")
    assert destination_of(None, Identity(dag_id="dag", task_id=part, run_id="run")).key.count("/") == 3


def test_options_come_from_the_configuration(monkeypatch):
    """An empty option is none, not the current folder."""
    monkeypatch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", "")
    assert scratch_dir() is None
    monkeypatch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", "/scratch")
    assert scratch_dir() == "/scratch"
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", "")
    with pytest.raises(TaskDefinitionError, match="No destination"):
        destination_of(None, Identity(dag_id="d", task_id="t", run_id="r"))


@pytest.mark.parametrize(
    ("instance", "folder"),
    [
        ({}, ""),
        ({"map_index": 3}, "/map-00003"),
        ({"iteration": 2}, "/loop-00002"),
        ({"iteration": 2, "map_index": 3}, "/loop-00002/map-00003"),
    ],
)
def test_no_two_instances_share_a_destination(instance, folder):
    """Two mapped instances, or two passes of a loop, that wrote to one place would supersede each other."""
    assert (
        str(destination_of("gs://bucket/out", Identity(dag_id="d", task_id="t", run_id="r", **instance)))
        == f"gs://bucket/out{folder}"
    )


def test_a_mapped_instance_writes_below_its_index(monkeypatch):
    """Two task instances in one folder supersede each other for ever; also where the user names the destination."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", "/root")
    assert str(destination_of("gs://bucket/here/", identity(map_index=3))) == "gs://bucket/here/map-00003"
    assert str(destination_of(None, identity(map_index=0))) == "file:///root/dag/task/run/map-00000"


def test_outside_a_task_there_is_no_default(monkeypatch):
    """All notebooks of a company would write to the same folder."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", "/root")
    with pytest.raises(TaskDefinitionError, match="Outside a task"):
        destination_of(None, Identity())
