"""Manifests, claims and log segments that somebody else wrote: refused in words, whatever is in them, and never run away."""

from __future__ import annotations

import hashlib
import json
import struct
import uuid

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc
from pydantic import ValidationError

from airflow_distil.datasets.files import DEPTH
from airflow_distil.datasets.log import SCHEMA, Fact, Kind, _pack, decode_segment, encode_segment
from airflow_distil.datasets.manifest import Identity, Manifest, manifest_name
from airflow_distil.datasets.source import open_source
from airflow_distil.datasets.stores import MemoryStore, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import SourceError, TaskDefinitionError


def manifest(**fields) -> Manifest:
    made = {"edition": 1, "claim": 1, "nonce": "0" * 16, "identity": Identity(), "ask": "a", "round": 1, "fingerprint": "f"}
    return Manifest(**{**made, **fields})


@pytest.mark.parametrize(
    "wrong",
    [
        *({"rows": -1}, {"ok": 10**400}, {"rows": "many"}, {"rows": [1]}, {"cost_usd": "-1"}, {"lost": {"failed": -1}}),
        *({"nonce": "x"}, {"edition": 0}, {"edition": 2**31}, {"round": 10**20}, {"identity": "me"}, {"identity": None}),
        *(
            {"columns": ["a"]},
            {"columns": {"a": {"b": 1}}},
            {"members": ["x"]},
            {"members": {}},
            {"parts": [None]},
            {"parts": 7},
        ),
        *({"numbers": {"x": {"mean": "high"}}}, {"reasons": {"a": []}}, {"fencing": "no"}, {"model": {}}),
    ],
    ids=str,
)
def test_manifest_with_other_types_is_refused(wrong):
    """What is of another type raised far from here, in the middle of a run."""
    document = json.loads(manifest().to_bytes()) | wrong
    with pytest.raises(ValidationError):
        Manifest.parse(json.dumps(document).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1"])
def test_a_price_is_a_number(number):
    """Not a number went to the XCom, which is JSON, and the task that was done failed."""
    with pytest.raises(ValidationError):
        Manifest.parse(manifest(cost_usd=0.5).to_bytes().replace(b"0.5", number.encode()))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_without_end_is_refused(opening, closing):
    """A hundred thousand brackets ended every attempt with a RecursionError."""
    document = json.dumps({**json.loads(manifest().to_bytes()), "task": {"x": "DEEP"}})
    document = document.replace('"DEEP"', opening * 100_000 + "1" + closing * 100_000)
    with pytest.raises(ValidationError):
        Manifest.parse(document.encode())


@pytest.mark.parametrize(
    "path",
    [
        *("data/%2e%2e/x", "data/x\0", "file:///etc/passwd", "gs:x", "data/x?generation=1", "data/x#y", "~/x", "data/x\n"),
        *("data/\u2025/x", "data/.hidden", "data/a b", "data/*", "\uff0fetc/passwd", "_distil/claims/000001.json", "data/.."),
    ],
)
def test_a_part_is_named_as_we_name_parts(path):
    """What a store, a proxy or a file system decodes may lead out of the destination."""
    part = {"path": path, "rows": 1, "bytes": 1, "sha256": "0" * 64}
    document = json.loads(manifest().to_bytes()) | {"parts": [part]}
    with pytest.raises(ValidationError, match="plain path"):
        Manifest.parse(json.dumps(document).encode())


@pytest.fixture
def bucket():
    name = uuid.uuid4().hex
    yield name
    MemoryStore._buckets.pop(name, None)


def put(bucket: str, folder: str, **fields) -> dict:
    root = URI.parse(f"memory://{bucket}/{folder}")
    made = manifest(**fields)
    open_store(root).put(manifest_name(made.edition), made.to_bytes())
    return made.summary(str(root))


def test_a_list_does_not_choose_its_readers_connection(bucket):
    """Who could write a manifest had another bucket opened with a connection of the reader's that he was never given."""
    member = put(bucket, "member")
    member["uri"] = member["uri"].replace("://", "://admin@")
    member["manifest"] = member["manifest"].replace("://", "://admin@")
    put(bucket, "list", members=[member])
    opened = []
    with pytest.raises(SourceError, match="connection 'admin'"):
        open_source(f"memory://{bucket}/list", stores=lambda uri: opened.append(uri.conn_id) or open_store(uri))
    assert "admin" not in opened
    with pytest.raises(SourceError, match=r"no files|no rows"):  # with the same connection it is read, and empty
        open_source(f"memory://admin@{bucket}/list")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uri": "s3://AKIA:hunter2@bucket/x"}, "credentials"),
        ({"manifest": "https://b/x?X-Amz-Signature=hunter2"}, "credentials"),
        ({"uri": "gs://b/../x"}, r"'\.\.'"),
        ({"uri": 7}, "not complete|relative path"),
        ({"sha256": None}, "not the manifest"),
        ({"manifest": "memory://elsewhere/_distil/manifests/000001.json"}, "elsewhere"),
        ({"manifest": None}, "not complete|relative path"),
    ],
    ids=str,
)
def test_a_member_is_a_summary_like_any_other(bucket, change, message):
    """What is refused in a source must not come in through a manifest, nor must its secret come out in the message."""
    put(bucket, "list", members=[put(bucket, "member") | change])
    with pytest.raises((SourceError, TaskDefinitionError), match=message) as raised:
        open_source(f"memory://{bucket}/list")
    assert "hunter2" not in str(raised.value)


