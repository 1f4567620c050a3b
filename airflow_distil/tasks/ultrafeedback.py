"""Rate the answers to an instruction under one aspect, with reasons (UltraFeedback, arXiv 2310.01377)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, Self, TypeAlias

from pydantic import model_validator

from airflow_distil.conversation import ChatType, Row, Unparsed, system, user
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.labels import (
    by_item,
    fields,
    is_absent,
    items,
    json_object,
    said,
    sections,
    text,
    whole,
    without_echo,
)

__all__ = ["Aspect", "UltraFeedback"]

Aspect: TypeAlias = Literal["helpfulness", "honesty", "instruction-following", "truthfulness", "overall-rating"]

DEFAULT_TEMPLATE = templates.packaged("ultrafeedback.jinja2")
DEFAULT_SYSTEM_PROMPT = (
    "You rate the quality of texts by criteria that you are given. You look at each text by itself, give equal ratings to "
    "texts of equal quality, and are neither lenient nor harsh."
)

# Aspects that also ask which kinds of information, or of error, a text shows.
_TYPED = {"helpfulness", "truthfulness"}

_LABELS = {
    "rationale_for_rating": r"rationales?[ \t]+(?:for|of)[ \t]+(?:the[ \t]+)?ratings?",
    "rationale_for_type": r"rationales?[ \t]+(?:for|of)[ \t]+(?:the[ \t]+)?types?",
    "rationale": r"rationales?",
    "rating": r"ratings?",
    "type": r"types?(?:[ \t]+of[ \t]+\w+)?",
}

_TYPES = re.compile(
    r"[\s*_`(\[<]*(?:types?\s*)?([1-3](?:\s*(?:,\s*and\b|[,;&+]|and\b)\s*[1-3])*)(?![\w.]*\d)(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)


class UltraFeedback(Task):
    """Rate the answers to an instruction under one aspect, with reasons (UltraFeedback, arXiv 2310.01377).

    Reads `instruction` (str) and `generations` (list[str]; an empty list fails its row). Writes `ratings` (list[int | None],
    1 to 5) and `rationales` (list[str | None]), one per generation. With the aspects helpfulness and truthfulness also
    `types` (list[list[int] | None]: which of the types 1 to 3 the text shows, empty if none), and there `rationales` are
    about the types and `rationales_for_ratings` (list[str | None]) about the ratings.

    A None among the ratings of a row that is `ok` means "not applicable", which only honesty allows. What could not be read
    is None too, and then the row is `unparsed`, its error naming each such value.

    :param aspect: `helpfulness`, `honesty`, `instruction-following`, `truthfulness`, or `overall-rating` for all of these at
        once.
    :param template: Jinja2 prompt; sees `aspect`, `instruction`, `generations`, `typed` (True where types are asked for) and
        `structured` (True with `structured_output=True`). Must number the generations from 1 and ask for one block per
        generation headed `#### Output for Text i`, with the labels `Rating:` and `Rationale:`, or `Type:`, `Rationale:`,
        `Rating:` and `Rationale for rating:`.
    :param system_prompt: system message; None for none.
    """

    aspect: Aspect = "overall-rating"
    template: str = DEFAULT_TEMPLATE
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        templates.check(self.template, ["aspect", "instruction", "generations", "typed", "structured"], needed=self.inputs)
        return self

    @property
    def output_types(self) -> dict[str, Any]:  # type: ignore[override]
        types = {"ratings": list[int | None], "rationales": list[str | None]}
        if self._typed:
            types |= {"types": list[list[int] | None], "rationales_for_ratings": list[str | None]}
        return types

    @property
    def inputs(self) -> list[str]:
        return ["instruction", "generations"]

    @property
    def outputs(self) -> list[str]:
        return [
            *(["types", "rationales", "ratings", "rationales_for_ratings"] if self._typed else ["ratings", "rationales"]),
            "model_name",
        ]

    def json_schema(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1}
        rating = {"type": ["integer", "null"] if self._may_be_absent else "integer", "minimum": 1, "maximum": 5}
        kinds = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}}
        entry: dict[str, Any] = {"item": {"type": "integer", "minimum": 1}}
        entry |= (
            {"types": kinds, "rationale": text, "rating": rating, "rationale_for_rating": text}
            if self._typed
            else {"rating": rating, "rationale": text}
        )
        one_text = {"type": "object", "properties": entry, "required": list(entry), "additionalProperties": False}
        return {
            "title": "ratings",
            "type": "object",
            "properties": {"ratings": {"type": "array", "minItems": 1, "items": one_text}},
            "required": ["ratings"],
            "additionalProperties": False,
        }

    def format_input(self, input: Row) -> ChatType:
        prompt = templates.render(
            self.template,
            aspect=self.aspect,
            instruction=text(input, "instruction"),
            generations=items(input, "generations"),
            typed=self._typed,
            structured=self.structured_output is True,
        )
        return [*([system(self.system_prompt)] if self.system_prompt else []), user(prompt)]

    def format_output(self, output: str | None, input: Row) -> Row:
        generations = items(input, "generations")
        readings = self._readings(without_echo(said(output), generations, mark="<text {}>"), len(generations))
        names = [name for name in self.outputs if name != "model_name"]
        columns: Row = {name: [reading.get(name) for reading in readings] for name in names}
        missing = {
            name: [str(position) for position, reading in enumerate(readings, start=1) if name not in reading] for name in names
        }
        if any(missing.values()):
            reason = "; ".join(
                f"no {_COLUMNS[name]} that can be used for text {', '.join(texts)}" for name, texts in missing.items() if texts
            )
            raise Unparsed(f"{reason} of {len(generations)}", partial=columns)
        return columns

    @property
    def _typed(self) -> bool:
        return self.aspect in _TYPED

    @property
    def _may_be_absent(self) -> bool:
        return self.aspect == "honesty"

    def _readings(self, text: str, count: int) -> list[Row]:
        """Return what could be read for each text, by column; what could not is left out, what does not apply is None."""
        if (found := json_object(text, "ratings", labelled=_labelled)) is not None:
            entries = by_item(found["ratings"], count)
            told = {index: [dict(self._entry(entry)) for entry in same] for index, same in entries.items()}
        else:
            blocks = sections(text, count)
            told = {index: [reading for block in same for reading in self._block(block)] for index, same in blocks.items()}
        return [_agreed(told.get(index, [])) for index in range(1, count + 1)]

    def _entry(self, entry: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Read one text's JSON object."""
        rating = whole(entry.get("rating"), low=1, high=5)
        if rating is not None or (self._may_be_absent and entry.get("rating", "") is None):
            yield "ratings", rating
        for name, column in (("rationale", "rationales"), ("rationale_for_rating", "rationales_for_ratings")):
            if isinstance(value := entry.get(name), str) and value.strip():
                yield column, value.strip()
        kinds = entry.get("types", "")
        kinds = [] if kinds is None else kinds
        if isinstance(kinds, list) and None not in (read := [whole(kind, low=1, high=3) for kind in kinds]):
            yield "types", sorted(set(read))

    def _block(self, block: str) -> Iterator[Row]:
        """Read the labelled lines about one text."""
        for column, value in _owned(fields(block, _LABELS), typed=self._typed):
            match column:
                case "ratings":
                    rating = whole(value, low=1, high=5)
                    if rating is not None or (self._may_be_absent and is_absent(value)):
                        yield {column: rating}
                case "types":
                    if (kinds := _kinds(value)) is not None:
                        yield {column: kinds}
                case _ if value:
                    yield {column: value}


