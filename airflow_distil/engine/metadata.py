"""What is behind the rows of the output: an entry for each request, in `distil_metadata`, and the bill of all together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import pyarrow as pa

from airflow_distil.datasets.log import Kind
from airflow_distil.engine.dialogue import Exchange, Outcome
from airflow_distil.tasks.base import Task

__all__ = ["METADATA", "Bill", "Entry", "earlier_entries", "entries", "metadata_array"]

_ENTRY = pa.schema(
    [
        pa.field("task", pa.string()),
        pa.field("model", pa.string()),
        pa.field("input_tokens", pa.int64()),
        pa.field("output_tokens", pa.int64()),
        pa.field("cost_usd", pa.float64()),
        pa.field("finish_reason", pa.string()),
        pa.field("latency_s", pa.float64()),
        pa.field("attempts", pa.int32()),
        pa.field("error", pa.string()),
        pa.field("raw_input", pa.string()),
        pa.field("raw_output", pa.string()),
    ]
)
METADATA = pa.list_(pa.struct(list(_ENTRY)))
_NAMES = _ENTRY.names

# Its fields in the order of `_ENTRY`; a tuple, as there is one for each answer.
Entry = Sequence[Any]

# What Arrow raises for a value of another type.
_UNFIT = (pa.ArrowException, OverflowError)


@dataclass(slots=True)
class Bill:
    """Tokens and dollars behind the rows, each answer counted once. None where the endpoint or the price is unknown."""

    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cost_usd: float | None = 0.0

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Add what the requests of a row cost."""
        for outcome in outcomes:
            for _, fact, body in outcome.trace:
                if fact.kind is Kind.ANSWER or "usage" in body:
                    tokens_in, tokens_out = body.get("usage", (None, None))
                    self.input_tokens = _plus(self.input_tokens, tokens_in)
                    self.output_tokens = _plus(self.output_tokens, tokens_out)
                    self.cost_usd = _plus(self.cost_usd, body.get("cost"))


def entries(task: Task, outcomes: Iterable[Outcome]) -> list[Entry]:
    """Return the entries of what was asked, in order."""
    return [_entry(task, exchange, keep_raw=outcome.status == "unparsed") for outcome in outcomes for exchange in outcome.trace]


def earlier_entries(value: Any) -> list[Entry]:
    """Return the entries that upstream tasks of ours left, of a column that anybody can have written."""
    return [tuple(map(entry.get, _NAMES)) for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def metadata_array(rows: list[list[Entry]]) -> pa.Array:
    """Return the column: the entries of each row."""
    try:
        flat = _struct_array(chain.from_iterable(rows))
    except _UNFIT:
        # The source's own entries can be anybody's; those that are not like ours are left out.
        rows = [[entry for entry in row if _fits(entry)] for row in rows]
        flat = _struct_array(chain.from_iterable(rows))
    offsets = pa.array([0, *accumulate(map(len, rows))], pa.int32())
    return pa.ListArray.from_arrays(offsets, flat, METADATA)


def _entry(task: Task, exchange: Exchange, *, keep_raw: bool) -> Entry:
    turn, _, body = exchange
    return (
        task.name,
        body.get("model") or turn.request.model,
        *body.get("usage", (None, None)),
        body.get("cost"),
        body.get("finish_reason"),
        body.get("latency"),
        body.get("attempts"),
        body.get("error"),
        turn.prompt if task.add_raw_input else None,
        body.get("text") if task.add_raw_output or keep_raw else None,
    )


def _struct_array(flat: Iterable[Entry]) -> pa.StructArray:
    # Field by field: Arrow takes three times as long to find the fields in each entry.
    columns = list(zip(*flat, strict=True)) or [()] * len(_ENTRY)
    fields = [pa.array(column, field.type) for column, field in zip(columns, _ENTRY, strict=True)]
    return pa.StructArray.from_arrays(fields, fields=list(_ENTRY))


def _fits(entry: Entry) -> bool:
    try:
        _struct_array([entry])
    except _UNFIT:
        return False
    return True


def _plus(total: Any, value: Any) -> Any:
    return None if total is None or value is None else total + value
