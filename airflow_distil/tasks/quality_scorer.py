"""Score how good each response to an instruction is, relative to the others (DEITA, arXiv 2312.15685)."""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from airflow_distil.conversation import ChatType, Row, user
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.complexity_scorer import SCORES_SCHEMA, read_scores
from airflow_distil.tasks.labels import items, text

__all__ = ["QualityScorer"]

DEFAULT_TEMPLATE = templates.packaged("quality_scorer.jinja2")


class QualityScorer(Task):
    """Score how good each response to an instruction is, relative to the others (DEITA, arXiv 2312.15685).

    Reads `instruction` (str) and `generations` (list[str]; an empty list fails its row). Writes `scores` (list[float | None],
    one per generation: 1 is the worst, N, their number, the best, N + 1 a response that cannot be improved; several may share
    a score; None where the answer gave no score in that range, or two).

    :param template: Jinja2 prompt; sees `instruction`, `generations`, and `structured` (True with `structured_output=True`).
        Must mark each response as `[i]`, counted from 1, and ask for one `[i] Score: k` line per response.
    """

    output_types = {"scores": list[float | None]}

    template: str = DEFAULT_TEMPLATE

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        templates.check(self.template, ["instruction", "generations", "structured"], needed=self.inputs)
        return self

    @property
    def inputs(self) -> list[str]:
        return ["instruction", "generations"]

    @property
    def outputs(self) -> list[str]:
        return ["scores", "model_name"]

    def json_schema(self) -> dict[str, Any]:
        return SCORES_SCHEMA

    def format_input(self, input: Row) -> ChatType:
        prompt = templates.render(
            self.template,
            instruction=text(input, "instruction"),
            generations=items(input, "generations"),
            structured=self.structured_output is True,
        )
        return [user(prompt)]

    def format_output(self, output: str | None, input: Row) -> Row:
        return {"scores": read_scores(output, items(input, "generations"))}