def test_lists_of_lists_end(bucket):
    """A thousand lists, each of the one before, ended in a RecursionError."""
    summary = put(bucket, "0")
    for number in range(1, DEPTH + 3):
        summary = put(bucket, str(number), members=[summary])
    with pytest.raises(SourceError, match="list of lists"):
        open_source(summary)


def test_lists_of_many_lists_end(bucket, monkeypatch):
    """Each of a list's ten members had ten members of ten, and the worker read until its memory was full."""
    monkeypatch.setattr("airflow_distil.datasets.files.MOST_LOOKS", 500)
    summary = put(bucket, "0")
    for number in range(1, DEPTH + 1):
        summary = put(bucket, str(number), members=[summary] * 10)
    with pytest.raises(SourceError, match="over 500"):
        open_source(summary)


def fact(number: int, body: bytes = b"{}") -> Fact:
    return Fact(b"k" * 16, b"n" * 8, number, 1, b"a" * 16, b"w" * 16, number, 0, 0, Kind.ANSWER, body)


def sealed(body: bytes) -> bytes:
    """Return a body with the checksum that anybody can compute."""
    return body + hashlib.sha256(body).digest() + b"distil-1"


def test_a_segment_that_unpacks_without_end_is_refused():
    """A kilobyte of packed zeros is a gigabyte in the memory of each attempt that comes by."""
    bomb = encode_segment([fact(1, b"\0" * 2**27), fact(2, b"\0")])
    assert len(bomb) < 2**20
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="unpacks to more than 64 MiB"):
        decode_segment(bomb)
    assert pa.total_allocated_bytes() - before < 2**20


@pytest.mark.parametrize("length", [2**62, 2**40, -2, 1])
def test_a_buffer_that_lies_about_its_size_is_refused(length):
    """Arrow makes room for as much as is declared: a MemoryError, which nobody expected of a damaged file."""
    before, _, after = encode_segment([fact(1, b"x" * 1000)])[:-40].rpartition(struct.pack("<q", 1000))
    with pytest.raises(ValueError, match=r"unpacks|Arrow"):
        decode_segment(sealed(before + struct.pack("<q", length) + after))


