"""Score how complex each instruction of a list is, relative to the others (DEITA, arXiv 2312.15685)."""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from airflow_distil.conversation import ChatType, Row, Unparsed, user
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.labels import (
    by_item,
    items,
    json_list,
    json_object,
    labelled_numbers,
    number,
    one,
    said,
    without_echo,
)

__all__ = ["SCORES_SCHEMA", "ComplexityScorer", "read_scores"]

DEFAULT_TEMPLATE = templates.packaged("complexity_scorer.jinja2")

# Each score beside the number of its item, so that a model which skips or reorders items shifts nothing.
SCORES_SCHEMA: dict[str, Any] = {
    "title": "scores",
    "type": "object",
    "properties": {
        "scores": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"item": {"type": "integer", "minimum": 1}, "score": {"type": "integer", "minimum": 1}},
                "required": ["item", "score"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["scores"],
    "additionalProperties": False,
}


class ComplexityScorer(Task):
    """Score how complex each instruction of a list is, relative to the others (DEITA, arXiv 2312.15685).

    Reads `instructions` (list[str]; an empty list fails its row). Writes `scores` (list[float | None], one per instruction: 1
    is the easiest, N, their number, the hardest, N + 1 too complex to be answered; several may share a score; None where the
    answer gave no score in that range, or two).

    :param template: Jinja2 prompt; sees `instructions`, and `structured` (True with `structured_output=True`). Must mark each
        instruction as `[i]`, counted from 1, and ask for one `[i] Score: k` line per instruction.
    """

    output_types = {"scores": list[float | None]}

    template: str = DEFAULT_TEMPLATE

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        templates.check(self.template, ["instructions", "structured"], needed=self.inputs)
        return self

    @property
    def inputs(self) -> list[str]:
        return ["instructions"]

    @property
    def outputs(self) -> list[str]:
        return ["scores", "model_name"]

    def json_schema(self) -> dict[str, Any]:
        return SCORES_SCHEMA

    def format_input(self, input: Row) -> ChatType:
        instructions = items(input, "instructions")
        return [user(templates.render(self.template, instructions=instructions, structured=self.structured_output is True))]

    def format_output(self, output: str | None, input: Row) -> Row:
        return {"scores": read_scores(output, items(input, "instructions"))}


def read_scores(output: str | None, scored: list[str]) -> list[float | None]:
    """Return a score of 1 to N + 1 for each of N items that were marked `[i]`, from labelled lines or from JSON.

    :raises Unparsed: if any is missing; the others are kept.
    """
    text, count = without_echo(said(output), scored, mark="[{}]"), len(scored)
    scores = _json_scores(text, count)
    if scores is None:
        scores = _labelled_scores(text, count)
    if None in scores:
        missing = [str(position) for position, score in enumerate(scores, start=1) if score is None]
        raise Unparsed(
            f"no single score from 1 to {count + 1}, beside the number of its item, for item {', '.join(missing)} of {count}",
            partial={"scores": scores},
        )
    return scores


def _labelled_scores(text: str, count: int) -> list[float | None]:
    return labelled_numbers(text, label="Score", count=count, low=1, high=count + 1)


def _json_scores(text: str, count: int) -> list[float | None] | None:
    found = json_object(text, "scores", labelled=lambda rest: any(_labelled_scores(rest, count)))
    entries = found["scores"] if found else json_list(text)
    # `[1]` alone may be a label whose line was cut off.
    if not isinstance(entries, list) or (not found and len(entries) == 1):
        return None
    found_by = by_item(entries, count)
    return [one(_score(entry.get("score"), count) for entry in found_by.get(position, [])) for position in range(1, count + 1)]


def _score(value: Any, count: int) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return number(str(value), low=1, high=count + 1, out_of=count)
