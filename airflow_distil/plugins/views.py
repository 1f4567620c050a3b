"""What the pages show, as JSON: made of believed datasets, and of what Airflow and the task instance say of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow.compute as pc

from airflow_distil.datasets.distributions import Series, collect, figures, groups_of, histogram
from airflow_distil.datasets.manifest import FORMAT
from airflow_distil.datasets.shown import cells, kind_of, whole
from airflow_distil.datasets.table import Found, Query, Table
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DistilError
from airflow_distil.plugins import attempts as log
from airflow_distil.plugins.evidence import NOTHING, Dataset, Place, Problem, believe, readable, within_roots

__all__ = ["RUN", "attempts", "dataset", "distributions", "failure", "instance", "line", "locate", "neighbours", "row", "rows"]

RUN = ("dag_run_id", "state", "run_after", "logical_date", "start_date", "end_date", "run_type")
INSTANCE = (
    "state",
    "try_number",
    "max_tries",
    "start_date",
    "end_date",
    "duration",
    "operator_name",
    "task_display_name",
    "rendered_map_index",
    "hostname",
)
COUNTS = ("rows", "ok", "unparsed", "failed", "skipped")
# What every row of the table has, whatever columns are chosen.
MARKS = ("distil_row", "distil_sample", "distil_map", "distil_status")
MOST_INPUTS = 20
# Ours are shorter; others' may hold a page of HTML.
LONGEST_ERROR = 4000


def instance(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task instance as Airflow knows it."""
    return {name: known.get(name) for name in INSTANCE}


