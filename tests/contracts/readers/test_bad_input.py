"""Bad input from end to end: a clear error before the first call, or a fate for each row; nothing lost, nothing by half."""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_distil.conversation import user
from airflow_distil.datasets.readers import CSVReader, JSONReader, ParquetReader, array_of_objects, lines
from airflow_distil.datasets.source import open_source, rows_of
from airflow_distil.datasets.stores import open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine.write import OURS
from airflow_distil.exceptions import DistilError, NotPublished, SourceError, TaskDefinitionError
from airflow_distil.tasks import Task, TextGeneration
from tests.contracts.readers import corpus
from tests.contracts.readers.corpus import BROKEN_WITHIN, COLUMNS, LITERALS, READ, REFUSED, Read, Refused, parquet
from tests.contracts.stores.conftest import file_root, gcs_url, gs_root, memory_root
from tests.unit.engine.conftest import no_waiting
from tests.unit.engine.lab import Lab, Model, ask, questions

__all__ = ["file_root", "gcs_url", "gs_root", "memory_root", "no_waiting"]


class Stand(Lab):
    """A lab whose destination is a folder, and beside it a folder for the source."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "scratch")
        self.input = folder / "in"
        self.input.mkdir()
        self.store = open_store(URI.parse(str(folder / "out")))

    def fill(self, files: Any) -> None:
        if callable(files):
            files(self.input)
            return
        for name, data in files.items():
            path = self.input / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def attempt(self, at: Any, model: Model, task: TextGeneration | None = None, number: int = 1, **options: Any):
        source = open_source(at, **options)
        return self.job(questions("unused"), model, task, source=source, ask=ask(number)).run(report=lambda _: None)


@pytest.fixture
def stand(tmp_path):
    stand = Stand(tmp_path)
    yield stand
    stand.close()


def fails(stand: Stand, at: Any, model: Model, kind: type[DistilError] = SourceError, **options: Any) -> str:
    """Return the message of an attempt that must fail by an error of ours, and publish nothing."""
    with pytest.raises(DistilError) as caught:
        stand.attempt(at, model, **options)
    assert type(caught.value) is kind, caught.value
    assert not stand.names("_distil/manifests/")
    message = str(caught.value)
    assert "\n" not in message
    return message


def only_source(table: pa.Table) -> list[dict[str, Any]]:
    ours = {*OURS, "generation", "model_name"}
    return table.select([name for name in table.schema.names if name not in ours]).to_pylist()


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused_before_the_first_call(stand, case: Refused):
    """A traceback of pyarrow, json or csv; an error without its place; or one that came after rows were paid for."""
    stand.fill(case.files)
    at = case.rows if case.rows is not None or not case.says else f"{stand.input}/{case.at}" if case.at else stand.input
    model = Model()
    message = fails(stand, at, model, case.error, **case.options)
    assert model.calls == 0
    assert stand.names("") == []
    for says in case.says:
        assert re.search(says, message), (says, message)


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_each_row_has_a_fate(stand, case: Read):
    """A row that is lost, moved, or changed on its way; one bad row that costs the others."""
    stand.fill(case.files)
    at = case.literal if case.literal is not None else f"{stand.input}/{case.at}" if case.at else stand.input
    table = stand.table(stand.attempt(at, Model(), **case.options))
    assert table["distil_row"].to_pylist() == list(range(len(case.fates)))
    assert table["distil_status"].to_pylist() == list(case.fates)
    if case.rows is not None:
        assert only_source(table) == case.rows
    for status, error in zip(case.fates, table["distil_error"].to_pylist(), strict=True):
        assert status == "ok" or case.errors in (error or "")


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_through(stand, name):
    """A type that the output cannot have was found after every row was paid; a value that Python has no form for ended it."""
    column, _ = COLUMNS[name]
    stand.fill({"x.parquet": parquet({"instruction": ["a"], "x": column})})
    table = stand.table(stand.attempt(stand.input, Model()))
    assert table["distil_status"].to_pylist() == ["ok"]
    before = pq.read_table(stand.input / "x.parquet")["x"].combine_chunks()
    after = table["x"].combine_chunks()
    if isinstance(before, pa.ExtensionArray):
        before, after = before.storage, after.storage
    # Ways to store text, which readers of ours and others' are spared.
    if after.type != before.type:
        assert re.search("dictionary|view|large json", name)
        before = before.cast(after.type)
    assert after.equals(before) or (name == "NaN" and math.isnan(after[0].as_py()))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_read_as_text(stand, name):
    """A prompt that depends on what is installed beside us, or that ends the run."""
    column, shown = COLUMNS[name]
    stand.fill({"x.parquet": parquet({"x": column})})
    model = Model()
    table = stand.table(stand.attempt(stand.input, model, TextGeneration(template="{{ x }}", columns="x")))
    if shown is None:
        assert table["distil_status"].to_pylist() == ["failed"]
        assert "null" in table["distil_error"][0].as_py()
    else:
        assert (table["distil_status"].to_pylist(), model.asked) == (["ok"], [shown])


@pytest.mark.parametrize("name", LITERALS)
def test_a_literal_value_comes_through(stand, name):
    """A value of XCom's that JSON cannot hold."""
    given_, expected = LITERALS[name]
    table = stand.table(stand.attempt([{"instruction": "a", "x": given_}], Model()))
    assert only_source(table) == [{"instruction": "a", "x": expected}]


