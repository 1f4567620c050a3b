from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from airflow_distil.datasets.files import find_parts
from airflow_distil.datasets.filesystem import StoreFileSystem, open_parts
from airflow_distil.datasets.manifest import Claim, Identity, Manifest, Part, claim_name, manifest_name
from airflow_distil.datasets.source import Source, open_source, rows_of
from airflow_distil.datasets.stores import open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import NotPublished, SourceError, TaskDefinitionError
from tests.contracts.stores.conftest import (
    any_root,
    file_root,
    gcs_url,
    gs_root,
    memory_root,
    s3_environment,
    s3_root,
    s3_url,
)

__all__ = ["any_root", "file_root", "gcs_url", "gs_root", "memory_root", "s3_environment", "s3_root", "s3_url"]


def rows(source: Source) -> list[dict]:
    batches = list(source.batches())
    assert all(batch.schema == source.schema for batch in batches)
    found = [row for batch in batches for row in batch.to_pylist()]
    assert len(found) == source.rows
    return found


def jsonl(*values) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def parquet(values: list[dict]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(values), sink)
    return sink.getvalue()


def put(root: URI, **objects: bytes) -> None:
    for name, data in objects.items():
        open_store(root).put(name, data)


def publish(root: URI, parts: list[list[dict]], claim: int = 1, edition: int = 1, **fields) -> dict:
    """Write an edition as the engine does, and return its summary."""
    store, folder = open_store(root), f"data/{claim:06d}-{claim:016x}"
    named = []
    for number, part in enumerate(parts):
        data, path = parquet(part), f"{folder}/part-{number:05d}.parquet"
        store.put(path, data)
        named.append(Part(path=path, rows=len(part), bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    manifest = Manifest(
        edition=edition,
        claim=claim,
        nonce="0" * 16,
        identity=Identity(),
        ask="",
        round=1,
        fingerprint="",
        parts=named,
        rows=sum(map(len, parts)),
        **fields,
    )
    store.put(manifest_name(edition), manifest.to_bytes())
    return {
        "format": "airflow-distil/1",
        "uri": str(root),
        "manifest": f"{root}/{manifest_name(edition)}",
        "sha256": hashlib.sha256(manifest.to_bytes()).hexdigest(),
        "rows": manifest.rows,
    }


@pytest.fixture
def root(memory_root) -> URI:
    return memory_root


def ns(*numbers: int) -> list[dict]:
    return [{"n": number} for number in numbers]


# Files


def test_same_source_on_every_store(any_root):
    """A format or a compression that reads from one store only; parts out of order."""
    put(
        any_root,
        **{
            "in/1 a.parquet": parquet(ns(1, 2)),
            "in/2.jsonl.gz": gzip.compress(jsonl(*ns(3))),
            "in/sub/3.json": json.dumps(ns(4, 5)).encode(),
            "in/4.csv": b"n\n6\n",
            "in/_SUCCESS": b"",
            "in/.hidden.csv": b"broken",
            "in/_tmp/x.csv": b"broken",
        },
    )
    source = open_source(str(any_root / "in"), schema={"n": "int64"})
    assert rows(source) == ns(1, 2, 3, 6, 4, 5)
    assert rows(source) == ns(1, 2, 3, 6, 4, 5)
    assert source.schema == pa.schema([("n", pa.int64())])
    assert [(file.uri.name, file.format, file.rows) for file in source.files] == [
        ("1 a.parquet", "parquet", 2),
        ("2.jsonl.gz", "jsonl", 1),
        ("4.csv", "csv", 1),
        ("3.json", "json", 2),
    ]
    source.verify()
    json.dumps(source.identity)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/*.jsonl", [1, 2]),
        ("d/?.jsonl", [1, 2]),
        ("d/*/*.jsonl", [3]),
        ("d/**/*.jsonl", [1, 2, 3, 4]),
        ("d/**", [1, 2, 3, 4]),
        ("**/b.jsonl", [2, 4]),
        ("d/s*/**/b.jsonl", [4]),
        ("d/a.j*l", [1]),
        ("d/a.jsonl", [1]),
        ("d/s", [3, 4]),
        ("d", [1, 2, 3, 4]),
    ],
)
def test_patterns(root, pattern, expected):
    """`*` that crosses folders, `.` that means any character, `**` that needs a folder, a folder that is a prefix."""
    put(
        root,
        **{
            "d/a.jsonl": jsonl(*ns(1)),
            "d/b.jsonl": jsonl(*ns(2)),
            "d/s/a.jsonl": jsonl(*ns(3)),
            "d/s/t/b.jsonl": jsonl(*ns(4)),
            "d/_x/a.jsonl": jsonl(*ns(9)),
            "d2/a.csv": b"n\n9\n",
            "d/a_jsonl/x.txt" if pattern == "d/a.j*l" else "e": b"",
        },
    )
    assert rows(open_source(f"{root}/{pattern}")) == ns(*expected)


