"""What a look at a task shows: prompts, answers, and what all rows would cost, as text and as HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_distil.engine.estimate import Estimate
from airflow_distil.exceptions import one_line
from airflow_distil.llms.prices import dollars

__all__ = ["Preview", "Sample", "unanswered"]

# A prompt may be a whole book; a terminal and a notebook show how it begins.
SHOWN_IN_TEXT, SHOWN_IN_HTML = 1000, 20_000


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of the source that was looked at.

    :param row: its number in the source, from 0.
    :param prompts: what it asks, as text; of a conversation that was not asked, its first turn.
    :param answers: what the model said to each of them; empty if it was not asked.
    :param status: what became of it: `ok`, `unparsed` or `failed`; `skipped` if upstream gave it up; None if it was not asked.
    :param error: why it is not ok.
    :param outputs: the task's columns, of each sample of the row.
    :param requests: how many answers it took.
    :param input_tokens: of all its requests; None if unknown, or not asked.
    :param output_tokens: of all its answers.
    :param cost_usd: of all its answers.
    """

    row: int
    prompts: tuple[str, ...]
    answers: tuple[str | None, ...] = ()
    status: str | None = None
    error: str | None = None
    outputs: tuple[Mapping[str, Any], ...] = ()
    requests: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


def unanswered(samples: Iterable[Sample]) -> bool:
    """Tell whether rows were asked, and none of them was answered."""
    asked = [sample for sample in samples if sample.requests]
    return bool(asked) and all(sample.status == "failed" for sample in asked)


@dataclass(frozen=True, repr=False)
class Preview:
    """What a task asks about some rows of its source, and what it would cost over all of them.

    :param task: the task's name.
    :param model: name of the model; None if the task has none yet.
    :param rows: rows of the source, or those that a generator is to make.
    :param price: US dollars per million input tokens and per million output tokens; None where unknown.
    :param samples: the rows that were looked at.
    :param calls: calls for all rows.
    :param input_tokens: tokens of them.
    :param output_tokens: tokens of the answers.
    :param cost_usd: US dollars.
    :param notes: what these figures come from, and what they leave out.

    The four figures are `Estimate`s, and None where they are unknown.
    """

    task: str
    model: str | None
    rows: int
    price: tuple[float | None, float | None]
    samples: tuple[Sample, ...]
    calls: Estimate | None
    input_tokens: Estimate | None
    output_tokens: Estimate | None
    cost_usd: Estimate | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        lines = [self._title, *(f"  {name + ':':<15}{value}" for name, value in self._figures)]
        lines += [f"  {note}" for note in self.notes]
        for sample in self.samples:
            lines += ["", _heading(sample)]
            for kind, text in _said(sample):
                lines += [f"  {kind}:", *(f"    {line}" for line in _lines(text, SHOWN_IN_TEXT))]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in self._figures)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        samples = "".join(_sample_html(sample, is_open=number == 0) for number, sample in enumerate(self.samples))
        return f"<div><b>{html.escape(self._title)}</b><table>{rows}</table><ul>{notes}</ul>{samples}</div>"

    @property
    def _title(self) -> str:
        price_in, price_out = self.price
        prices = [f"${price_in:g} per million input tokens"] if price_in is not None else []
        prices += [f"${price_out:g} per million output tokens"] if price_out is not None else []
        model = f", by {self.model} ({' and '.join(prices) or 'price unknown'})" if self.model else ""
        return one_line(f"{self.task}: {self.rows:,} row{'s' * (self.rows != 1)}{model}")

    @property
    def _figures(self) -> Iterator[tuple[str, str]]:
        yield "calls", _shown(self.calls)
        yield "input tokens", _shown(self.input_tokens)
        yield "output tokens", _shown(self.output_tokens)
        yield "cost", _shown(self.cost_usd, dollars)


def _shown(estimate: Estimate | None, written: Callable[[float], str] = "{:,.0f}".format) -> str:
    if estimate is None:
        return "unknown"
    total = written(estimate.total)
    if estimate.low is None or estimate.high is None:
        return f"about {total}"
    low, high = written(estimate.low), written(estimate.high)
    return total if low == high else f"{total} ({low} to {high})"


def _heading(sample: Sample) -> str:
    parts = [f"row {sample.row}"]
    if sample.status:
        parts.append(sample.status if sample.error is None else f"{sample.status}: {sample.error}")
    if sample.requests and sample.input_tokens is not None and sample.output_tokens is not None:
        cost = "" if sample.cost_usd is None else f", {dollars(sample.cost_usd)}"
        parts.append(f"{sample.input_tokens:,} + {sample.output_tokens:,} tokens{cost}")
    return one_line("; ".join(parts))


def _said(sample: Sample) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each thing that is shown of a row."""
    for number, prompt in enumerate(sample.prompts):
        yield "prompt", prompt
        if number < len(sample.answers) and (answer := sample.answers[number]) is not None:
            yield "answer", answer
    for outputs in sample.outputs:
        for name, value in outputs.items():
            if value not in sample.answers:  # which is shown above
                yield one_line(name), value if isinstance(value, str) else repr(value)


def _lines(text: str, most: int) -> list[str]:
    """Return text as a terminal or a page may show it: on its own lines, and printable."""
    shown = text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
    return [one_line(line) for line in shown.split("\n")]


def _sample_html(sample: Sample, *, is_open: bool) -> str:
    said = "".join(
        f"<b>{html.escape(kind)}</b>"
        f"<pre style='white-space:pre-wrap'>{html.escape(chr(10).join(_lines(text, SHOWN_IN_HTML)))}</pre>"
        for kind, text in _said(sample)
    )
    return f"<details{' open' * is_open}><summary>{html.escape(_heading(sample))}</summary>{said}</details>"