# Found only while it is read


@pytest.mark.parametrize("name", BROKEN_WITHIN)
def test_broken_within(stand, name):
    """What was answered before the broken page was found is lost, or paid again once the file is mended."""
    broken, says = BROKEN_WITHIN[name]
    stand.fill({"x.parquet": broken})
    model = Model()
    message = fails(stand, stand.input, model)
    assert "x.parquet" in message
    assert says in message
    assert "of 3000 rows" in message
    assert "What was answered is kept" in message
    assert 0 < model.calls < 3000
    assert len(stand.facts()) == model.calls
    stand.fill({"x.parquet": parquet({"instruction": [f"question {number}" for number in range(3000)]})})
    rows = stand.rows(stand.attempt(stand.input, model))
    assert [row["generation"] for row in rows] == [f"question {number}!" for number in range(3000)]
    assert model.calls == 3000


def test_the_footer_promises_more_rows(stand):
    """The rows that were there were published as if they were all."""
    good = parquet({"instruction": ["a"] * 10}, compression="none", store_schema=False)
    # As Thrift writes a count of 10. One of these is that of the whole file.
    places = [found.start() for found in re.finditer(rb"\x16\x14", good)]
    broken = (good[:at] + b"\x16\x1e" + good[at + 2 :] for at in places)
    stand.fill({"x.parquet": next(data for data in broken if pq.read_metadata(io.BytesIO(data)).num_rows == 15)})
    message = fails(stand, stand.input, Model())
    assert "gives 10 rows, and says that it has 15" in message


def two(text: str) -> bytes:
    return b"".join(json.dumps({"instruction": f"{text} {number}"}).encode() + b"\n" for number in range(2000))


@pytest.fixture(params=["file", "memory", "gs"])
def root(request) -> URI:
    return request.getfixturevalue(f"{request.param}_root")


@pytest.mark.parametrize("when", ["before the first row is read", "while it is asked"])
@pytest.mark.parametrize("what", ["changed", "deleted"])
def test_a_file_changes_during_the_run(stand, root, when, what):
    """Rows of the old file beside rows of the new one; answers of the old one lost."""
    source, name = open_store(root / "in"), "x.jsonl"
    stand.store = open_store(root / "out")
    source.put(name, two("old"))
    changed = False

    def change() -> None:
        nonlocal changed
        if not changed:
            changed = True
            source.delete(name)
            if what == "changed":
                source.put(name, b"".join(two("old").splitlines(keepends=True)[:1900]) + two("new"))

    def say(prompt: str, _: int) -> str:
        change()
        return f"{prompt}!"

    model = Model(say)
    opened = open_source(str(root / "in"))
    if when == "before the first row is read":
        change()
    with pytest.raises(SourceError) as caught:
        stand.job(questions("unused"), model, source=opened).run(report=lambda _: None)
    assert "x.jsonl" in str(caught.value)
    assert "kept" in str(caught.value)
    assert (model.calls == 0) == (when == "before the first row is read")
    assert not stand.names("_distil/manifests/")
    assert len(stand.facts()) == model.calls
    if what == "changed":
        rows = stand.rows(stand.attempt(str(root / "in"), model))
        texts = [json.loads(line)["instruction"] for line in source.get(name).decode().splitlines()]
        assert [row["generation"] for row in rows] == [f"{text}!" for text in texts]
        # Each is asked once, whichever attempt saw it first.
        assert max(model.asked.count(text) for text in texts) == 1