def test_list_of_uris_appends(root):
    """A list that is sorted, or read as a set."""
    put(root, **{"b.jsonl": jsonl(*ns(1)), "a.jsonl": jsonl(*ns(2))})
    source = [f"{root}/b.jsonl", f"{root}/a.jsonl", f"{root}/b.jsonl"]
    assert rows(open_source(source)) == ns(1, 2, 1)
    assert open_source(source).identity != open_source(source[:2]).identity
    open_source(source).verify()


def test_types_over_files(root):
    """A type taken from the first file; a column missing in one."""
    put(root, **{"1.jsonl": jsonl({"a": 1, "b": None}), "2.jsonl": jsonl({"a": 1.5, "b": ["x"]}, {"c": "y"})})
    assert rows(open_source(str(root))) == [
        {"a": 1.0, "b": None, "c": None},
        {"a": 1.5, "b": ["x"], "c": None},
        {"a": None, "b": None, "c": "y"},
    ]
    assert rows(open_source(str(root), columns=["c", "a"]))[1] == {"c": None, "a": 1.5}


def test_types_that_do_not_fit(root):
    """An error without the file's name; a conflict in a column that nobody asked for."""
    put(root, **{"1.jsonl": jsonl({"a": 1, "b": 1}), "2.jsonl": jsonl({"a": "x", "b": 2})})
    with pytest.raises(SourceError, match=r"column 'a' is string in .*2\.jsonl, and int64 in files before"):
        open_source(str(root))
    assert rows(open_source(str(root), columns=["b"])) == [{"b": 1}, {"b": 2}]
    assert rows(open_source(str(root), schema={"a": "string"}))[0] == {"a": "1", "b": 1}


def test_value_that_does_not_fit_is_found_at_once(root):
    """Found when the row was reached, after those before it were paid for."""
    put(root, **{"1.parquet": parquet([{"a": 2**60 + 1}]), "2.parquet": parquet([{"a": 0.5}])})
    with pytest.raises(SourceError, match=r"1\.parquet: column 'a' is int64 and cannot be read as double"):
        open_source(str(root))
    put(root / "csv", **{"1.csv": b"a\n1\nx\n"})
    with pytest.raises(SourceError, match="line 3"):
        open_source(str(root / "csv"), schema={"a": "int64"})


def test_limit(root):
    """A limit that reads on, or counts rows of files beyond it."""
    put(root, **{"1.jsonl": jsonl(*ns(1, 2)), "2.jsonl": jsonl(*ns(3, 4)), "3.jsonl": b"broken"})
    source = open_source(str(root), limit=3)
    assert rows(source) == ns(1, 2, 3)
    assert [file.rows for file in source.files] == [2, 1]
    assert rows(open_source(ns(1, 2, 3), limit=2)) == ns(1, 2)
    put(root / "p", **{"1.parquet": parquet(ns(*range(5000)))})
    assert rows(open_source(str(root / "p"), limit=1500)) == ns(*range(1500))


def test_some_rows_are_picked_by_their_numbers(root):
    """Numbers that were counted within a file, or a batch, gave rows of the wrong place; or the last ones none."""
    put(root, **{f"part-{letter}.jsonl": jsonl(*({"x": f"{letter}{n}"} for n in range(3000))) for letter in "abc"})
    source = open_source(str(root))
    for numbers in ([0], [2999, 3000, 3001], [5, 4321, 8999], list(range(0, 9000, 7)), []):
        picked = source.picked(numbers)
        assert [row["x"] for row in rows(picked)] == [f"{'abc'[n // 3000]}{n % 3000}" for n in numbers]
        assert picked.rows == len(numbers)
    assert source.picked([1]).identity != source.picked([2]).identity
    assert [row["x"] for row in rows(source.picked([1, 3001, 6001]).picked([0, 2]))] == ["a1", "c1"]
    put(root, **{"part-d.jsonl": b""})
    picked.verify()
    open_store(root).delete("part-a.jsonl")
    with pytest.raises(SourceError, match="was deleted"):
        picked.verify()


