"""Two runs of the same task side by side: the same rows, and how their numbers moved."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_distil.datasets.distributions import figures, histogram
from airflow_distil.datasets.shown import cells, plain
from airflow_distil.datasets.table import Table
from airflow_distil.plugins.evidence import Dataset
from airflow_distil.plugins.views import collected

__all__ = ["compare", "differences"]

# Answers are compared as a whole, by a hash of each: a second for 100,000 rows, and beyond this too long to wait for.
MOST_COMPARED = 500_000
# Side by side there is room for more than in a cell of the table.
ANSWER_CHARACTERS = 1500
# Map, row and sample in one number, that Arrow can look up.
ROWS = 2**36
SAMPLES = 2**12


def compare(one: Dataset, other: Dataset, offset: int, limit: int, *, only_different: bool) -> dict[str, Any]:
    """Return rows of two editions by pairs, in the order of the first; those of the other alone come last.

    :return: `pairs` with `one` and `other` (cells, or None) and whether they `differ`; `total` pairs, `same`, `different`,
        `only_one`, `only_other`. Whether answers differ is None for very large datasets.
    """
    pairs = _paired(one, other)
    chosen = pairs.different if only_different and pairs.different is not None else pa.array(range(len(pairs.ones)), pa.int64())
    shown = chosen[offset : offset + limit]
    ones, others = pairs.ones.take(shown), pairs.others.take(shown)
    columns = [name for name in one.outputs if name in other.outputs]
    inputs = [name for name in one.manifest.columns if name not in one.outputs and not name.startswith("distil_")]
    inputs = [
        name for name in inputs if name in one.table.schema.names and name in other.table.schema.names and name != "model_name"
    ]
    left, right = _read(one.table, ones, [*inputs, *columns]), _read(other.table, others, [*inputs, *columns])
    differing = set(pairs.different.to_pylist()) if pairs.different is not None else None
    both = len(pairs.ones) - pairs.only_one - pairs.only_other
    different = None if pairs.different is None else len(pairs.different) - pairs.only_one - pairs.only_other
    return {
        "columns": columns,
        "inputs": inputs,
        "pairs": [
            {"one": a, "other": b, "differ": None if differing is None else number in differing}
            for number, a, b in zip(shown.to_pylist(), left, right, strict=True)
        ],
        "offset": offset,
        "total": len(chosen),
        "both": both,
        "different": different,
        "only_one": pairs.only_one,
        "only_other": pairs.only_other,
    }


def differences(one: Dataset, other: Dataset) -> list[dict[str, Any]]:
    """Return the histograms of the numbers that both editions have, on the same scales."""
    theirs = {(series.name, series.what): series.all for series in collected(other)}
    told = []
    for series in collected(one):
        if (key := (series.name, series.what)) in theirs:
            both = [series.all, theirs[key]]
            told.append(
                {"name": series.name, "what": series.what, **histogram(both), "figures": [figures(each) for each in both]}
            )
    return told


class _Pairs:
    def __init__(self, ones: pa.Int64Array, others: pa.Int64Array, different: pa.Int64Array | None) -> None:
        self.ones, self.others, self.different = ones, others, different
        self.only_one, self.only_other = others.null_count, ones.null_count


@lru_cache(maxsize=4)
def _paired(one: Dataset, other: Dataset) -> _Pairs:
    mine, theirs = _keys(one.table), _keys(other.table)
    found = pc.index_in(mine, value_set=theirs).cast(pa.int64())
    missing = pc.indices_nonzero(pc.invert(pc.is_in(theirs, value_set=mine))).cast(pa.int64())
    ones = pa.concat_arrays([pa.array(range(len(mine)), pa.int64()), pa.nulls(len(missing), pa.int64())])
    others = pa.concat_arrays([found, missing])
    if max(one.table.rows, other.table.rows) > MOST_COMPARED:
        return _Pairs(ones, others, None)
    columns = tuple(name for name in one.outputs if name in other.outputs)
    left, right = _hashes(one, columns).take(ones), _hashes(other, columns).take(others)
    same = pc.fill_null(pc.equal(left, right), fill_value=False)
    return _Pairs(ones, others, pc.indices_nonzero(pc.invert(same)).cast(pa.int64()))


def _keys(table: Table) -> pa.Int64Array:
    if "distil_row" not in table.schema.names:
        return pa.array(range(table.rows), pa.int64())
    names = [name for name in ("distil_map", "distil_row", "distil_sample") if name in table.schema.names]
    keys = []
    for _, batch in table.scan(names):
        parts = {name: batch.column(name).cast(pa.int64()) for name in names}
        zeros = pa.array([0] * batch.num_rows, pa.int64())
        maps, samples = (pc.fill_null(parts.get(name, zeros), -1) for name in ("distil_map", "distil_sample"))
        key = pc.add(pc.multiply(pc.add(maps, 1), ROWS), parts["distil_row"])
        keys.append(pc.add(pc.multiply(key, SAMPLES), pc.add(samples, 1)))
    return pa.concat_arrays(keys) if keys else pa.array([], pa.int64())


def _hashes(dataset: Dataset, columns: tuple[str, ...]) -> pa.Int64Array:
    """Return a number for each row that differs if an answer does (but once in 2**64)."""
    names = [*columns, *(["distil_status"] if "distil_status" in dataset.table.schema.names else [])]
    hashes = [
        hash(json.dumps(plain(row), sort_keys=True)) for _, batch in dataset.table.scan(names) for row in batch.to_pylist()
    ]
    return pa.array(hashes, pa.int64())


def _read(table: Table, positions: pa.Int64Array, columns: list[str]) -> list[dict[str, Any] | None]:
    marks = [name for name in ("distil_row", "distil_sample", "distil_status", "distil_error") if name in table.schema.names]
    known = [position for position in positions.to_pylist() if position is not None]
    found = iter(cells(table.read(known, [*marks, *columns]), ANSWER_CHARACTERS))
    return [None if position is None else next(found) for position in positions.to_pylist()]
