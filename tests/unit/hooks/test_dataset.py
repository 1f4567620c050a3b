"""`open_dataset` and `publish`, in and outside of a task."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from types import SimpleNamespace

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from airflow.sdk.execution_time.context import set_current_context

from airflow_distil import open_dataset, publish
from airflow_distil.datasets.stores import open_store
from airflow_distil.exceptions import DestinationError, NotPublished, SourceError, TaskDefinitionError

ROWS = [{"n": 1, "text": "a"}, {"n": 2, "text": "b"}]
TABLE = pa.Table.from_pylist(ROWS)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A dataset root of this test's own."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path / "root"))
    return tmp_path


@contextmanager
def inside(task_id="step", *, map_index=-1, try_number=1, max_tries=1, run_id="run"):
    """Be in an attempt at a task, as far as Airflow's context tells."""
    ti = SimpleNamespace(
        id=(task_id, map_index, try_number, max_tries, run_id), dag_id="dag", task_id=task_id, run_id=run_id,
        map_index=map_index, try_number=try_number, max_tries=max_tries,
    )  # fmt: skip
    with set_current_context({"ti": ti, "dag_run": SimpleNamespace(start_date="monday")}):
        yield


def rows(source):
    return open_dataset(source).to_table().to_pylist()


def polars():
    return pl.DataFrame(ROWS)


def relation():
    return duckdb.sql("SELECT * FROM (VALUES (1::BIGINT, 'a'), (2, 'b')) AS t(n, text) ORDER BY n")


DATA = {
    "rows": lambda: ROWS,
    "generator": lambda: (row for row in ROWS),
    "table": lambda: TABLE,
    "reader": TABLE.to_reader,
    "batch": lambda: TABLE.to_batches()[0],
    "duckdb relation": relation,
    "polars": polars,
}


@pytest.mark.parametrize("kind", DATA)
def test_whatever_arrow_can_stream_is_published(root, kind):
    """A kind of data that the docstring promises and that does not work."""
    summary = publish(DATA[kind](), f"{root}/out")
    assert rows(summary) == rows(f"{root}/out") == rows([summary]) == ROWS
    assert (summary["rows"], summary["ok"], summary["edition"]) == (2, 2, 1)
    assert summary["numbers"] == {"n": {"min": 1, "max": 2, "mean": 1.5, "count": 2}}


def test_columns_that_only_later_rows_have_are_kept(root):
    """Pyarrow takes the columns of the first row, and drops the others without a word."""
    publish([{"a": 1}, {"a": 2, "b": "x"}, {"c": [1.5]}], f"{root}/out")
    assert rows(f"{root}/out") == [
        {"a": 1, "b": None, "c": None}, {"a": 2, "b": "x", "c": None}, {"a": None, "b": None, "c": [1.5]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([{"a": 1}, {"a": "x"}], "column 'a' have no common type"),
        ([], "no rows, so no columns are known"),
        ("gs://bucket/rows", "cannot stream a str"),
        (7, "cannot stream a int"),
        (None, "cannot stream a NoneType"),
        ([1, 2], "cannot stream a list"),
        ({"a": 1}, "cannot stream a dict"),
    ],
)
def test_what_cannot_be_published_is_named(root, data, says):
    """An AttributeError from the depth of Arrow."""
    with pytest.raises(SourceError, match=says):
        publish(data, f"{root}/out")
    assert not list(root.rglob("*.json"))


def test_no_rows_with_columns_is_a_dataset(root):
    """A filter that keeps nothing is a result, too."""
    summary = publish(TABLE.slice(0, 0), f"{root}/out")
    assert summary["rows"] == 0
    assert open_dataset(summary).schema.names == ["n", "text"]


def test_the_same_content_is_the_same_edition(root):
    """Every retry of a step made a new edition, and everything downstream was done again."""
    first = publish(ROWS, f"{root}/out")
    assert publish(TABLE, f"{root}/out") == first
    other = publish(TABLE.slice(1), f"{root}/out")
    assert other["edition"] == 2
    assert rows(f"{root}/out") == ROWS[1:]
    assert rows(first) == ROWS
    assert publish(ROWS, f"{root}/out")["edition"] == 3


def test_the_same_content_with_failed_rows_is_the_same_edition_for_another_run(root):
    """For a task's own rows a clear asks the failed ones again; published ones have nobody to ask."""
    failed = TABLE.append_column("distil_status", pa.array(["ok", "failed"]))
    with inside():
        first = publish(failed, f"{root}/out")
    assert (first["ok"], first["failed"]) == (1, 1)
    with inside(run_id="another", max_tries=3):
        again = publish(failed, f"{root}/out")
    # Each run has a page of its own for it.
    assert again.pop("page") != first.pop("page")
    assert again == first


