"""What every format promises: all rows, in order, in small batches, whatever the compression and the store."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_distil.datasets.readers import (
    CSVReader,
    JSONReader,
    ParquetReader,
    Reader,
    array_of_objects,
    format_of,
    lines,
)
from airflow_distil.datasets.source import rows_of
from airflow_distil.exceptions import SourceError, TaskDefinitionError

ROWS = [{"text": f"row {number}\nä 日本 \u2028 '\"", "n": number, "f": number / 4} for number in range(3000)]


def as_jsonl(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_json(rows) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_csv(rows) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["text"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=1000)
    return sink.getvalue()


def plain(data: bytes) -> bytes:
    return data


def zst(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def gz_in_members(data: bytes) -> bytes:
    """As `cat a.gz b.gz` makes it."""
    return gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])


TYPES = {"n": pa.int64(), "f": pa.float64()}
TEXT = [plain, gzip.compress, zst, gz_in_members]
FORMATS = [
    pytest.param(reader, write, pack, id=f"{name}-{pack.__name__}")
    for name, reader, write, packs in [
        ("parquet", ParquetReader, as_parquet, [plain]),
        ("jsonl", lambda **bounds: JSONReader(lines, **bounds), as_jsonl, TEXT),
        ("json", lambda **bounds: JSONReader(array_of_objects, **bounds), as_json, TEXT),
        ("csv", lambda **bounds: CSVReader(TYPES, **bounds), as_csv, TEXT),
    ]
    for pack in packs
]


def read(reader: Reader, data: bytes, limit: int | None = None) -> list[dict[str, Any]]:
    def opened():
        return io.BytesIO(data)

    contents = reader.scan(opened, "a file", limit)
    batches = list(reader.batches(opened, "a file", contents.schema))
    assert all(batch.schema == contents.schema for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert contents.rows == (len(rows) if limit is None else min(limit, len(rows)))
    return rows


def broken(reader: Reader, data: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        read(reader, data)
    return str(caught.value)


@pytest.mark.parametrize(("reader", "write", "pack"), FORMATS)
class TestReader:
    def test_rows_in_order(self, reader, write, pack):
        """A row lost or moved at a batch's or a block's end."""
        assert read(reader(), pack(write(ROWS))) == ROWS

    def test_batches_are_small(self, reader, write, pack):
        """A row group or file given as one batch is held while its rows wait for their answers."""
        data = pack(write(ROWS))
        contents = reader().scan(lambda: io.BytesIO(data), "a file")
        sizes = [batch.num_rows for batch in reader().batches(lambda: io.BytesIO(data), "a file", contents.schema)]
        assert max(sizes) <= 1024
        assert sum(sizes) == len(ROWS)

    def test_bytes_bound_a_batch(self, reader, write, pack):
        """A thousand long documents are a gigabyte."""
        rows = [{"text": "x" * 10_000, "n": number, "f": 0.5} for number in range(50)]
        rows = [{**row, "text": f"{row['n']}{row['text']}"} for row in rows]
        data = pack(write(rows))
        bounded = reader(bytes=50_000)
        contents = bounded.scan(lambda: io.BytesIO(data), "a file")
        batches = list(bounded.batches(lambda: io.BytesIO(data), "a file", contents.schema))
        assert max(batch.num_rows for batch in batches) <= 6
        assert [row for batch in batches for row in batch.to_pylist()] == rows

    def test_some_columns(self, reader, write, pack):
        """A projection that gives the columns of the file's order under other names."""
        data = pack(write(ROWS[:5]))
        schema = pa.schema([("f", pa.float64()), ("text", pa.string())])
        batches = reader().batches(lambda: io.BytesIO(data), "a file", schema)
        assert [row for batch in batches for row in batch.to_pylist()] == [{"f": r["f"], "text": r["text"]} for r in ROWS[:5]]

    def test_limited_scan(self, reader, write, pack):
        """Counting a terabyte to read ten rows."""
        data = pack(write(ROWS))
        assert reader().scan(lambda: io.BytesIO(data), "a file", 10).rows == 10
        assert reader().scan(lambda: io.BytesIO(data), "a file", 10_000).rows == len(ROWS)

    def test_cut_off_file(self, reader, write, pack):
        """A half-uploaded file read as a shorter one."""
        data = pack(write(ROWS))
        with pytest.raises((SourceError, OSError, pa.ArrowException)):
            read(reader(), data[: len(data) * 2 // 3 - 1])


JSONL, JSON = JSONReader(lines), JSONReader(array_of_objects)


@pytest.mark.parametrize("ending", ["", "\n", "\n\n  \n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_jsonl_edges(ending, mark):
    """A byte order mark in the first key; a blank last line taken for a broken row; Windows line ends."""
    assert read(JSONL, f'{mark}{{"a": 1}}\r\n\n{{"a": 2}}{ending}'.encode()) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', "line 3"),
        ("[1]", r"line 3.*a row is an object"),
        ("12", r"line 3.*a row is an object"),
        ('{"a": 1} {"a": 2}', "line 3.*Extra data"),
        ("[" * 100_000, "line 3"),
    ],
)
def test_jsonl_broken_line(line, message):
    """An error without the line sends the user through a million rows."""
    with pytest.raises(SourceError, match=message):
        read(JSONL, f'{{"a": 1}}\n\n{line}\n{{"a": 2}}\n'.encode())


def test_jsonl_not_utf8():
    """Latin-1 text decoded with replacement characters is asked about, and paid."""
    assert "line 2" in broken(JSONL, b'{"a": "x"}\n{"a": "\xe9"}\n')


def test_json_types_unify_over_all_rows():
    """Types taken from the first batch: a later float, key or non-null value was an error or was cut."""
    rows = [{"a": None, "b": 1, "c": [], "d": {}}] * 1500 + [{"a": "x", "b": 1.5, "c": [1.5], "d": {"k": 1}, "e": True}]
    got = read(JSONL, as_jsonl(rows))
    assert got[0] == {"a": None, "b": 1.0, "c": [], "d": {"k": None}, "e": None}
    assert got[-1] == rows[-1]


@pytest.mark.parametrize("odd", ["x", [1], [1, "x"], {"k": 1}, 2**70, True, None])
@pytest.mark.parametrize("at", [0, 1500])
def test_json_values_of_several_types_stay_what_they_are(odd, at):
    """One row with a value of another type stopped the whole source; it must reach its task as it is, and cost one row."""
    rows = [{"a": n, "b": "text"} for n in range(3000)]
    rows[at] = {"a": odd, "b": "text"}
    data = as_jsonl(rows)
    schema = JSONL.scan(lambda: io.BytesIO(data), "a file").schema
    assert schema.field("b").type == "string"
    got = [row for batch in JSONL.batches(lambda: io.BytesIO(data), "a file", schema) for row in rows_of(batch)]
    assert got == rows


def test_json_integer_that_no_float_holds():
    """Found in the second pass, after half of the rows were paid for."""
    rows = [{"a": 2**60 + 1}] + [{"a": 1}] * 2000 + [{"a": 0.5}]
    with pytest.raises(SourceError, match=r"line 1: column 'a' is double elsewhere"):
        JSONL.scan(lambda: io.BytesIO(as_jsonl(rows)), "a file")


def test_json_objects_without_keys_can_be_stored():
    """Parquet has no empty struct: the write pass failed after every call was paid."""
    rows = [{"a": {}, "b": [{}], "c": {"d": {}, "e": 1}}, {"a": None, "b": [], "c": None}]
    data = as_jsonl(rows)
    contents = JSONL.scan(lambda: io.BytesIO(data), "a file")
    table = pa.Table.from_batches(JSONL.batches(lambda: io.BytesIO(data), "a file", contents.schema))
    pq.write_table(table, pa.BufferOutputStream())
    assert table.to_pylist() == [{"a": None, "b": [None], "c": {"d": None, "e": 1}}, {"a": None, "b": [], "c": None}]


def test_json_half_of_a_surrogate_pair():
    """An emoji cut by somebody's truncation stopped the whole file; a whole pair must stay whole."""
    got = read(JSONL, b'{"a": "x\\ud83d", "b": ["\\ud83d\\ude00"]}\n')
    assert got == [{"a": "x\ufffd", "b": ["😀"]}]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a": 1}', [{"a": 1}]),
        ('\ufeff {"a":\n 1}\n', [{"a": 1}]),
        ('[{"a": 1},{"a": 2}]', [{"a": 1}, {"a": 2}]),
        ("[]", []),
        ("", []),
        (" [\n]\n ", []),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
    ],
)
def test_json_framings(text, rows):
    """Pretty-printed, single, empty, or JSON Lines under the name .json."""
    assert read(JSON, text.encode()) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}', "line 1: expected"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: expected ','"),
        ('[{"a": 1},\n{"a": }]', "row 2, line 2"),
        ('[{"a": 1},\n3]', "row 2, line 2.*a row is an object"),
        ('[{"a": 1}] x', "more after"),
        ("[1, 2]", "row 1"),
        ('[{"a": 1},]', "row 2"),
        ('"x"', "row 1"),
    ],
)
def test_json_broken(text, message):
    """A cut array read as a shorter one; an error without its place."""
    with pytest.raises(SourceError, match=message):
        read(JSON, text.encode())


