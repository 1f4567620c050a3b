"""Rate how good an example of an assistant's answer a generation is (self-curation of arXiv 2308.06259)."""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import model_validator

from airflow_distil.conversation import ChatType, Row, Unparsed, user
from airflow_distil.tasks import labels, templates
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.labels import around_last, json_object, said, whole, without_mark, without_quote

__all__ = ["InstructionBacktranslation"]

DEFAULT_TEMPLATE = templates.packaged("instruction_backtranslation.jinja2")

# A verdict is the word, a separator and something like a number; whether that is on the scale is asked afterwards. `Score:
# <rating>`, repeated from the prompt, is none, and neither is "the score: because …".
_VERDICT = (
    r"""(?:(?<!\S)[*_`]{1,3})?(?:\b(?:my|the|final|overall)[ \t]+){0,3}\bscore\b[ \t*_`"']*[:：=](?=[\s*_`"'(\[<]*[+-]?"""
    r"""(?:\d|(?:one|two|three|four|five|six|seven|eight|nine|ten)\b))"""
)
# One that begins its line or sentence is the model's own; others may be mentioned: "a score: 4 would be unfair".
_OWN = re.compile(
    rf"(?:^{labels.LEAD}+|(?<=[.!?;…][ \t])|(?<=[.!?;…][*_\"'”)][ \t])|(?<=[.!?;…][*_][*_][ \t])|(?<=[。！？])){_VERDICT}",
    re.IGNORECASE | re.MULTILINE,
)
_ANY = re.compile(_VERDICT, re.IGNORECASE)


class InstructionBacktranslation(Task):
    """Rate how good an example of an assistant's answer a generation is (self-curation of arXiv 2308.06259).

    Reads `instruction` and `generation` (str). Writes `score` (int, 1 to 5: the last verdict of the answer) and `reason`
    (str; what the model wrote before its verdict, else after it; None if it gave the verdict alone).

    :param template: Jinja2 prompt; sees `instruction`, `generation`, and `structured` (True with `structured_output=True`).
        Must ask for a last line `Score: k`.
    """

    output_types = {"score": int, "reason": str}

    template: str = DEFAULT_TEMPLATE

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        templates.check(self.template, ["instruction", "generation", "structured"], needed=self.inputs)
        return self

    @property
    def inputs(self) -> list[str]:
        return ["instruction", "generation"]

    @property
    def outputs(self) -> list[str]:
        return ["score", "reason", "model_name"]

    def json_schema(self) -> dict[str, Any]:
        return {
            "title": "verdict",
            "type": "object",
            # The reason first: a model that has written it judges better.
            "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "minimum": 1, "maximum": 5}},
            "required": ["reason", "score"],
            "additionalProperties": False,
        }

    def format_input(self, input: Row) -> ChatType:
        values = {name: labels.text(input, name) for name in self.inputs}
        return [user(templates.render(self.template, **values, structured=self.structured_output is True))]

    def format_output(self, output: str | None, input: Row) -> Row:
        text = without_quote(said(output), labels.text(input, "generation"), _ANY)
        if (found := json_object(text, "score", labelled=lambda rest: _OWN.search(rest) is not None)) is not None:
            score, reason = whole(found["score"], low=1, high=5), found.get("reason")
            reason = reason if isinstance(reason, str) else None
        elif (parts := around_last(_OWN, text) or around_last(_ANY, text)) is not None:
            score = whole(parts[1], low=1, high=5)
            reason = without_mark(parts[0]) or parts[1].partition("\n")[2].strip()
        else:
            score, reason = None, text.strip()
        if score is None:
            raise Unparsed("there is no verdict `Score: k` with k from 1 to 5", partial={"reason": reason or None})
        return {"score": score, "reason": reason or None}