def test_two_calls_for_one_destination_in_one_attempt_are_refused(root):
    """The second would replace the first, and the step would return a summary of one of them."""
    with inside():
        publish(ROWS)
        with pytest.raises(TaskDefinitionError, match=r"has published to .*/root/dag/step/run already"):
            publish(ROWS)
        publish(ROWS, f"{root}/elsewhere")
    with inside(try_number=2):
        assert publish(ROWS)["edition"] == 1


def test_a_call_that_failed_can_be_made_again(root):
    """An except clause that publishes something else instead must be able to."""
    with inside():
        with pytest.raises(SourceError):
            publish([])
        assert publish(ROWS)["rows"] == 2


def test_mapped_instances_publish_below_their_index(root):
    """Two instances of a mapped step overwrote each other."""
    summaries = []
    for index in (0, 1):
        with inside(map_index=index):
            summaries.append(publish([ROWS[index]]))
    assert [summary["uri"].rpartition("/")[2] for summary in summaries] == ["map-00000", "map-00001"]
    assert rows(summaries) == ROWS


def test_outside_a_task_a_destination_is_needed():
    """A notebook has no DAG, task and run to make one of."""
    with pytest.raises(TaskDefinitionError, match="Outside a task there is no default one"):
        publish(ROWS)


def test_another_tasks_destination_is_refused(root):
    """A step that replaces what another one made."""
    with inside():
        publish(ROWS, f"{root}/out")
    with inside("other"), pytest.raises(DestinationError, match="belongs to task 'step'"):
        publish(TABLE.slice(1), f"{root}/out")
    with inside("other"), pytest.raises(DestinationError, match="belongs to task 'step'"):
        publish(ROWS, f"{root}/out")
    assert rows(f"{root}/out") == ROWS


def test_summaries_are_recorded_without_copying(root):
    """A list of a hundred shards must not be copied to have one name; nor lose its order."""
    parts = [publish([row], f"{root}/{name}") for row, name in zip(ROWS, "ab", strict=True)]
    summary = publish(parts, f"{root}/whole")
    assert (summary["rows"], summary["data_uri"]) == (2, None)
    assert not list((root / "whole").rglob("*.parquet"))
    assert rows(summary) == rows(f"{root}/whole") == ROWS
    assert publish(parts, f"{root}/whole") == summary
    assert publish(parts[::-1], f"{root}/whole")["edition"] == 2
    assert rows(f"{root}/whole") == ROWS[::-1]


def test_a_summary_of_what_is_not_there_is_refused(root):
    """A dataset was published that nobody can read."""
    summary = publish(ROWS, f"{root}/a")
    wrong = {**summary, "sha256": hashlib.sha256(b"").hexdigest()}
    with pytest.raises(SourceError, match="is not the manifest that the summary was made from"):
        publish([wrong], f"{root}/whole")
    with pytest.raises(TaskDefinitionError, match="not complete"):
        publish([{"format": summary["format"], "manifest": summary["manifest"]}], f"{root}/whole")


def test_what_is_not_published_is_named(root):
    """Half of a dataset was read, because its folder was there already."""
    (root / "out" / "_distil" / "claims").mkdir(parents=True)
    (root / "out" / "_distil" / "claims" / "000001.json").write_text("{}")
    with pytest.raises(NotPublished, match="no published edition"):
        open_dataset(f"{root}/out")
    with pytest.raises(SourceError, match="no file"):
        open_dataset(f"{root}/nothing")
    with pytest.raises(SourceError, match="publish them first"):
        open_dataset(ROWS)


def test_a_destination_that_cannot_be_written_is_named():
    """An OSError without the destination."""
    with pytest.raises(DestinationError, match="/proc/distil cannot be read or written"):
        publish(ROWS, "/proc/distil")


def test_duckdb_reads_what_is_opened(root):
    """The dataset is of our own file system, which SQL engines must be able to scan, in threads of theirs."""
    publish(pa.table({"n": range(100_000)}), f"{root}/out")
    with duckdb.connect() as db:
        db.register("numbers", open_dataset(f"{root}/out"))
        assert db.sql("SELECT sum(n), count(*) FROM numbers WHERE n >= 50000").fetchall() == [(3749975000, 50000)]


def test_a_list_of_another_connection_is_not_recorded(root, monkeypatch):
    """It was published, and then nobody could read it: a list is read with its own connection."""
    monkeypatch.setattr("airflow_distil.hooks.dataset.store_for", open_store)
    summary = publish(ROWS, f"{root}/one")
    other = {name: value.replace("file://", "file://other@") for name, value in summary.items() if isinstance(value, str)}
    with pytest.raises(SourceError, match="connection 'other'"):
        publish([summary | other], f"{root}/all")
    assert not (root / "all").exists()
    assert rows(publish([summary], f"{root}/all")) == ROWS