def test_json_objects_across_chunks():
    """The decoder stops inside a string, a literal, an escape or a number at the end of what it was given."""
    rows = [{"s": "\\u00e9\n" * 5_000 + str(number), "b": True, "n": -1.25e-7, "e": "😀"} for number in range(60)]
    assert read(JSON, json.dumps(rows).encode()) == rows
    assert read(JSON, json.dumps([{"s": "x" * 3_000_000, "n": 1}, {"s": "y", "n": 2}]).encode())[1] == {"s": "y", "n": 2}


def test_json_broken_element_does_not_pull_in_the_file():
    """To tell "cut off" from "broken" by reading on takes the whole file into memory."""
    read_so_far = []

    class Watched(io.BytesIO):
        def readinto(self, buffer):
            read_so_far.append(len(buffer))
            return super().readinto(buffer)

    data = b'[{"a": 1}, {"a" 2}, ' + b'{"a": 1},' * 3_000_000 + b"]"
    with pytest.raises(SourceError, match="row 2"):
        JSON.scan(lambda: Watched(data), "a file")
    assert sum(read_so_far) < 10 * 2**20


def test_csv_values():
    """Guessed types turn "007" into 7, "NA" into null and "1e5" into a number."""
    data = '\ufeffa,b,"c\nd"\r\n007,,"x\ny"\r\nNA,1e5,"say ""hi"", you"\r\n\r\ntrue,null, z \r\n'.encode()
    assert read(CSVReader(), data) == [
        {"a": "007", "b": "", "c\nd": "x\ny"},
        {"a": "NA", "b": "1e5", "c\nd": 'say "hi", you'},
        {"a": "true", "b": "null", "c\nd": " z "},
    ]