def test_a_source_that_changes_between_attempts(stand):
    """All rows are paid again, or a changed row keeps the old one's answer."""
    model = Model()
    stand.fill({"x.csv": b"instruction\na\nb\nc\n"})
    stand.attempt(stand.input, model)
    stand.fill({"x.csv": b"instruction\na\nB\nc\nd\n"})
    rows = stand.rows(stand.attempt(stand.input, model, number=2))
    assert [row["generation"] for row in rows] == ["a!", "B!", "c!", "d!"]
    assert sorted(model.asked) == ["B", "a", "b", "c", "d"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(stand):
    """PermissionError, and not what to do."""
    stand.fill({"a/x.jsonl": b"{}"})
    (stand.input / "a").chmod(0)
    try:
        assert "Permission denied" in fails(stand, stand.input, Model())
    finally:
        (stand.input / "a").chmod(0o700)


def test_a_folder_that_a_pattern_matches_is_named(stand, caplog):
    """Half of the data, in folders called x.parquet as Spark writes them, is left out without a word."""
    stand.fill({"x.jsonl": b'{"instruction": "a"}', "y.jsonl/part-0.jsonl": b'{"instruction": "b"}'})
    with caplog.at_level(logging.WARNING):
        stand.attempt(f"{stand.input}/*.jsonl", Model())
    assert "those in folders that it matches too are not read: y.jsonl" in caplog.text


# What a model says is input, too


class Tree(Task):
    """Writes what the model said as JSON, of whatever type that is."""

    @property
    def inputs(self):
        return ["instruction"]

    @property
    def outputs(self):
        return ["tree"]

    def format_input(self, input):
        return [user(input["instruction"])]

    def format_output(self, output, input):
        return {"tree": json.loads(output)}


@pytest.mark.parametrize(("depth", "status"), [(30, "ok"), (40, "ok"), (98, "ok"), (101, "unparsed"), (900, "unparsed")])
def test_an_answer_nested_deep(stand, depth, status):
    """One answer made of brackets left a green task with a dataset that nobody can open."""
    said = "[" * depth + "1" + "]" * depth
    model = Model(lambda *_: said)
    rows = stand.rows(stand.job(questions("a", "b", "c"), model, Tree()).run(report=lambda _: None))
    assert [row["distil_status"] for row in rows] == [status] * 3
    if status == "ok":
        assert rows[1]["tree"] == (said if depth > 32 else json.loads(said))


# Summaries


def published(stand: Stand) -> dict[str, Any]:
    stand.attempt(questions("a", "b"), Model())
    return stand.summary()


def chained(stand: Stand, tmp_path: Path, summary: Any) -> str:
    other = Lab(tmp_path / "scratch-2")
    model = Model()
    with pytest.raises(DistilError) as caught:
        other.run(summary, model, TextGeneration(output_mappings={"generation": "second"}))
    assert model.calls == 0
    other.close()
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("key", ["uri", "manifest", "sha256"])
@pytest.mark.parametrize("value", [None, 5, [], {}, "", "x", "gs://"])
def test_a_summary_made_by_hand(stand, tmp_path, key, value):
    """AttributeError: 'int' object has no attribute 'strip'."""
    summary = published(stand)
    message = chained(stand, tmp_path, {**summary, key: value})
    assert message.startswith(("TaskDefinitionError: ", "SourceError: "))
    without = {name: item for name, item in summary.items() if name != key}
    assert re.search(r"not complete|no summary|mixes|would overwrite|reads 'instruction'", chained(stand, tmp_path, without))


def test_a_summary_of_what_is_gone(stand, tmp_path):
    """FileNotFoundError, and nothing about which task to clear."""
    summary = published(stand)
    for name in stand.names(""):
        if not name.startswith("_distil/manifests/"):
            stand.store.delete(name)
    assert re.search("SourceError: .*part-00000.parquet is missing.*Clear the task", chained(stand, tmp_path, summary))
    for name in stand.names(""):
        stand.store.delete(name)
    assert re.search("SourceError: .*000001.json cannot be read", chained(stand, tmp_path, summary))
    assert re.search("SourceError: there is no file", chained(stand, tmp_path, summary["uri"]))


def test_a_manifest_that_changed(stand, tmp_path):
    """Rows that are not those that the upstream task reported."""
    summary = published(stand)
    (name,) = stand.names("_distil/manifests/")
    content = stand.store.get(name)
    stand.store.delete(name)
    stand.store.put(name, content.replace(b'"rows": 2', b'"rows": 3'))
    assert re.search("SourceError: .*not the manifest that the summary was made from", chained(stand, tmp_path, summary))
    stand.store.delete(name)
    stand.store.put(name, content[:100])
    assert re.search("SourceError: .*no manifest of this version", chained(stand, tmp_path, summary))


def test_a_part_that_was_replaced(stand, tmp_path):
    """Another file of the same size was read as the published one."""
    summary = published(stand)
    (name,) = stand.names("data/")
    content = stand.store.get(name)
    stand.store.delete(name)
    stand.store.put(name, content[:-20] + b"\0" * 20)
    assert re.search("SourceError: .*part-00000.parquet cannot be read", chained(stand, tmp_path, summary))


def test_unpublished(stand, tmp_path):
    """Half of a dataset was read while it was made."""
    stand.fill({"x.parquet": BROKEN_WITHIN["a page's header"][0]})
    fails(stand, stand.input, Model())
    assert chained(stand, tmp_path, str(stand.store)).startswith("NotPublished: ")
    assert issubclass(NotPublished, DistilError)


# A cell of 50 MB

BIG = 50 * 2**20
_BIG_CELL = """
import json, sys
from pathlib import Path
from airflow_distil.datasets.source import open_source
from airflow_distil.exceptions import BadRow
from tests.unit.engine.lab import Lab, Model, questions

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

lab = Lab(Path(sys.argv[2]))
model = Model(lambda prompt, _: BadRow("the prompt is too long") if len(prompt) > 2**20 else f"{prompt}!")
lab.run(questions("warm up"), Model())
before = peak()
lab = Lab(Path(sys.argv[2]))
manifest = lab.job(questions("unused"), model, source=open_source(sys.argv[1])).run(report=lambda _: None)
after = peak()
rows = lab.rows(manifest)
segments = [len(lab.store.get(name)) for name in lab.names("_distil/log/")]
print(json.dumps({
    "fates": [row["distil_status"] for row in rows], "errors": [row["distil_error"] for row in rows],
    "lengths": [len(row["instruction"]) for row in rows], "grown": after - before, "log": sum(segments),
}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("format", ["parquet", "jsonl", "json.gz", "csv"])
def test_a_cell_of_50_mb(tmp_path, format):
    """A copy per step: the worker is killed. Or the log is as large as the prompt, and cannot be read back."""
    rows = [{"instruction": "a"}, {"instruction": "x" * BIG}, {"instruction": "b"}]
    data = {
        "parquet": lambda: parquet({"instruction": [row["instruction"] for row in rows]}),
        "jsonl": lambda: b"".join(json.dumps(row).encode() + b"\n" for row in rows),
        "json.gz": lambda: gzip.compress(json.dumps(rows).encode(), 1),
        "csv": lambda: b"instruction\na\n" + b"x" * BIG + b"\nb\n",
    }[format]()
    (tmp_path / f"x.{format}").write_bytes(data)
    command = [sys.executable, "-c", _BIG_CELL, str(tmp_path / f"x.{format}"), str(tmp_path / "scratch")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    told = json.loads(done.stdout)
    assert told["fates"] == ["ok", "failed", "ok"]
    assert "too long" in told["errors"][1]
    assert told["lengths"] == [1, BIG, 1]
    assert told["log"] < 2**20
    assert told["grown"] < 20 * BIG


# Any bytes

_SEEDS = {
    "jsonl": b'{"a": 1, "b": "x"}\n{"a": 2.5, "b": null}\n{"a": [1], "b": {"c": "\\ud83d"}}\n',
    "json": b'[{"a": 1, "b": "x"},\n {"a": 2.5, "b": null}]',
    "csv": b'a,b\n1,"x\ny"\n2,z\n',
    "parquet": parquet({"a": [1, 2, 3], "b": ["x", None, "z"], "c": [{"d": [1]}, None, {"d": []}]}, row_group_size=2),
}
READERS = {
    "jsonl": JSONReader(lines, rows=2),
    "json": JSONReader(array_of_objects, rows=2),
    "csv": CSVReader(rows=2),
    "parquet": ParquetReader(rows=2),
}


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """Bytes that are almost right: a few are changed, left out, repeated, or put in; perhaps it is compressed, and cut."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        new = draw(
            st.binary(max_size=4)
            | st.sampled_from([b'"', b"\n", b"[", b"{", b",", b"\\", b"\xff", b"\0", b"NaN", b"\xef\xbb\xbf"])
        )
        data[at : at + draw(st.integers(0, 3))] = new
    whole = draw(st.sampled_from([bytes, bytes, gzip.compress, corpus.zst]))(bytes(data))
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