def test_change_is_noticed(root):
    """Half of the rows from a file and half from the one that replaced it."""
    put(root, **{"1.jsonl": jsonl(*ns(1)), "2.jsonl": jsonl(*ns(2))})
    source, store = open_source(str(root)), open_store(root)
    put(root, **{"3.jsonl": jsonl(*ns(3))})
    source.verify()
    store.delete("2.jsonl")
    with pytest.raises(SourceError, match=r"2\.jsonl was deleted"):
        source.verify()
    store.put("2.jsonl", jsonl(*ns(4)))
    with pytest.raises(SourceError, match=r"2\.jsonl changed.*kept"):
        source.verify()
    with pytest.raises(SourceError, match="changed"):
        list(source.batches())
    assert open_source(str(root)).identity != source.identity


def test_unreadable_file(tmp_path):
    """A Python traceback of another library instead of the file's name."""
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(SourceError, match=r"x\.parquet cannot be read"):
        open_source(str(tmp_path / "x.parquet"))
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(jsonl(*ns(*range(1000))))[:-20])
    with pytest.raises(SourceError, match=r"y\.jsonl\.gz cannot be read"):
        open_source(str(tmp_path / "y.jsonl.gz"))


def test_folder_in_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """/home/me is readable where /home is not."""
    (tmp_path / "x.jsonl").write_bytes(jsonl(*ns(1)))

    class Locked:
        def list(self, prefix=""):
            raise PermissionError("locked")

    def stores(uri):
        return Locked() if uri == URI.parse(str(tmp_path)).parent else open_store(uri)

    assert rows(open_source(str(tmp_path), stores=stores)) == ns(1)
    with pytest.raises(SourceError, match="locked"):
        open_source(str(tmp_path.parent / "none"), stores=stores)


# Rows


def test_literal_rows():
    """Types from the first row only; a hash that depends on the order of keys."""
    literal = [{"a": 1, "b": None}, {"b": ["x"], "a": 2.5}, {"c": "half \ud83d"}]
    source = open_source(literal)
    assert rows(source)[2] == {"a": None, "b": None, "c": "half \ufffd"}
    assert source.identity == open_source([{"b": None, "a": 1}, *literal[1:]]).identity
    assert source.identity != open_source(literal[::-1]).identity
    source.verify()
    mixed = open_source([{"a": 1}, {"a": "x"}])
    assert [row for batch in mixed.batches() for row in rows_of(batch)] == [{"a": 1}, {"a": "x"}]


# Published datasets