def _labelled(text: str) -> bool:
    return any(name == "rating" and whole(value, low=1, high=5) is not None for name, value in fields(text, _LABELS))


_COLUMNS = {
    "types": "type",
    "rationales": "rationale",
    "ratings": "rating",
    "rationales_for_ratings": "rationale for the rating",
}


def _owned(said: list[tuple[str, str]], *, typed: bool) -> Iterator[tuple[str, str]]:
    """Say which column each labelled value belongs to."""
    names = [name for name, _ in said]
    explicit = "rationale_for_rating" in names
    # Without "for rating", a rationale is that of the type or rating which it follows; where the block begins with a rationale,
    # of the one which follows it.
    step = 1 if names[:1] == ["rationale"] else -1
    owners = {"rating": "rationales_for_ratings" if typed else "rationales", "type": "rationales"}
    for position, (name, value) in enumerate(said):
        match name:
            case "rating":
                yield "ratings", value
            case "type":
                yield "types", value
            case "rationale_for_rating":
                yield owners["rating"], value
            case "rationale_for_type":
                yield "rationales", value
            case _ if explicit or not typed:
                yield "rationales", value
            case _:
                near = position + step
                if 0 <= near < len(names) and (column := owners.get(names[near])):
                    yield column, value


def _kinds(value: str) -> list[int] | None:
    if is_absent(value):
        return []
    match = _TYPES.match(value)
    # A digit in what follows may be one more type, or the end of a range.
    if match is None or re.search(r"\d", match["rest"]):
        return None
    return sorted({int(digit) for digit in re.findall(r"[1-3]", match[1])})


def _agreed(readings: list[Row]) -> Row:
    """Return what all readings about one text say alike."""
    said: dict[str, list[Any]] = {}
    for reading in readings:
        for name, value in reading.items():
            said.setdefault(name, []).append(value)
    return {name: values[0] for name, values in said.items() if all(value == values[0] for value in values)}
