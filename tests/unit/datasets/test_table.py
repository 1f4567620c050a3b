from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_distil.datasets import table as module
from airflow_distil.datasets.stores import FileStore
from airflow_distil.datasets.table import Query, Table
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import SourceError

ROWS = 100
CONTENT = pa.table(
    {
        "text": [f"Row {number} says {'Grüße' if number % 10 == 3 else 'hello'}" for number in range(ROWS)],
        "tags": [[f"tag{number}", "every"] if number % 2 else None for number in range(ROWS)],
        "chat": [[{"role": "user", "content": f"turn {number}"}] for number in range(ROWS)],
        "score": [None if number == 50 else float(number * 37 % 101) for number in range(ROWS)],
        "distil_row": list(range(ROWS)),
        "distil_status": ["failed" if number % 25 == 0 else "ok" for number in range(ROWS)],
        "distil_metadata": [[{"raw_output": "secret words"}] for _ in range(ROWS)],
    }
)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """The rows above in three files of two groups each."""
    for number, start in enumerate(range(0, ROWS, 40)):
        pq.write_table(CONTENT.slice(start, 40), tmp_path / f"{number}.parquet", row_group_size=23)
    return Table([(FileStore(URI.parse(str(tmp_path))), [f"{number}.parquet" for number in range(3)])])


def numbers(table: Table, positions: object) -> list[int]:
    return table.read(list(positions), ["distil_row"]).column("distil_row").to_pylist()  # type: ignore[call-overload]


def test_any_rows_in_any_order(table):
    """A page over the edge of a group, or of a file, missed a row or had one of another place."""
    assert table.rows == ROWS
    for positions in ([], [0], [99, 0, 41, 41, 22, 23], list(range(35, 50)), list(range(ROWS))):
        assert numbers(table, positions) == positions
    assert table.read([79, 80], ["text", "score"]).equals(CONTENT.select(["text", "score"]).slice(79, 2))


def test_a_page_of_a_group_is_not_the_whole_group(table, monkeypatch):
    """The first rows of a large group took as long as all of them."""
    monkeypatch.setattr(module, "MOST_BATCH_ROWS", 4)
    decoded = []
    batches = module._File.batches
    monkeypatch.setattr(
        module._File, "batches", lambda *given: (decoded.append(batch.num_rows) or batch for batch in batches(*given))
    )
    assert numbers(table, range(3)) == [0, 1, 2]
    assert sum(decoded) == 4


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), range(ROWS)),
        (Query(statuses=frozenset({"failed"})), [0, 25, 50, 75]),
        (Query(text="GRÜSSE"), []),
        (Query(text="grüße"), range(3, ROWS, 10)),
        (Query(text="TAG4"), [41, 43, 45, 47, 49]),
        (Query(text="turn 99"), [99]),
        (Query(text="secret"), []),
        (Query(text=".*"), []),
        (Query(text="failed", statuses=frozenset({"failed"})), [0, 25, 50, 75]),
    ],
)
def test_what_matches_is_found(table, query, expected):
    """A search that took a text for a pattern, that missed lists, or that found what nobody sees."""
    assert numbers(table, table.find(query).page(0, ROWS)) == list(expected)


@pytest.mark.parametrize("descending", [False, True])
def test_numbers_are_sorted_and_what_is_none_comes_last(table, descending):
    """Sorted as text, 100 comes before 20; and a row without a score is neither the best nor the worst."""
    found = table.find(Query(sort="score", descending=descending)).page(0, ROWS)
    scores = table.read(found, ["score"]).column("score").to_pylist()
    assert scores[-1] is None
    assert scores[:-1] == sorted(scores[:-1], reverse=descending)
    assert sorted(found) == list(range(ROWS))


@pytest.mark.parametrize("column", ["text", "nothing"])
def test_only_numbers_are_sorted(table, column):
    """A name in an address that is no column of numbers was a crash."""
    with pytest.raises(SourceError, match="numbers"):
        table.find(Query(sort=column))


def test_select_is_the_same_rows_in_the_same_order(table):
    """What is downloaded was not what is shown."""
    for query in (Query(), Query(text="hello"), Query(sort="score", descending=True, statuses=frozenset({"ok"}))):
        found = pa.Table.from_batches(table.select(query), table.schema)
        assert found.column("distil_row").to_pylist() == numbers(table, table.find(query).page(0, ROWS))
        assert found.schema == table.schema


def test_a_search_that_takes_too_long_says_so(table, monkeypatch):
    """The first rows of a huge dataset were shown as all that there is."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    assert not table.find(Query(text="hello")).complete


def test_readers_do_not_disturb_each_other(table):
    """One file object, read by two threads, gives each a part of the other's bytes."""
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda start: numbers(table, range(start, start + 10)), list(range(0, 90, 10)) * 6))
    assert pages == [list(range(start, start + 10)) for start in list(range(0, 90, 10)) * 6]


def test_parts_of_different_columns(tmp_path):
    """A list of datasets, of which one has a column more, could not be opened."""
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"a": [2.5]}), tmp_path / "1.parquet")
    table = Table([(FileStore(URI.parse(str(tmp_path))), ["0.parquet", "1.parquet"])])
    assert table.read([1, 0], ["b", "a"]).to_pylist() == [{"b": None, "a": 2.5}, {"b": "x", "a": 1.0}]


def test_what_is_gone_is_no_table(tmp_path):
    """A deleted file became a dataset without rows."""
    with pytest.raises(FileNotFoundError):
        Table([(FileStore(URI.parse(str(tmp_path))), ["0.parquet"])])
    with pytest.raises(SourceError):
        Table([])