def test_csv_declared_types():
    """A declared type that is ignored, or an empty value that is not null."""
    types = {"i": pa.int64(), "f": pa.float64(), "b": pa.bool_(), "t": pa.timestamp("us"), "other": pa.int64()}
    (first, second) = read(CSVReader(types), b"i,f,b,t,s\n1,2.5,true,2026-01-02T03:04:05,x\n,,,,\n")
    assert (first["i"], first["f"], first["b"], first["t"].isoformat()) == (1, 2.5, True, "2026-01-02T03:04:05")
    assert second == {"i": None, "f": None, "b": None, "t": None, "s": ""}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2\n3\n", "line 3: 1 values in 2 columns"),
        (b"a,b\n1,2,3\n", "line 2: 3 values in 2 columns"),
        (b'a,b\n1,"2\n3,4\n', "line 2: not CSV.*unexpected end"),
        (b"a,a\n1,2\n", "several columns named 'a'"),
        (b"a,n\n1,2\n1,x\n", "line 3: 'x' in column 'n' is no int64"),
        (b"a\n\xff\n", "not CSV in UTF-8"),
    ],
)
def test_csv_broken(data, message):
    """Rows shifted by a column, or swallowed by a quote that is never closed."""
    with pytest.raises(SourceError, match=message):
        read(CSVReader(TYPES), data)


@pytest.mark.parametrize("data", [b"", b"a,b\n", b"a,b"])
def test_csv_without_rows(data):
    """Exports leave empty shards."""
    assert read(CSVReader(), data) == []


def test_csv_long_value():
    """Python's parser refuses values above 128 KiB by default."""
    assert read(CSVReader(), b"a\n" + b"x" * 300_000 + b"\n") == [{"a": "x" * 300_000}]