@pytest.mark.parametrize("format", READERS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_rows_or_an_error(format, data):
    """An exception of another library's; a scan that counts other rows than are read; bounds that read something else."""
    content = data.draw(damaged(_SEEDS[format]) | st.binary(max_size=60))
    rows = outcome(format, content)
    if isinstance(rows, str):
        return
    limit = data.draw(st.integers(1, 5))
    columns = data.draw(st.lists(st.sampled_from(sorted(rows[0])), min_size=1, unique=True))
    some = outcome(format, content, limit=limit, columns=columns)
    # Fewer rows may have a narrower type: 1 for 1.0, or a value for its JSON.
    assert isinstance(some, str) or [list(row) for row in some] == [columns] * min(limit, len(rows))
    if format in {"csv", "parquet"}:
        assert repr(some) == repr([{name: row[name] for name in columns} for row in rows[:limit]])


def outcome(format: str, content: bytes, **bounds: Any) -> list[dict[str, Any]] | str:
    """Return the rows of a file with this content, or the message of our error."""
    store = open_store(URI.parse(f"memory://{os.urandom(8).hex()}/x"))
    store.put(f"x.{format}", content)
    try:
        source = open_source(f"{store}/x.{format}", **bounds)
        rows = [row for batch in source.batches() for row in rows_of(batch)]
    except (SourceError, TaskDefinitionError) as error:
        return str(error)
    assert len(rows) == source.rows > 0
    return rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(1, 12), st.data())
