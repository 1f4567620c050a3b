"""A whole job on every store: rows from it, facts and editions to it."""

from __future__ import annotations

import json

from airflow_distil.datasets.files import find_parts
from airflow_distil.datasets.filesystem import open_parts
from airflow_distil.datasets.stores import open_store
from tests.unit.engine.lab import Lab, Model, ask

ROWS = 40


def test_a_job_reads_and_writes_there(any_root, tmp_path):
    """A store that keeps its contract piece by piece, and fails at what a job does with it: threads, files, globs."""
    lines = [json.dumps({"instruction": f"question {number}"}) + "\n" for number in range(ROWS)]
    source = open_store(any_root / "in")
    source.put("a.jsonl", "".join(lines[: ROWS // 2]).encode())
    source.put("b.jsonl", "".join(lines[ROWS // 2 :]).encode())
    lab, model = Lab(tmp_path / "scratch"), Model()
    lab.store = open_store(any_root / "out")

    first = lab.job(f"{any_root}/in/*.jsonl", model).run()
    assert (first.edition, first.rows, first.ok) == (1, ROWS, ROWS)
    rows = open_parts(find_parts(str(any_root / "out"))).to_table().to_pylist()
    assert [row["instruction"] for row in rows] == [f"question {number}" for number in range(ROWS)]
    paid = len(model.requests)

    # Asked again with another row, from another host: what is known comes out of the store.
    source.put("c.jsonl", b'{"instruction": "one more"}\n')
    lab.scratch = tmp_path / "another host"
    second = lab.job(f"{any_root}/in/*.jsonl", model, ask=ask(2)).run()
    assert (second.edition, second.rows, second.ok) == (2, ROWS + 1, ROWS + 1)
    assert len(model.requests) == paid + 1