class Lazy(Sequence):
    """Like what a mapped upstream gives: a sequence that is no list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_published_dataset(any_root):
    """Parts of an attempt that did not win; the order of parts; an older edition."""
    first = publish(any_root, [ns(0)], claim=1, edition=1)
    second = publish(any_root, [ns(1, 2), ns(3)], claim=3, edition=2)
    put(any_root, **{"data/000002-00000000000000ff/part-00000.parquet": parquet(ns(9))})
    assert rows(open_source(first)) == ns(0)
    assert rows(open_source(second)) == ns(1, 2, 3)
    assert rows(open_source(str(any_root))) == ns(1, 2, 3)
    assert open_source(str(any_root)).identity == open_source(second).identity
    assert rows(open_source(Lazy([second, first]))) == ns(1, 2, 3, 0)
    assert open_source([second, second]).identity != open_source(second).identity
    open_source(second).verify()
    with pytest.raises(SourceError, match="several attempts of one dataset"):
        open_source(f"{any_root}/data/*/*.parquet")
    with pytest.raises(SourceError, match="several attempts"):
        open_source(str(any_root / "data"))
    assert rows(open_source(str(any_root / "data/000002-00000000000000ff"))) == ns(9)


def test_mapped_dataset_by_its_folder(root):
    """The parent of mapped instances, read as a folder, gave the parts of every attempt."""
    publish(root / "map-00000", [ns(1)])
    publish(root / "map-00001", [ns(2)])
    put(root / "map-00001", **{"data/000002-00000000000000ff/part-00000.parquet": parquet(ns(9))})
    assert rows(open_source(str(root))) == ns(1, 2)
    put(root, **{"notes.csv": b"a\n1\n"})
    with pytest.raises(SourceError, match=r"map-00000/.*notes\.csv"):
        open_source(str(root))


def test_not_published(root):
    """Half of the data, read while it is being made."""
    claim = Claim(number=1, nonce="0" * 16, identity=Identity(), ask="", round=1, edition=1, fingerprint="")
    put(root, **{claim_name(1): claim.to_bytes(), "data/000001-0000000000000000/part-00000.parquet": parquet(ns(1))})
    with pytest.raises(NotPublished, match="has not finished"):
        open_source(str(root))
    with pytest.raises(NotPublished):
        open_source(str(root.parent))


def test_list_of_datasets_recorded_without_copying(root):
    """`publish` of summaries names other datasets instead of parts."""
    members = [publish(root / "a", [ns(1)]), publish(root / "b", [ns(2)])]
    assert rows(open_source(publish(root / "both", [], members=members))) == ns(1, 2)


def test_manifest_is_checked(root):
    """A manifest or part replaced by hand; a summary, which users can edit, that leads elsewhere."""
    summary = publish(root / "a", [ns(1)])
    with pytest.raises(SourceError, match="not the manifest"):
        open_source({**summary, "sha256": "0" * 64})
    publish(root / "b", [ns(2)])
    with pytest.raises(TaskDefinitionError, match="elsewhere"):
        open_source({**summary, "manifest": f"{root}/b/_distil/manifests/000001.json"})
    with pytest.raises(TaskDefinitionError, match="Update"):
        open_source({**summary, "format": "airflow-distil/2"})
    with pytest.raises(TaskDefinitionError, match="not complete"):
        open_source({key: summary[key] for key in ("format", "manifest", "sha256")})
    store = open_store(root / "a")
    (part,) = store.list("data/")
    store.delete(part.name)
    with pytest.raises(SourceError, match="is missing"):
        open_source(summary)
    store.put(part.name, parquet(ns(*range(100))))
    with pytest.raises(SourceError, match=r"bytes instead of"):
        open_source(summary)


@pytest.mark.parametrize("path", ["/etc/x.parquet", "../x.parquet", "data/../../x.parquet", "a\\b"])
def test_manifest_stays_in_its_dataset(root, path):
    """A part path from an edited manifest that reads another tenant's data."""
    summary = publish(root, [ns(1)])
    store = open_store(root)
    content = json.loads(store.get(manifest_name(1)))
    content["parts"][0]["path"] = path
    data = json.dumps(content).encode()
    store.put(manifest_name(2), data)
    with pytest.raises(SourceError, match="no manifest of this version"):
        open_source({**summary, "manifest": f"{root}/{manifest_name(2)}", "sha256": hashlib.sha256(data).hexdigest()})


# What is refused


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([], SourceError, "short_circuit"),
        ("memory://empty/nothing", SourceError, "no file"),
        ("memory://empty/*.jsonl", SourceError, "no files match"),
        ([{}], SourceError, "no columns"),
        (None, TaskDefinitionError, "upstream return nothing"),
        (3, TaskDefinitionError, "int"),
        ({"a": 1}, TaskDefinitionError, r"\[row\]"),
        ([{"a": 1}, "gs://b/x"], TaskDefinitionError, "mixes URIs and rows"),
        (("rows", 12), TaskDefinitionError, r"\.expand\(source=upstream\.output\)"),
        (["uri", "gs://b/x"], TaskDefinitionError, r"source=upstream\.output"),
        ("data.csv", TaskDefinitionError, "relative"),
        ("[{'a': 1}]", TaskDefinitionError, "rendered"),
    ],
)
def test_refused_before_any_call(source, error, message):
    """A misunderstanding that would end in an error far from its cause, or in a task that asks nothing and is green."""
    with pytest.raises(error, match=message):
        open_source(source)


def test_refused_arguments(root):
    """A misspelt column that is silently left out."""
    put(root, **{"x.csv": b"a,b\n1,2\n", "d/x.txt": b"", "e.csv": b"a\n"})
    uri = str(root / "x.csv")
    with pytest.raises(TaskDefinitionError, match=r"\['c'\].*\['a', 'b'\]"):
        open_source(uri, columns=["a", "c"])
    with pytest.raises(TaskDefinitionError, match=r"schema names \['c'\]"):
        open_source(uri, schema={"c": "int64"})
    with pytest.raises(TaskDefinitionError, match=r"'integer'.*int64"):
        open_source(uri, schema={"a": "integer"})
    for columns in ([], ["a", "a"]):
        with pytest.raises(TaskDefinitionError, match="each once"):
            open_source(uri, columns=columns)
    with pytest.raises(TaskDefinitionError, match="limit=0"):
        open_source(uri, limit=0)
    with pytest.raises(TaskDefinitionError, match=r"format of .*x\.txt.*\.parquet"):
        open_source(str(root / "d"))
    with pytest.raises(SourceError, match=r"no rows: .*e\.csv"):
        open_source(str(root / "e.csv"))


