"""Bad input, by name: what is in the files, and what must come of it."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import gzip
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_distil.exceptions import DistilError, SourceError, TaskDefinitionError

__all__ = ["BROKEN_WITHIN", "COLUMNS", "LITERALS", "READ", "REFUSED", "Read", "Refused", "parquet"]


@dataclass(frozen=True)
class Refused:
    """Refused before the first call.

    :param files: what is in the source's folder, or what makes it.
    :param says: what the message must contain.
    :param at: the source, relative to that folder.
    :param rows: the source itself, if it is no folder.
    """

    name: str
    files: Mapping[str, bytes] | Callable[[Path], None] = field(default_factory=dict)
    says: Sequence[str] = ()
    error: type[DistilError] = SourceError
    at: str = ""
    rows: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Read:
    """Read, with a fate for each row.

    :param fates: statuses, in the order of the rows.
    :param rows: source columns of the output; None if they are not compared.
    :param errors: what the error of each row that is not ok must contain.
    """

    name: str
    files: Mapping[str, bytes] | Callable[[Path], None] = field(default_factory=dict)
    fates: Sequence[str] = ("ok",)
    rows: Sequence[Mapping[str, Any]] | None = None
    errors: str = ""
    at: str = ""
    literal: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


def parquet(table: pa.Table | Mapping[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), sink, **options)
    return sink.getvalue()


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def zst(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def q(text: Any, **more: Any) -> dict[str, Any]:
    return {"instruction": text, **more}


MANY = [q(f"question {number}") for number in range(1000)]
FORMATS = {
    "jsonl": lines(*MANY),
    "json": json.dumps(MANY).encode(),
    "csv": b"instruction\n" + b"".join(f"question {number}\n".encode() for number in range(1000)),
    "parquet": parquet(pa.Table.from_pylist(MANY)),
}
PACKS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zst}
UNPACKED = {name: data for name, data in FORMATS.items() if name != "parquet"}


def nested_text(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return f'{{"instruction": "a", "x": {opening * depth}1{closing * depth}}}'.encode()


def nested_list(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def not_utf8() -> pa.Array:
    """Arrow's own writer does not look; nor do others."""
    return pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")])


def page_of(data: bytes, group: int) -> int:
    return int(pq.ParquetFile(io.BytesIO(data)).metadata.row_group(group).column(0).data_page_offset)


def replaced(data: bytes, at: int, by: bytes) -> bytes:
    return data[:at] + by + data[at + len(by) :]


def looping(folder: Path) -> None:
    (folder / "x.jsonl").write_bytes(lines(q("a")))
    (folder / "loop").symlink_to(folder / "loop")


def link_up(folder: Path) -> None:
    (folder / "x.jsonl").write_bytes(lines(q("a")))
    (folder / "up").symlink_to(folder)


def named_in_bytes(folder: Path) -> None:
    (folder / "\udcff.jsonl").write_bytes(lines(q("a")))


def as_csv(*rows: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


MENDS = "Nothing was asked"
TWO_FIELDS = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["k", "k"])

