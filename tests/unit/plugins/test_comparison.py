from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_distil.datasets.stores import FileStore
from airflow_distil.datasets.table import Table
from airflow_distil.datasets.uri import URI
from airflow_distil.plugins import comparison
from airflow_distil.plugins.comparison import compare, differences


def edition(folder: Path, name: str, rows: list[dict[str, Any]]) -> Any:
    """Return what is compared: a table, and which of its columns are the task's."""
    content = pa.Table.from_pylist(rows)
    pq.write_table(content, folder / f"{name}.parquet", row_group_size=2)
    return Edition(
        table=Table([(FileStore(URI.parse(str(folder))), [f"{name}.parquet"])]),
        outputs=["answer", "score"],
        manifest=SimpleNamespace(columns=dict.fromkeys(content.column_names), task={}),
    )


class Edition(SimpleNamespace):
    __hash__ = object.__hash__


def row(number: int, answer: str, score: float, sample: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "question": f"q{number}",
        "answer": answer,
        "score": score,
        "distil_row": number,
        "distil_map": None,
        "distil_sample": sample,
        "distil_status": "ok",
        **more,
    }


def test_rows_are_matched_by_their_number_and_sample(tmp_path):
    """A row that was added at the beginning made all others differ."""
    one = edition(
        tmp_path, "one", [row(0, "new", 1.0), *(row(n, f"a{n}", 2.0, s) for n in (1, 2) for s in (0, 1)), row(9, "x", 3.0)]
    )
    other = edition(
        tmp_path, "other", [*(row(n, f"a{n}", 2.0, s) for n in (1, 2) for s in (0, 1)), row(9, "y", 3.0), row(7, "z", 0.0)]
    )
    found = compare(one, other, 0, 50, only_different=False)
    assert [(pair["one"] and pair["one"]["answer"], pair["other"] and pair["other"]["answer"]) for pair in found["pairs"]] == [
        ("new", None),
        *((f"a{n}", f"a{n}") for n in (1, 1, 2, 2)),
        ("x", "y"),
        (None, "z"),
    ]
    assert [pair["differ"] for pair in found["pairs"]] == [True, False, False, False, False, True, True]
    assert (found["both"], found["different"], found["only_one"], found["only_other"]) == (5, 1, 1, 1)
    assert (found["columns"], found["inputs"]) == (["answer", "score"], ["question"])
    fewer = compare(one, other, 1, 1, only_different=True)
    assert (fewer["total"], [pair["one"]["answer"] for pair in fewer["pairs"]]) == (3, ["x"])


def test_a_row_that_fails_now_is_another_answer(tmp_path):
    """The same empty columns, once because nothing was said and once because all failed, were called the same."""
    one, other = (
        edition(tmp_path, "one", [row(0, "", 0.0, distil_status="failed")]),
        edition(tmp_path, "two", [row(0, "", 0.0)]),
    )
    assert compare(one, other, 0, 9, only_different=True)["different"] == 1


def test_huge_editions_are_not_compared_whole(tmp_path, monkeypatch):
    """Reading two terabytes for one figure."""
    monkeypatch.setattr(comparison, "MOST_COMPARED", 0)
    one, other = edition(tmp_path, "one", [row(0, "a", 0.0)]), edition(tmp_path, "two", [row(0, "b", 0.0)])
    found = compare(one, other, 0, 9, only_different=True)
    assert (found["different"], found["pairs"][0]["differ"], found["total"]) == (None, None, 1)


def test_numbers_stand_on_the_same_scale(tmp_path):
    """Two pictures side by side, each with a scale of its own, look alike whatever is in them."""
    one, other = edition(tmp_path, "one", [row(n, "a", 1.0) for n in range(3)]), edition(tmp_path, "two", [row(0, "bb", 5.0)])
    told = {each["name"]: each for each in differences(one, other)}
    assert told["score"]["edges"] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert told["score"]["bars"] == [[3, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert [each["mean"] for each in told["answer"]["figures"]] == [1.0, 2.0]
