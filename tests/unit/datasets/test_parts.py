"""Parquet parts: every row once, in order, under the checksum that the manifest names."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_distil.datasets import parts
from airflow_distil.datasets.manifest import Part
from airflow_distil.datasets.parts import PartWriter
from airflow_distil.datasets.stores import MemoryStore, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DestinationError, Superseded

SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])
FOLDER = "data/000001-0123456789abcdef"


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    if request.param == "file":
        yield open_store(URI.parse(str(tmp_path / "out")))
    else:
        yield open_store(URI.parse(f"memory://{tmp_path.name}"))
        MemoryStore._buckets.pop(tmp_path.name, None)


@pytest.fixture
def local(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def batch(*numbers: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(numbers, pa.int64()), pa.array([f"row {n}" for n in numbers])], schema=SCHEMA)


def read(store, written: list[Part]) -> list[int]:
    rows: list[int] = []
    for part in written:
        data = store.get(part.path)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (part.bytes, part.sha256)
        table = pq.read_table(pa.BufferReader(data))
        assert table.schema == SCHEMA
        assert table.num_rows == part.rows
        rows += table["n"].to_pylist()
    return rows


def test_rows_come_out_in_order_and_once(store, local, monkeypatch):
    """Rows left over in a buffer at the end of a part or of the run would be lost without an error."""
    monkeypatch.setattr(parts, "GROUP_ROWS", 10)
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    for count in (0, 1, 9, 10, 11, 20, 25):
        writer = PartWriter(store, f"{FOLDER[:-2]}{count:02d}", local, SCHEMA)
        for start in range(0, count, 3):
            writer.write(batch(*range(start, min(start + 3, count))))
        written = writer.finish()
        assert read(store, written) == list(range(count))
        assert list(local.iterdir()) == []
        assert len({part.path for part in written}) == len(written) == max(1, count // 12 + (count % 12 > 0))


def test_dataset_without_rows_has_its_schema(store, local):
    """Readers of an edition without any part could not tell its columns."""
    [part] = PartWriter(store, FOLDER, local, SCHEMA).finish()
    assert (part.rows, part.path) == (0, f"{FOLDER}/part-00000.parquet")
    assert read(store, [part]) == []


def test_large_rows_end_a_group(store, local, monkeypatch):
    """Counting rows alone, a group of long documents would not fit into a reader's memory."""
    monkeypatch.setattr(parts, "GROUP_BYTES", 50)
    writer = PartWriter(store, FOLDER, local, SCHEMA)
    for number in range(6):
        writer.write(batch(number, number))
    [part] = writer.finish()
    assert pq.ParquetFile(pa.BufferReader(store.get(part.path))).num_row_groups == 3


def test_nothing_is_put_once_it_has_ended(store, local, monkeypatch):
    """The source broke while a part was on its way: it arrived after the attempt was over."""
    monkeypatch.setattr(parts, "GROUP_ROWS", 1)
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    writer = PartWriter(store, FOLDER, local, SCHEMA, lambda: writer._given_up.wait(60))

    def broken():
        with writer:
            writer.write(batch(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert list(store.list()) == []


def test_before_each_upload_somebody_is_asked(store, local, monkeypatch):
    """A superseded attempt must stop uploading gigabytes."""
    monkeypatch.setattr(parts, "GROUP_ROWS", 1)
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    looks = []

    def look():
        looks.append(len(list(store.list())))
        if len(looks) == 2:
            raise Superseded("newer")

    writer = PartWriter(store, FOLDER, local, SCHEMA, look)
    writer.write(batch(1))
    writer.write(batch(2))
    with pytest.raises(Superseded):
        writer.write(batch(3))
    assert looks == [0, 1]
    assert len(list(store.list())) == 1


def test_part_of_somebody_else_is_not_overwritten(store, local):
    """A folder is one attempt's; other content under the name means that two share it."""
    store.put(f"{FOLDER}/part-00000.parquet", b"theirs")
    writer = PartWriter(store, FOLDER, local, SCHEMA)
    writer.write(batch(1))
    with pytest.raises(DestinationError, match="exists already with other content"):
        writer.finish()
    assert store.get(f"{FOLDER}/part-00000.parquet") == b"theirs"


def test_batch_of_another_schema_is_an_error(store, local):
    """Parquet would write the column as something else, or shift it."""
    writer = PartWriter(store, FOLDER, local, SCHEMA)
    writer.write(pa.record_batch({"x": [1]}))
    with pytest.raises((ValueError, TypeError)):
        writer.finish()