def test_a_segment_that_is_too_large_is_not_looked_at(monkeypatch):
    """Its checksum alone would take seconds for each attempt."""
    monkeypatch.setattr("airflow_distil.datasets.log.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="larger"):
        decode_segment(b"x" * 1001)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
@settings(max_examples=300)
def test_forged_bytes_give_facts_or_a_value_error(at, forged):
    """Another exception ended each attempt at this destination; offsets out of bounds read the process's memory."""
    whole = encode_segment([fact(number, b"body %d" % number) for number in range(3)])[:-40]
    at %= len(whole)
    try:
        found = list(decode_segment(sealed((whole[:at] + forged + whole[at + len(forged) :])[: len(whole)])).facts)
    except ValueError:
        return
    for each in found:
        _pack(each)


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([("key", pa.string())]),
        pa.schema([]),
        pa.schema([*list(SCHEMA)[:-1], pa.field("body", pa.binary())]),
        pa.schema([*list(SCHEMA), pa.field("more", pa.int8())]),
    ],
    ids=lambda schema: "+".join(schema.names),
)
def test_a_segment_with_other_columns_is_refused(schema):
    """Facts were made of other columns."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, schema) as writer:
        writer.write_table(schema.empty_table())
    with pytest.raises(ValueError, match="columns differ"):
        decode_segment(sealed(sink.getvalue().to_pybytes()))


def test_a_segment_with_a_dictionary_is_refused():
    """Its values are in messages of another kind, which the bound on sizes does not see."""
    array = pa.array([b"x" * 16]).dictionary_encode()
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([array], names=["key"])
    with ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(ValueError, match="holds a dictionary"):
        decode_segment(sealed(sink.getvalue().to_pybytes()))


@pytest.mark.parametrize(("name", "value"), [("ordinal", None), ("body", None), ("kind", 77)])
def test_nulls_and_unknown_kinds_are_refused(name, value):
    """The file says that no field is null; nobody makes it keep to that."""
    table = ipc.open_stream(encode_segment([fact(1)])).read_all()
    forged = table.set_column(SCHEMA.names.index(name), SCHEMA.field(name), pa.array([value], SCHEMA.field(name).type))
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, SCHEMA, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(forged.to_batches()[0])
    with pytest.raises(ValueError, match=r"nulls|kind"):
        decode_segment(sealed(sink.getvalue().to_pybytes()))


def test_a_batch_without_facts_is_no_end():
    """We write none, and others may."""
    batch = ipc.open_stream(encode_segment([fact(1)])).read_all().to_batches()[0]
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, SCHEMA, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        for each in (batch.slice(0, 0), batch, batch.slice(0, 0)):
            writer.write_batch(each)
    assert list(decode_segment(sealed(sink.getvalue().to_pybytes())).facts) == [fact(1)]


def test_offsets_that_lead_out_of_their_buffer_are_refused():
    """A body of a negative length, or one that begins behind the file: what is read there is the memory of this process."""
    table = ipc.open_stream(encode_segment([fact(number, b"12345") for number in range(3)])).read_all()
    offsets = pa.py_buffer(struct.pack("<qqqq", 0, 9, 4, 15))
    bodies = pa.Array.from_buffers(pa.large_binary(), 3, [None, offsets, pa.py_buffer(b"x" * 15)])
    forged = pa.record_batch([*(column.combine_chunks() for column in table.columns[:-1]), bodies], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, SCHEMA, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(forged)
    with pytest.raises(ValueError, match="no Arrow stream"):
        decode_segment(sealed(sink.getvalue().to_pybytes()))


@pytest.mark.parametrize(
    "name",
    [
        *("../../other/_distil/log/a/1.arrow", "_distil/log/../../data/x.arrow", "_distil/manifests/000001.json", "", "x"),
        *(
            "/etc/passwd",
            "data/000001-0000000000000000/part-00000.parquet",
            "_distil/log/a/b/../c.arrow",
            "_distil/log/a/1.arrow\0",
        ),
    ],
)
def test_a_compaction_covers_segments_only(name):
    """What is covered is deleted by upkeep."""
    with pytest.raises(ValueError, match="covers"):
        decode_segment(encode_segment([fact(1)], ["_distil/log/000001-0123456789abcdef/000001.arrow", name]))
