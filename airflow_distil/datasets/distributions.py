"""How the numbers of a dataset are distributed: scores (also by position and model), lengths of texts, tokens, latencies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_distil.datasets.table import Table, is_list, is_number

__all__ = ["Series", "collect", "figures", "groups_of", "histogram"]

# Rows beyond that are looked at in evenly spread row groups: a picture does not get better, only later.
MOST_ROWS = 500_000
BINS = 32
# Whole numbers get a bar each, if there are no more of them.
MOST_WHOLE = 24
# One answer that took ten minutes must not press all others into one bar. Beyond this quantile they share the last bar.
TAIL = 0.99
FAR = 2.5
MOST_POSITIONS = 12
MOST_MODELS = 8
REQUESTS = ("latency_s", "input_tokens", "output_tokens")


@dataclass
class Series:
    """Numbers of one kind, from all rows.

    :param name: column, or the figure of `distil_metadata`.
    :param what: `value`, `length` (of texts, in characters) or `request` (one number per request).
    :param parts: parts of it, by `position` in the list or by `model`.
    """

    name: str
    what: str
    values: list[pa.DoubleArray] = field(default_factory=list)
    parts: dict[str, dict[str, list[pa.DoubleArray]]] = field(
        default_factory=lambda: {"position": defaultdict(list), "model": defaultdict(list)}
    )

    @property
    def all(self) -> pa.DoubleArray:
        """The numbers that are numbers."""
        return _joined(self.values)


def collect(table: Table, outputs: Sequence[str], task: str | None) -> list[Series]:
    """Return the series of a dataset.

    :param outputs: the task's own columns: their numbers and the lengths of their texts are looked at.
    :param task: name of the task whose requests are looked at; None for those of all.
    """
    kinds = {field.name: field.type for field in table.schema if field.name in outputs}
    models = [each.name for each in table.schema if "model" in each.name.lower() and _texts(each.type)]
    metadata = ["distil_metadata"] if "distil_metadata" in table.schema.names else []
    series: dict[tuple[str, str], Series] = {}
    for _, batch in table.scan(list(dict.fromkeys([*kinds, *models, *metadata])), MOST_ROWS):
        for name, kind in kinds.items():
            what = "value" if _numbers(kind) else "length" if _texts(kind) and name not in models else None
            if what:
                one = series.setdefault((name, what), Series(name, what))
                _add(one, batch.column(name), [batch.column(model) for model in models])
        for name in metadata:
            _add_requests(series, batch.column(name), task)
    return list(series.values())


def histogram(groups: Sequence[pa.DoubleArray]) -> dict[str, Any]:
    """Return bars for some groups of numbers, on one scale.

    :return: `edges` (one more than bars), `bars` per group (counts), `whole` (a bar per whole number: they are between its
        edges), `open` (the last bar holds everything above).
    """
    values = _joined(groups)
    if not len(values):
        return {"edges": [], "bars": [[] for _ in groups], "whole": False, "open": False}
    low, high = pc.min(values).as_py(), pc.max(values).as_py()
    whole = bool(pc.all(pc.equal(pc.floor(values), values)).as_py()) and high - low < MOST_WHOLE
    is_open = False
    if whole:
        low, count, width = low - 0.5, int(high - low) + 1, 1.0
    else:
        near = pc.quantile(values, TAIL)[0].as_py()
        if high - low > FAR * (near - low) > 0:
            high, is_open = near, True
        count = BINS if high > low else 1
        width = (high - low) / count or 1.0
    edges = [low + width * number for number in range(count + 1)]
    return {"edges": edges, "bars": [_bars(group, low, width, count) for group in groups], "whole": whole, "open": is_open}


def figures(values: pa.DoubleArray) -> dict[str, Any]:
    """Return count, mean, min, max, median and the 90th percentile."""
    if not len(values):
        return {"count": 0}
    median, ninetieth = pc.quantile(values, [0.5, 0.9]).to_pylist()
    spread = pc.min_max(values).as_py()
    return {"count": len(values), "mean": pc.mean(values).as_py(), **spread, "median": median, "p90": ninetieth}


def _bars(values: pa.DoubleArray, low: float, width: float, count: int) -> list[int]:
    if not len(values):
        return [0] * count
    places = pc.floor(pc.divide(pc.subtract(values, low), width))
    places = pc.min_element_wise(pc.max_element_wise(places, 0.0), float(count - 1)).cast(pa.int64())
    bars = [0] * count
    for item in pc.value_counts(places).to_pylist():
        bars[item["values"]] = item["counts"]
    return bars


def _add(series: Series, column: pa.Array, models: Sequence[pa.Array]) -> None:
    listed = is_list(column.type)
    items = pc.list_flatten(column) if listed else column
    values = _measured(items, series.what)
    series.values.append(values)
    if series.what == "length":
        return
    if listed:
        parents = pc.list_parent_indices(column)
        starts = _starts(column)
        positions = pc.subtract(pa.array(range(len(items)), pa.int64()), pc.take(starts, parents))
        for position in range(MOST_POSITIONS):
            chosen = values.filter(pc.equal(positions, position))
            if not len(chosen):
                break
            series.parts["position"][str(position)].append(chosen)
    for model in models:
        if is_list(model.type) != listed:
            continue
        names = pc.list_flatten(model) if listed else model
        if listed and not pc.list_value_length(model).equals(pc.list_value_length(column)):
            continue
        for name in pc.unique(names).to_pylist():
            known = series.parts["model"]
            if name is not None and (name in known or len(known) < MOST_MODELS):
                known[name].append(values.filter(pc.equal(names, name)))


def _add_requests(series: dict[tuple[str, str], Series], column: pa.Array, task: str | None) -> None:
    entries = pc.list_flatten(column)
    if not pa.types.is_struct(entries.type):
        return
    by_name = dict(zip((each.name for each in entries.type), entries.flatten(), strict=True))
    ours = None if task is None or "task" not in by_name else pc.fill_null(pc.equal(by_name["task"], task), fill_value=False)
    for name in REQUESTS:
        if name in by_name and is_number(by_name[name].type):
            values = by_name[name] if ours is None else by_name[name].filter(ours)
            series.setdefault((name, "request"), Series(name, "request")).values.append(_measured(values, "value"))


def _measured(values: pa.Array, what: str) -> pa.DoubleArray:
    return (pc.utf8_length(values) if what == "length" else values).cast(pa.float64(), safe=False)


def _starts(column: pa.Array) -> pa.Array:
    """Return, for each list, where its items begin among all of them."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int64())
    return pc.subtract(pc.cumulative_sum(lengths), lengths)


def _joined(groups: Sequence[pa.DoubleArray]) -> pa.DoubleArray:
    values = pa.concat_arrays([pa.array([], pa.float64()), *groups])
    return values.filter(pc.fill_null(pc.is_finite(values), fill_value=False))


def _numbers(kind: pa.DataType) -> bool:
    # Vectors are lists of float32; their numbers say nothing one by one.
    return is_number(kind) or (is_list(kind) and is_number(kind.value_type) and not pa.types.is_float32(kind.value_type))


def _texts(kind: pa.DataType) -> bool:
    kind = kind.value_type if is_list(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def groups_of(series: Series) -> Iterator[tuple[str, str, pa.DoubleArray]]:
    """Yield (`position` or `model`, which one, its numbers) where there are several to compare."""
    for what, parts in series.parts.items():
        if len(parts) > 1:
            for name, values in parts.items():
                yield what, name, _joined(values)