# As an Arrow dataset


def test_open_parts(any_root):
    """Parts in another order, or with the first part's types; a store that only Arrow's own file systems can read."""
    publish(any_root / "a", [[{"n": 1, "t": None}], [{"n": 2.5, "t": "x", "s": {"k": 1}}]])
    publish(any_root / "b", [[{"n": number, "t": "y", "s": {"k": number, "l": 0.5}} for number in range(5000)]])
    dataset = open_parts(find_parts([str(any_root / "b"), str(any_root / "a")]))
    assert dataset.to_table(columns=["n"])["n"].to_pylist() == [*range(5000), 1.0, 2.5]
    assert dataset.count_rows() == 5002
    assert dataset.to_table(columns=["s"])["s"].to_pylist()[-2:] == [None, {"k": 1, "l": None}]
    found = duckdb.from_arrow(dataset).filter("t = 'x'").project("n, s.k").fetchall()
    assert found == [(2.5, 1)]
    assert duckdb.sql("select count(*), sum(n) from dataset where n >= 4998").fetchall() == [(2, 9997)]


def test_open_parts_reads_only_what_is_asked(root):
    """A projection that fetches every column: the metadata of a large dataset outweighs its text."""
    wide = [{"small": number, "large": os.urandom(500).hex()} for number in range(2000)]
    publish(root, [wide])
    fetched = []

    class Watched:
        def __init__(self, store):
            self.store = store

        def get(self, name, start=0, length=None, version=None):
            content = self.store.get(name, start, length, version)
            fetched.append(len(content))
            return content

        def __getattr__(self, name):
            return getattr(self.store, name)

    dataset = open_parts([(Watched(store), names) for store, names in find_parts(str(root))])
    assert len(dataset.to_table(columns=["small"])) == 2000
    assert 0 < sum(fetched) < 300_000


def test_open_parts_refuses(root):
    """An empty dataset that looks like a dataset without columns; a conflict without the part's name."""
    with pytest.raises(SourceError, match="no parts"):
        open_parts([])
    put(root, **{"1.parquet": parquet([{"a": 1}]), "2.parquet": parquet([{"a": "x"}])})
    with pytest.raises(SourceError, match=r"2\.parquet does not fit"):
        open_parts(find_parts(str(root)))
    with pytest.raises(SourceError, match="publish"):
        find_parts(ns(1))


def test_file_system_is_read_only(root):
    """A user's `write_dataset` into a published dataset."""
    put(root, **{"a/x": b"1", "a/b/y": b"22"})
    system = fs.PyFileSystem(StoreFileSystem(open_store(root)))
    kinds = [(info.type, info.size) for info in system.get_file_info(["a/x", "a", "none", "a/b/y"])]
    assert kinds == [
        (fs.FileType.File, 1),
        (fs.FileType.Directory, None),
        (fs.FileType.NotFound, None),
        (fs.FileType.File, 2),
    ]
    assert [info.path for info in system.get_file_info(fs.FileSelector("a", recursive=True))] == ["a/b/y", "a/x"]
    assert system.open_input_file("a/b/y").read() == b"22"
    with pytest.raises(FileNotFoundError):
        system.open_input_file("a")
    for act in (lambda: system.open_output_stream("z"), lambda: system.delete_file("a/x"), lambda: system.move("a/x", "b")):
        with pytest.raises(PermissionError, match="read-only"):
            act()
    with pytest.raises(FileNotFoundError):
        system.get_file_info(fs.FileSelector("none"))


def test_path_objects(tmp_path: Path):
    """Paths are how Python users name files."""
    (tmp_path / "x.jsonl").write_bytes(jsonl(*ns(1)))
    assert rows(open_source(tmp_path / "x.jsonl")) == ns(1)


def test_a_stray_file_beside_the_manifests_hides_nothing(root):
    """A backup copy that sorts last was taken for the latest edition."""
    publish(root, [ns(1, 2)])
    put(root, **{"_distil/manifests/000001.json.bak": b"no manifest"})
    assert rows(open_source(str(root))) == ns(1, 2)


def test_rows_that_cannot_be_hashed_are_refused():
    """A bare TypeError about '<' was retried for nothing."""
    with pytest.raises(TaskDefinitionError, match="cannot be hashed"):
        open_source([{"a": {1: "x", "b": 2}}])