def neighbours(tasks: Sequence[Mapping[str, Any]], task_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the tasks before and after one."""
    by_name = {task["task_id"]: task for task in tasks}
    after = (by_name.get(task_id) or {}).get("downstream_task_ids") or []
    before = [name for name, task in by_name.items() if task_id in (task.get("downstream_task_ids") or [])]

    def told(name: str) -> dict[str, Any]:
        return {"task_id": name, "mapped": bool(by_name.get(name, {}).get("is_mapped"))}

    return {"upstream": [told(name) for name in before], "downstream": [told(name) for name in after]}


def failure(events: Any) -> str | None:
    """Return the last error of a log, as Airflow's API gives it."""
    for event in reversed(events if isinstance(events, list) else []):
        details = event.get("error_detail") if isinstance(event, Mapping) else None
        if details and isinstance(details[0], Mapping):
            return str(details[0].get("exc_value"))[:LONGEST_ERROR]
    return None


def line(known: Mapping[str, Any], summary: Any, progress: Any) -> dict[str, Any]:
    """Return a task instance in the list of a run: its figures as it tells them itself; nothing is read for them."""
    published = summary if isinstance(summary, Mapping) and summary.get("format") == FORMAT else {}
    return {
        "task_id": known["task_id"],
        "map_index": known["map_index"],
        "rendered_map_index": known.get("rendered_map_index"),
        "state": known.get("state"),
        "operator_name": known.get("operator_name"),
        "duration": known.get("duration"),
        "summary": {name: published.get(name) for name in (*COUNTS, "edition", "model", "cost_usd")} if published else None,
        "progress": progress if isinstance(progress, Mapping) else None,
    }


def dataset(found: Dataset, place: Place) -> dict[str, Any]:
    """Return what is known of an edition."""
    manifest = found.manifest
    with readable(place):
        schema = found.table.schema
    inputs = manifest.source.get("inputs")
    inputs = inputs if isinstance(inputs, list) else []
    return {
        **manifest.model_dump(
            include={
                *COUNTS,
                "edition",
                "claim",
                "round",
                "fingerprint",
                "fencing",
                "created_at",
                "lost",
                "input_tokens",
                "output_tokens",
                "cost_usd",
                "model",
                "numbers",
                "reasons",
                "task",
                "limits",
                "versions",
            }
        ),
        "uri": str(found.uri),
        "bytes": sum(part.bytes for part in manifest.parts),
        "parts": len(manifest.parts),
        "members": len(manifest.members),
        # What an earlier run had published and this one took over, as nothing was to be done.
        "published_by": None if manifest.identity.run_id == place.run_id else manifest.identity.run_id,
        "inputs": [whole(each, 500) for each in inputs[:MOST_INPUTS]],
        "more_inputs": max(0, len(inputs) - MOST_INPUTS),
        "columns": [
            {"name": field.name, "type": str(field.type), "kind": kind_of(field.type), "role": _role(found, field.name)}
            for field in schema
        ],
        "raw": {name: bool(manifest.task.get(f"add_raw_{name}")) for name in ("input", "output")},
    }


def rows(found: Dataset, query: Query, columns: Sequence[str], offset: int, limit: int) -> dict[str, Any]:
    """Return a page of rows."""
    table = found.table
    names = [name for name in dict.fromkeys([*MARKS, *columns]) if name in table.schema.names]
    matching = _find(table, query)
    positions = matching.page(offset, limit)
    page = cells(table.read(positions, names))
    return {
        "rows": [{"position": position, "cells": each} for position, each in zip(positions, page, strict=True)],
        "offset": offset,
        "total": len(matching.positions),
        "complete": matching.complete,
    }


def locate(found: Dataset, query: Query, ordinal: int) -> dict[str, Any]:
    """Return at which place of a query the row with an ordinal is (the first one, if it has several samples), or None."""
    matching = _find(found.table, query)
    wanted = 0
    for start, batch in found.table.scan(["distil_row"]):
        place = pc.index(batch.column("distil_row"), ordinal).as_py()
        if place >= 0:
            wanted = start + place
            break
    else:
        return {"index": None}
    positions = matching.positions
    if isinstance(positions, range):
        return {"index": wanted}
    index = pc.index(positions, wanted).as_py()
    return {"index": index if index >= 0 else None}


def row(found: Dataset, position: int) -> dict[str, Any]:
    """Return one row: all that is known of it.

    :raises Problem: if there is none at that position.
    """
    if position >= found.table.rows:
        raise Problem("nothing", "There is no such row.", "The dataset may have changed: reload the page.")
    (one,) = found.table.read([position], found.table.schema.names).to_pylist()
    return {"position": position, "row": whole(one)}


def distributions(found: Dataset) -> list[dict[str, Any]]:
    """Return the histograms of a dataset, each with those of its parts on the same scale."""
    return [_pictured(series) for series in collected(found)]


@lru_cache(maxsize=16)
def collected(found: Dataset) -> list[Series]:
    """Return the series of a dataset; a believed dataset is one object as long as it is fresh."""
    name = found.manifest.task.get("name")
    return collect(found.table, found.outputs, name if isinstance(name, str) else None)


def attempts(place: Place, summary: Any, progress: Any, tries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what each attempt did and paid, and how Airflow saw its tries."""
    uri = _destination(place, summary, progress)
    with readable(place):
        try:
            told = log.attempts(within_roots(uri), place)
        except LookupError:
            raise Problem(*NOTHING) from None
    known = ("try_number", "state", "start_date", "end_date", "duration", "hostname")
    return {**told, "tries": [{name: each.get(name) for name in known} for each in tries]}


def _destination(place: Place, summary: Any, progress: Any) -> URI:
    """Return where a task instance writes, as far as it can be believed: whose it is, its first claim tells."""
    try:
        return believe(summary, place).uri
    except Problem as problem:
        if problem.kind != NOTHING[0] or not isinstance(progress, Mapping) or not isinstance(progress.get("destination"), str):
            raise
    try:
        return URI.parse(progress["destination"])
    except DistilError:
        raise Problem(*NOTHING) from None


def _role(found: Dataset, name: str) -> str:
    if name.startswith("distil_"):
        return "ours"
    return "output" if name in found.outputs else "input"


@lru_cache(maxsize=8)
def _find(table: Table, query: Query) -> Found:
    return table.find(query)


def _pictured(series: Series) -> dict[str, Any]:
    parts = list(groups_of(series))
    everything = series.all
    bars = histogram([everything, *(values for *_, values in parts)])
    return {
        "name": series.name,
        "what": series.what,
        **bars,
        "figures": figures(everything),
        "parts": [
            {"by": by, "name": name, "bars": bar, "figures": figures(values)}
            for (by, name, values), bar in zip(parts, bars["bars"][1:], strict=True)
        ],
        "bars": bars["bars"][0],
    }