REFUSED = [
    # Nothing in it
    *(
        Refused(f"empty {name}{pack}", {f"x.{name}{pack}": b""}, ["no rows", "Nothing was asked", "short_circuit"])
        for name in UNPACKED
        for pack in PACKS
    ),
    Refused("empty parquet", {"x.parquet": b""}, [r"x\.parquet cannot be read", "0 bytes", MENDS]),
    Refused("headers only", {"x.csv": b"instruction,b\n"}, ["no rows"]),
    Refused("a table without rows", {"x.parquet": parquet({"instruction": pa.array([], pa.string())})}, ["no rows"]),
    Refused("an empty array", {"x.json": b" [ ] "}, ["no rows"]),
    Refused("objects without keys", {"x.jsonl": b"{}\n{}\n"}, ["no columns"]),
    # Cut off
    *(
        Refused(f"cut {name}{pack}", {f"x.{name}{pack}": write(data)[: -len(data) // 90]}, [rf"x\.{name}{pack}", MENDS])
        for name, data in UNPACKED.items()
        for pack, write in PACKS.items()
        if pack
    ),
    *(
        Refused(f"cut in the head {pack}", {f"x.jsonl{pack}": PACKS[pack](FORMATS["jsonl"])[:6]}, ["cannot be read", MENDS])
        for pack in (".gz", ".zst")
    ),
    Refused("cut json", {"x.json": FORMATS["json"][:-1]}, [r"x\.json, line 1: expected ',' or '\]'", MENDS]),
    Refused("cut parquet", {"x.parquet": FORMATS["parquet"][:-30]}, [r"x\.parquet cannot be read", "footer", MENDS]),
    Refused("head of a parquet", {"x.parquet": FORMATS["parquet"][:100]}, [r"x\.parquet cannot be read", MENDS]),
    Refused("encrypted parquet", {"x.parquet": FORMATS["parquet"][:-4] + b"PARE"}, [r"x\.parquet", "encrypt", MENDS]),
    # Another format than the name says
    Refused("csv called jsonl", {"x.jsonl": FORMATS["csv"]}, [r"x\.jsonl, line 1: not JSON", MENDS]),
    Refused("csv called json", {"x.json": FORMATS["csv"]}, [r"x\.json, row 1, line 1: not JSON", MENDS]),
    Refused("csv called parquet", {"x.parquet": FORMATS["csv"]}, [r"x\.parquet.*not a parquet file", MENDS]),
    Refused("parquet called csv", {"x.csv": FORMATS["parquet"]}, [r"x\.csv, line \d+.*not CSV in UTF-8", MENDS]),
    Refused("parquet called jsonl", {"x.jsonl": FORMATS["parquet"]}, [r"x\.jsonl, line 1.*not JSON", MENDS]),
    Refused("parquet called json", {"x.json": FORMATS["parquet"]}, [r"x\.json, .*line \d+.*not JSON", MENDS]),
    Refused("gz that is none", {"x.jsonl.gz": b"\x1f\x8bnonsense"}, [r"x\.jsonl\.gz cannot be read", "zlib", MENDS]),
    Refused("zst that is none", {"x.csv.zst": b"\x28\xb5\x2f\xfdnonsense"}, [r"x\.csv\.zst cannot be read", MENDS]),
    Refused("compressed parquet", {"x.parquet.gz": b""}, ["cannot tell the format"], TaskDefinitionError),
    Refused("no format", {"notes.txt": b"a"}, [r"cannot tell the format of .*notes\.txt", "pattern"], TaskDefinitionError),
    # Encodings
    Refused("latin-1 csv", {"x.csv": as_csv(["instruction"], *[["a"]] * 5000) + b"\xe9\n"}, [r"line 5002, byte 1 \(0xe9\)"]),
    Refused("latin-1 jsonl", {"x.jsonl": lines(*MANY, b'{"instruction": "\xe9"}')}, [r"line 1001, byte 18 \(0xe9\)", MENDS]),
    Refused("latin-1 json", {"x.json": b'[{"instruction": "a"},\n{"instruction": "\xe9"}]'}, [r"line 2, byte 18", MENDS]),
    Refused("half a character", {"x.json": '{"instruction": "é'.encode()[:-1]}, [r"line 1, byte 18 \(0xc3\)", MENDS]),
    *(
        Refused(f"utf-16 {name}", {f"x.{name}": data.decode().encode("utf-16")}, [r"line 1, byte 1 \(0xff\)", "UTF-8", MENDS])
        for name, data in UNPACKED.items()
    ),
    Refused("a raw NUL in JSON", {"x.jsonl": lines(q("a"), b'{"instruction": "a\0"}')}, ["line 2: not JSON", "control", MENDS]),
    # CSV
    Refused("too few values", {"x.csv": b"instruction,b\n1,2\n3\n"}, ["line 3: 1 values in 2 columns", "'instruction', 'b'"]),
    Refused("too many values", {"x.csv": b"instruction,b\n1,2,3\n"}, ["line 2: 3 values in 2 columns", MENDS]),
    Refused("open quote", {"x.csv": b'instruction,b\n1,2\n3,"4\n5,6\n'}, ["record from line 3: not CSV", MENDS]),
    Refused("text after a quote", {"x.csv": b'instruction\n"a"b\n'}, ["record from line 2: not CSV", MENDS]),
    Refused("one name twice", {"x.csv": b"instruction,instruction\n1,2\n"}, ["several columns named 'instruction'", "Rename"]),
    Refused("no names", {"x.csv": b"instruction,,\n1,2,3\n"}, ["several columns named ''", "Rename"]),
    Refused("semicolons", {"x.csv": b"instruction;b\n1;2\n"}, ["reads 'instruction'", "'instruction;b'"], TaskDefinitionError),
    Refused(
        "not of its declared type",
        {"x.csv": b"instruction,n\na,1\nb,x\n"},
        ["line 3: 'x' in column 'n'"],
        options={"schema": {"n": "int64"}},
    ),
    # JSON
    Refused("broken last line", {"x.jsonl": lines(*MANY) + b'{"instruc'}, [r"x\.jsonl, line 1001: not JSON", MENDS]),
    Refused("a list for a row", {"x.jsonl": lines(q("a"), [1])}, [r"line 2: a row is an object.*\[1\]", MENDS]),
    Refused("null for a row", {"x.jsonl": lines(q("a"), None)}, ["line 2: a row is an object", MENDS]),
    Refused("list of lists", {"x.json": b'[["a"], ["b"]]'}, ["row 1, line 1: a row is an object", MENDS]),
    Refused(
        "a number too long", {"x.jsonl": lines(q("a"), b'{"instruction": ' + b"9" * 5000 + b"}")}, ["line 2", "4300", MENDS]
    ),
    *(
        Refused(f"nested {depth} deep, {name}", {f"x.{name}": lines(q("a"), text)}, ["line 2", "nested over 100 levels", MENDS])
        for depth in (100, 300, 600, 950, 100_000)
        for name in ("jsonl", "json")
        for text in (nested_text(depth),)
    ),
    Refused("nested objects", {"x.jsonl": nested_text(600, '{"k":', "}")}, ["line 1", "nested over 100 levels"]),
    Refused("half a pair far down", {"x.jsonl": nested_text(600).replace(b'"a"', rb'"\ud83d"')}, ["nested over 100 levels"]),
    # Parquet
    Refused(
        "duplicate columns",
        {"x.parquet": parquet(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["instruction", "instruction"]))},
        ["several columns named 'instruction'", "Rename"],
    ),
    Refused(
        "duplicate fields",
        {"x.parquet": parquet({"instruction": ["a"], "x": TWO_FIELDS})},
        [r"x\.parquet, column 'x' has several columns named 'k'", "Rename"],
    ),
    # Several files
    Refused(
        "another type in the second file",
        {"1.jsonl": lines(q("a", n="x")), "2.jsonl": lines(q("a", n=1))},
        [r"column 'n' is int64 in .*2\.jsonl, and string in files before", "schema=", "columns="],
    ),
    Refused(
        "a value that does not fit the second file's type",
        {
            "1.parquet": parquet({"instruction": ["a"], "n": [2**60 + 1]}),
            "2.parquet": parquet({"instruction": ["a"], "n": [0.5]}),
        },
        [r"1\.parquet: column 'n' is int64 and cannot be read as double", "Nothing was asked|What was answered is kept"],
    ),
    Refused("one broken file among good ones", {"1.jsonl": lines(q("a")), "2.jsonl": b"{"}, [r"2\.jsonl, line 1", MENDS]),
    # Columns that are ours
    Refused(
        "a column of the task's",
        {"x.jsonl": lines(q("a", generation="b"))},
        ["'generation'", "output_mappings="],
        TaskDefinitionError,
    ),
    Refused(
        "a column of the engine's",
        {"x.jsonl": lines(q("a", model_name="b"))},
        ["'model_name'", "output_mappings="],
        TaskDefinitionError,
    ),
    Refused("a missing column", {"x.csv": b"question\na\n"}, ["reads 'instruction'", "input_mappings="], TaskDefinitionError),
    # Types that nobody can write
    Refused(
        "a declared type without a form in Parquet",
        {"x.jsonl": lines(q("a", n=None))},
        ["'n' is month_day_nano_interval", "cannot be written to Parquet", MENDS],
        options={"schema": {"n": "month_day_nano_interval"}},
    ),
    # Paths
    Refused("nothing matches", {"x.jsonl": lines(q("a"))}, ["no files match", MENDS], at="*.csv"),
    Refused(
        "only a folder matches",
        {"y.jsonl/x.jsonl": lines(q("a"))},
        ["no files match", r"matches the folder .*y\.jsonl"],
        at="*.jsonl",
    ),
    Refused("nothing there", {"x.jsonl": lines(q("a"))}, [r"no file .*none\.jsonl", "Check the path"], at="none.jsonl"),
    Refused("dots", {"x.jsonl": lines(q("a"))}, ["'..' segment"], TaskDefinitionError, at="../in/x.jsonl"),
    Refused("a template that was not rendered", {"x.jsonl": lines(q("a"))}, [r"no file .*\{\{ ds \}\}"], at="{{ ds }}.jsonl"),
    Refused("a loop of links", looping, ["symbolic links", "loop"]),
    Refused("a name that is not UTF-8", named_in_bytes, ["not UTF-8", "Rename"], TaskDefinitionError),
    Refused("a NUL in the path", rows="/x\0/*.jsonl", says=["NUL"], error=TaskDefinitionError),
    # Rows
    Refused("no literal rows", rows=[], says=["no rows", MENDS]),
    Refused("an empty literal row", rows=[{}], says=["no columns"]),
    Refused("text for rows", rows=["a"], says=["relative path"], error=TaskDefinitionError),
    Refused("numbers for rows", rows=[1], says=["source is a int"], error=TaskDefinitionError),
    Refused("None for rows", rows=[None], says=["NoneType"], error=TaskDefinitionError),
    Refused("one row", rows={"instruction": "a"}, says=[r"One row is \[row\]"], error=TaskDefinitionError),
    Refused("rows and URIs", rows=[q("a"), "/x"], says=["mixes URIs and rows"], error=TaskDefinitionError),
    *(
        Refused(
            f"a key that is {key!r}",
            rows=[q("a"), {key: "x"}],
            says=["row 1", "cannot be hashed", MENDS],
            error=TaskDefinitionError,
        )
        for key in (1, None, (1, 2), b"x")
    ),
    Refused("a set", rows=[q("a", x={1, 2})], says=["row 0", "a set has no text"], error=TaskDefinitionError),
    Refused("an object", rows=[q("a", x=object())], says=["row 0", "a object has no text"], error=TaskDefinitionError),
    Refused("keys that are bytes", rows=[q("a", x={b"k": 1})], says=["row 0", "cannot be hashed"], error=TaskDefinitionError),
    Refused("nested rows", rows=[q("a"), q("b", x=nested_list(500))], says=["row 1", "nested over 100 levels"]),
]

NAMES = [
    "a b",
    "é日",
    "a%20b",
    "%2F",
    "a#b",
    "a?b",
    "a*b",
    "{{ ds }}",
    "{% x %}",
    "a:b@c",
    "a\nb",
    "a\\b",
    "'\"",
    "~",
    "$HOME",
    "a&b=c",
    "#",
    "%",
]

READ = [
    *(
        Read(f"well-formed {name}{pack}", {f"x.{name}{pack}": write(data)}, ["ok"] * 1000, MANY)
        for name, data in UNPACKED.items()
        for pack, write in PACKS.items()
    ),
    Read("plain text called gz", {"x.jsonl.gz": lines(q("a"))}, rows=[q("a")]),
    Read("gz called plain", {"x.jsonl": gzip.compress(lines(q("a")))}, rows=[q("a")]),
    Read("an empty file beside others", {"1.csv": b"", "2.csv": b"instruction\na\n", "3.jsonl": b""}, rows=[q("a")]),
    Read("headers only beside others", {"1.csv": b"instruction,b\n", "2.csv": b"instruction\na\n"}, rows=[q("a", b=None)]),
    # CSV
    Read("byte order mark", {"x.csv": b"\xef\xbb\xbfinstruction\na\n"}, rows=[q("a")]),
    Read("no name for one column", {"x.csv": b"instruction,\na,1\n"}, rows=[{"instruction": "a", "": "1"}]),
    Read("Windows line ends", {"x.csv": b"instruction,b\r\na,1\r\nb,2\r\n"}, ["ok"] * 2, [q("a", b="1"), q("b", b="2")]),
    Read("line ends of old Macs", {"x.csv": b"instruction,b\ra,1\rb,2"}, ["ok"] * 2, [q("a", b="1"), q("b", b="2")]),
    Read("lines in a value", {"x.csv": b'instruction,b\n"a\r\nb",1\n'}, rows=[q("a\r\nb", b="1")]),
    Read("NUL in CSV", {"x.csv": b"instruction,x\0y\na\0b,c\n"}, rows=[{"instruction": "a\0b", "x\0y": "c"}]),
    # JSON
    Read(
        "NUL in JSON",
        {"x.jsonl": lines(rb'{"instruction": "a\u0000b", "x\u0000y": 1}')},
        rows=[{"instruction": "a\0b", "x\0y": 1}],
    ),
    Read("a blank line", {"x.jsonl": lines(q("a"), b"", b"  ", q("b"))}, ["ok"] * 2, [q("a"), q("b")]),
    Read(
        "half of a pair",
        {"x.jsonl": lines(rb'{"instruction": "a\ud83d", "k\udc00": "\ud83d\ude00"}')},
        rows=[{"instruction": "a\ufffd", "k\ufffd": "😀"}],
    ),
    Read("equal keys: the last counts", {"x.jsonl": b'{"instruction": "a", "instruction": "b"}'}, rows=[q("b")]),
    Read("a key without text", {"x.jsonl": lines({"instruction": "a", "": 1})}, rows=[{"instruction": "a", "": 1}]),
    Read("a huge integer", {"x.jsonl": lines(q("a", n=2**100))}, rows=[q("a", n=str(2**100))]),
    Read(
        "an integer that no float holds",
        {"x.jsonl": lines(q("a", n=1e999), q("b", n=1))},
        ["ok"] * 2,
        [q("a", n=math.inf), q("b", n=1.0)],
    ),
    Read(
        "no number", {"x.jsonl": lines(b'{"instruction": "a", "n": NaN}', b'{"instruction": "a", "n": -Infinity}')}, ["ok"] * 2
    ),
    Read(
        "no number among text",
        {"x.jsonl": lines(b'{"instruction": "a", "n": [NaN]}', q("b", n="s"))},
        ["ok"] * 2,
        [q("a", n='["nan"]'), q("b", n='"s"')],
    ),
    Read("one object", {"x.json": b'{\n"instruction": "a"}'}, rows=[q("a")]),
    *(
        Read(f"nested {depth} deep", {"x.jsonl": nested_text(depth)}, rows=[q("a", x="[" * depth + "1" + "]" * depth)])
        for depth in (40, 60, 98)
    ),
    Read("nested 30 deep", {"x.jsonl": nested_text(30)}, rows=[q("a", x=nested_list(30))]),
    # Several files
    Read(
        "a column missing in one",
        {"1.jsonl": lines(q("a")), "2.jsonl": lines(q("b", n=1))},
        ["ok"] * 2,
        [q("a", n=None), q("b", n=1)],
    ),
    Read(
        "a required column missing in one",
        {"1.jsonl": lines(q("a")), "2.jsonl": lines({"n": 1})},
        ["ok", "failed"],
        errors="null",
    ),
    Read(
        "all of the columns read missing in one",
        {"1.jsonl": lines({"n": 1}, {"n": 2}), "2.parquet": parquet({"n": [3]}), "3.csv": b"n\n4\n", "4.jsonl": lines(q("a"))},
        ["failed"] * 4 + ["ok"],
        [q(None)] * 4 + [q("a")],
        errors="null",
        options={"columns": ["instruction"]},
    ),
    Read(
        "another order",
        {"1.csv": b"instruction,b\na,1\n", "2.csv": b"b,instruction\n2,b\n"},
        ["ok"] * 2,
        [q("a", b="1"), q("b", b="2")],
    ),
    Read(
        "no nulls in one, and no column in the other",
        {
            "1.parquet": parquet(
                pa.table(
                    [pa.array(["a"]), pa.array([1])],
                    pa.schema([("instruction", pa.string()), pa.field("n", pa.int64(), nullable=False)]),
                )
            ),
            "2.jsonl": lines(q("b")),
        },
        ["ok"] * 2,
        [q("a", n=1), q("b", n=None)],
    ),
    # Beyond a limit
    *(
        Read(f"broken beyond the limit, {name}", {f"x.{name}": data}, rows=[q("a", n=n)], options={"limit": 1})
        for name, data, n in (
            ("jsonl", lines(q("a", n=1), b"{"), 1),
            ("json", b'[{"instruction": "a", "n": 1}, {', 1),
            ("csv", b"instruction,n\na,1\nb\n", "1"),
        )
    ),
    Read(
        "another type beyond the limit",
        {"x.jsonl": lines(q("a", n=1), q("b", n="x"))},
        rows=[q("a", n=1)],
        options={"limit": 1},
    ),
    Read(
        "a limit over several files",
        {"1.jsonl": lines(q("a"), q("b")), "2.parquet": parquet({"instruction": ["c", "d"]})},
        ["ok"] * 3,
        [q("a"), q("b"), q("c")],
        options={"limit": 3},
    ),
    # Values
    Read(
        "nulls and empty text",
        {"x.jsonl": lines(q("a"), q(None), q(""))},
        ["ok", "failed", "ok"],
        [q("a"), q(None), q("")],
        errors="null",
    ),
    Read("text and numbers", {"x.jsonl": lines(q("a"), q(1), q([1]))}, ["ok", "failed", "failed"], errors="must be text"),
    # Names that are ours, in data of others
    *(
        Read(f"{name} is {value!r}", {"x.jsonl": lines({"instruction": "a", name: value})}, ["ok"])
        for name in ("distil_row", "distil_map", "distil_sample", "distil_status", "distil_error", "distil_metadata")
        for value in (5, ["x"], {"k": 1}, [{"task": 5, "input_tokens": "x"}], None)
    ),
    Read(
        "rows that upstream gave up on",
        {"x.jsonl": lines(q("a", distil_status="failed", distil_error=["x", 5]))},
        ["skipped"],
        errors="x",
    ),
    Read(
        "statuses of several types",
        {"x.jsonl": lines(q("a", distil_status=["failed"]), q("b", distil_status="failed"))},
        ["ok", "skipped"],
    ),
    # Paths
    *(Read(f"a file called {name!r}", {f"{name}.jsonl": lines(q("a"))}, at=f"{name}.jsonl", rows=[q("a")]) for name in NAMES),
    *(Read(f"in a folder called {name!r}", {f"{name}/x.jsonl": lines(q("a"))}, rows=[q("a")]) for name in NAMES),
    Read("a closing slash", {"x.jsonl": lines(q("a"))}, at="x.jsonl//", rows=[q("a")]),
    Read(
        "a pattern that matches a folder, too",
        {"x.jsonl": lines(q("a")), "y.jsonl/x.jsonl": lines(q("b"))},
        at="*.jsonl",
        rows=[q("a")],
    ),
    Read("a link to the folder above", link_up, rows=[q("a")]),
    # Rows
    Read("different keys", literal=[q("a"), q("b", n=1)], fates=["ok"] * 2, rows=[q("a", n=None), q("b", n=1)]),
]

EPOCH = dt.datetime(2020, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001 - columns of either kind are made of it
LITERALS: dict[str, tuple[Any, Any]] = {
    "bytes": (b"\xff", b"\xff"),
    "datetime": (EPOCH, EPOCH),
    "date": (EPOCH.date(), EPOCH.date()),
    "timedelta": (dt.timedelta(1), dt.timedelta(1)),
    "Decimal": (decimal.Decimal("1.50"), decimal.Decimal("1.50")),
    "infinity": (math.inf, math.inf),
    "tuple": ((1, 2), [1, 2]),
    "huge": (2**100, str(2**100)),
}
"""Values that JSON cannot hold, and what the output has."""

COLUMNS: dict[str, tuple[pa.Array, str | None]] = {
    "struct": (pa.array([{"a": 1, "b": {"c": "x"}}]), "{'a': 1, 'b': {'c': 'x'}}"),
    "list": (pa.array([["a", None]]), "['a', None]"),
    "large_list": (pa.array([["a"]], pa.large_list(pa.string())), "['a']"),
    "list_view": (pa.array([["a"]], pa.list_view(pa.string())), "['a']"),
    "fixed_size_list": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), "[1, 2]"),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "[('k', 1)]"),
    "decimal128": (pa.array([decimal.Decimal("1.50")]), "1.50"),
    "decimal256": (pa.array([decimal.Decimal("1" * 60)], pa.decimal256(76, 2)), "1" * 60 + ".00"),
    "timestamp": (pa.array([EPOCH], pa.timestamp("us")), "2020-01-02 03:04:05.000006"),
    "timestamp tz": (pa.array([EPOCH], pa.timestamp("us", "Asia/Tokyo")), "2020-01-02 12:04:05.000006+09:00"),
    "timestamp offset": (pa.array([EPOCH], pa.timestamp("us", "+05:30")), "2020-01-02 08:34:05.000006+05:30"),
    "timestamp ns": (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
    "timestamp ns, in microseconds": (pa.array([1000], pa.timestamp("ns")), "1970-01-01 00:00:00.000001"),
    "timestamp ns tz": (pa.array([1], pa.timestamp("ns", "Asia/Tokyo")), "1970-01-01 00:00:00.000000001Z"),
    "timestamp in 148,108": (pa.array([2**62], pa.timestamp("us")), f"<value out of range: {2**62}>"),
    "timestamp of no zone": (pa.array([EPOCH], pa.timestamp("us", "Mars/Phobos")), "2020-01-02 03:04:05.000006Z"),
    "list of timestamp ns": (pa.array([[1, None]], pa.list_(pa.timestamp("ns"))), "['1970-01-01 00:00:00.000000001', None]"),
    "struct of timestamp ns": (
        pa.array([{"a": 1}], pa.struct([("a", pa.timestamp("ns"))])),
        "{'a': '1970-01-01 00:00:00.000000001'}",
    ),
    "map of timestamp ns": (
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.timestamp("ns"))),
        "[('k', '1970-01-01 00:00:00.000000001')]",
    ),
    "date32": (pa.array([EPOCH.date()]), "2020-01-02"),
    "date in 2,941,764": (pa.array([2**30], pa.date32()), f"<value out of range: {2**30}>"),
    "date64": (pa.array([EPOCH.date()], pa.date64()), "2020-01-02"),
    "time32": (pa.array([1], pa.time32("ms")), "00:00:00.001000"),
    "time64": (pa.array([1], pa.time64("us")), "00:00:00.000001"),
    "time64 ns": (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
    "duration": (pa.array([1], pa.duration("us")), "0:00:00.000001"),
    "duration ns": (pa.array([1], pa.duration("ns")), "1"),
    "duration of all time": (pa.array([2**62], pa.duration("s")), str(2**62)),
    "binary": (pa.array([b"\xff"]), "b'\\xff'"),
    "fixed_size_binary": (pa.array([b"ab"], pa.binary(2)), "b'ab'"),
    "dictionary": (pa.array(["a"]).dictionary_encode(), "a"),
    "list of dictionary": (pa.ListArray.from_arrays([0, 1], pa.array(["a"]).dictionary_encode()), "['a']"),
    "large_string": (pa.array(["a"], pa.large_string()), "a"),
    "string_view": (pa.array(["a"], pa.string_view()), "a"),
    "binary_view": (pa.array([b"a"], pa.binary_view()), "b'a'"),
    "list of string_view": (pa.array([["a"]], pa.list_(pa.string_view())), "['a']"),
    "float16": (pa.array([1.5], pa.float16()), "1.5"),
    "null": (pa.nulls(1), None),
    "uint64": (pa.array([2**63 + 1], pa.uint64()), str(2**63 + 1)),
    "bool": (pa.array([True]), "True"),
    "NaN": (pa.array([math.nan]), "nan"),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))),
        "30303030-3030-3030-3030-303030303030",
    ),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), "{'a': 1}"),
    "json that is none": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{bad"])), "{bad"),
    "json nested deep": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["[" * 500 + "]" * 500])), "[" * 500 + "]" * 500),
    "large json": (
        pa.ExtensionArray.from_storage(pa.json_(pa.large_string()), pa.array(['{"a": 1}'], pa.large_string())),
        "{'a': 1}",
    ),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8())), "True"),
    "opaque of timestamp ns": (
        pa.ExtensionArray.from_storage(pa.opaque(pa.timestamp("ns"), "type", "vendor"), pa.array([1], pa.timestamp("ns"))),
        "1970-01-01 00:00:00.000000001",
    ),
    "struct of many": (
        pa.array(
            [{"t": 1, "m": None, "d": 2**62}],
            pa.struct(
                [
                    ("t", pa.timestamp("ns")),
                    ("m", pa.map_(pa.string(), pa.duration("ns"))),
                    ("d", pa.duration("s")),
                ]
            ),
        ),
        "{'t': '1970-01-01 00:00:00.000000001', 'm': None, 'd': '4611686018427387904'}",
    ),
    "tensor": (
        pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int8(), (2,)), pa.array([[1, 2]], pa.list_(pa.int8(), 2))),
        "[1, 2]",
    ),
    "opaque": (pa.ExtensionArray.from_storage(pa.opaque(pa.string(), "type", "vendor"), pa.array(["x"])), "x"),
}
"""Columns of one row, and how a prompt shows it; None if the row fails."""

_ROWS = pa.Table.from_pylist([q(f"question {number}") for number in range(3000)])
_ZSTD = parquet(_ROWS, row_group_size=1000, use_dictionary=False, compression="zstd")
_PLAIN = parquet(_ROWS, row_group_size=1000, use_dictionary=False, compression="none", write_page_checksum=True)
_TEXT = pa.chunked_array([_ROWS["instruction"].slice(0, 2998), not_utf8()])
BROKEN_WITHIN: dict[str, tuple[bytes, str]] = {
    "a page's header": (replaced(_ZSTD, page_of(_ZSTD, 2), b"\xff" * 20), "thrift"),
    "a page's content": (replaced(_ZSTD, page_of(_ZSTD, 2) + 60, b"\xff" * 20), "ZSTD decompression failed"),
    "a page's content, whose checksum tells": (replaced(_PLAIN, page_of(_PLAIN, 2) + 200, b"xyz"), "CRC"),
    "text that is not UTF-8": (
        parquet({"instruction": _TEXT}, row_group_size=1000, use_dictionary=False),
        "rows 2048 to 2999, column 'instruction': not string: Invalid UTF8",
    ),
}
"""Parquet files of 3,000 rows that are broken after some of them, and what the error says of it."""