def test_parquet_names_and_types():
    """A projection by path: column "a" also took "a.b"; text stored as categories differs from file to file."""
    table = pa.table({"a": [1], "a.b": [2], "s": pa.array(["x"]).dictionary_encode(), "z": [{"y": 1}]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    reader = ParquetReader()
    contents = reader.scan(lambda: io.BytesIO(sink.getvalue()), "a file")
    assert contents.schema.field("s").type == pa.string()
    assert read(reader, sink.getvalue()) == [{"a": 1, "a.b": 2, "s": "x", "z": {"y": 1}}]
    (batch,) = reader.batches(lambda: io.BytesIO(sink.getvalue()), "a file", pa.schema([("a", pa.int64())]))
    assert batch.to_pylist() == [{"a": 1}]


def test_parquet_nulls_in_lists():
    """Arrow breaks nulls inside lists when it casts a column to the type that it has."""
    rows = [{"a": [None] * number, "b": {"c": [None]}, "d": number} for number in range(3000)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=1000)
    assert read(ParquetReader(), sink.getvalue()) == rows


def test_parquet_duplicate_columns():
    """The second column silently won."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), sink)
    assert "several columns named 'a'" in broken(ParquetReader(), sink.getvalue())


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("x.parquet", "parquet"),
        ("a.b.jsonl", "jsonl"),
        ("X.NDJSON.GZ", "jsonl"),
        ("x.json.zst", "json"),
        ("gs://b/x.csv.gz", "csv"),
    ],
)
def test_format_of(name, format):
    """A known suffix not recognised."""
    assert format_of(name) == format


@pytest.mark.parametrize("name", ["x", "x.txt", "x.gz", "x.parquet.gz", "parquet", "x.jsonl.bz2"])
def test_unknown_format(name):
    """A text file read as something else."""
    if name == "parquet":
        assert format_of(name) == "parquet"  # a bare name is its own suffix; harmless
        return
    with pytest.raises(TaskDefinitionError, match=r"\.parquet, \.jsonl, \.ndjson, \.json, \.csv"):
        format_of(name)


# Bounded memory


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """60,000 rows, 100 MB of text, in three files."""
    folder = tmp_path_factory.mktemp("big")
    rows = 60_000
    text = [f"{number:09d}" * 180 for number in range(rows)]
    with gzip.open(folder / "x.jsonl.gz", "wt", compresslevel=1) as file:
        for number in range(rows):
            file.write(f'{{"n": {number}, "text": "{text[number]}"}}\n')
    with gzip.open(folder / "x.json.gz", "wt", compresslevel=1) as file:
        for number in range(rows):
            file.write(f'{"," if number else "["}{{"n": {number}, "text": "{text[number]}"}}')
        file.write("]")
    # One row group of everything: the worst that a writer does.
    table = pa.table({"n": range(rows), "text": text})
    pq.write_table(table, folder / "x.parquet", row_group_size=rows, use_dictionary=False, compression="none")
    return folder


@pytest.mark.parametrize(
    ("reader", "name"),
    [(ParquetReader(), "x.parquet"), (JSONL, "x.jsonl.gz"), (JSON, "x.json.gz")],
    ids=["parquet", "jsonl", "json"],
)
def test_memory_is_bounded(big, reader, name):
    """A file, or a row group, loaded whole: 100 MB here, 100 GB at the user's."""
    baseline = pa.total_allocated_bytes()
    arrow = 0
    tracemalloc.start(1)
    try:

        def opened():
            return (big / name).open("rb", buffering=0)

        contents = reader.scan(opened, name)
        count = 0
        for batch in reader.batches(opened, name, contents.schema):
            count += batch.num_rows
            arrow = max(arrow, pa.total_allocated_bytes() - baseline)
        _, python = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == contents.rows == 60_000
    assert arrow < 24 * 2**20
    assert python < 24 * 2**20


# Any rows

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = [
    TEXTS,
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
]
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)


def kinds(depth: int = 2) -> st.SearchStrategy:
    """Strategies of one type each, as a column has one type."""
    flat = st.sampled_from(SCALARS).map(lambda values: values | st.none())
    if not depth:
        return flat
    below = kinds(depth - 1)
    listed = below.map(lambda values: st.lists(values, max_size=3))
    nested = st.dictionaries(NAMES, below, min_size=1, max_size=3).map(st.fixed_dictionaries)
    return flat | listed | nested


ANY_ROWS = st.dictionaries(NAMES, kinds(), min_size=1, max_size=4).flatmap(
    lambda columns: st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=12)
)
BOUNDS = st.fixed_dictionaries({"rows": st.integers(1, 5), "bytes": st.integers(1, 100)})


@settings(max_examples=80, deadline=None)
@given(ANY_ROWS, BOUNDS, st.sampled_from(TEXT))
def test_any_rows_as_json(rows, bounds, pack):
    """A value, key or batch size that changes what is read."""
    assert read(JSONReader(lines, **bounds), pack(as_jsonl(rows))) == rows
    assert read(JSONReader(array_of_objects, **bounds), pack(as_json(rows))) == rows


@settings(max_examples=40, deadline=None)
@given(ANY_ROWS, BOUNDS)
def test_any_rows_as_parquet(rows, bounds):
    """A nested value that is lost between pages."""
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=3)
    assert read(ParquetReader(**bounds), sink.getvalue()) == rows


@settings(max_examples=80, deadline=None)
@given(
    st.lists(NAMES, min_size=1, max_size=4, unique=True).flatmap(
        lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, TEXTS)), min_size=1, max_size=12)
    ),
    BOUNDS,
    st.sampled_from(TEXT),
)
def test_any_rows_as_csv(rows, bounds, pack):
    """Quotes, separators and line ends of all kinds in values and names."""
    assert read(CSVReader(**bounds), pack(as_csv(rows))) == rows