def test_bounds_over_files_agree_with_slices(sizes, limit, data):
    """A limit that stops a row early or late where files meet, whatever their formats are."""
    store = open_store(URI.parse(f"memory://{os.urandom(8).hex()}/x"))
    rows = [{"n": number, "t": f"text {number}"} for number in range(sum(sizes))]
    at = 0
    for index, size in enumerate(sizes):
        part, at = rows[at : at + size], at + size
        table = pa.Table.from_pylist(part, pa.schema([("n", pa.int64()), ("t", pa.string())]))
        suffix, written = data.draw(
            st.sampled_from(
                [
                    ("jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in part)),
                    ("json", json.dumps(part).encode()),
                    ("parquet", parquet(table, row_group_size=2)),
                ]
            )
        )
        store.put(f"{index}.{suffix}", written)
    columns = data.draw(st.none() | st.lists(st.sampled_from(["n", "t"]), min_size=1, unique=True))
    if not rows:
        with pytest.raises(SourceError, match="no rows"):
            open_source(str(store), limit=limit)
        return
    expected = [{name: row[name] for name in columns or row} for row in rows[:limit]]
    source = open_source(str(store), limit=limit, columns=columns)
    assert [row for batch in source.batches() for row in rows_of(batch)] == expected
    assert source.rows == len(expected)
