"""Write instructions about a text (Self-Instruct, arXiv 2212.10560)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random
from typing import Any, Self

from pydantic import PositiveInt, model_validator

from airflow_distil.conversation import Answer, Chat, ChatType, Conversation, Row, Unparsed, user
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import Task, ask_again
from airflow_distil.tasks.labels import filled, json_list, json_object, said
from airflow_distil.tasks.mutation import is_refusal, normal

__all__ = ["SelfInstruct"]

DEFAULT_TEMPLATE = templates.packaged("self_instruct.jinja2")
DEFAULT_CRITERIA = """\
- It makes sense to somebody who does not see the context, so it names what it is about.
- It is one or two sentences long.
- It can be answered in text.
- Taken together, the queries begin with different verbs, and both questions and requests are among them."""


class SelfInstruct(Task):
    """Write instructions that users of an application could send about a text (Self-Instruct, arXiv 2212.10560).

    Reads `input` (str: a topic or a passage). Writes `instructions` (list[str], exactly `num_instructions` of them, no two the
    same but for case, spaces and the punctuation around). When an answer gives too few, the missing ones are asked for, at most
    `max_parse_retries` times; what is still too few is unparsed and keeps those that there are.

    :param num_instructions: instructions to write about each row.
    :param criteria_for_query_generation: what every instruction has to be like.
    :param application_description: what the application is that users send them to.
    :param template: Jinja2 prompt; sees `input`, the three parameters above, and `structured` (True with
        `structured_output=True`). Must ask for one instruction a line.
    """

    output_types = {"instructions": list[str]}

    num_instructions: PositiveInt = 5
    criteria_for_query_generation: str = DEFAULT_CRITERIA
    application_description: str = "AI assistant"
    template: str = DEFAULT_TEMPLATE

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        templates.check(
            self.template,
            ["input", "num_instructions", "criteria_for_query_generation", "application_description", "structured"],
            needed=self.inputs,
        )
        return self

    @property
    def inputs(self) -> list[str]:
        return ["input"]

    @property
    def outputs(self) -> list[str]:
        return ["instructions", "model_name"]

    def json_schema(self) -> dict[str, Any]:
        # The number is not in it: a list that is too short is worth keeping, and one that is too long is cut.
        return {
            "type": "object",
            "properties": {"instructions": {"type": "array", "items": {"type": "string"}}},
            "required": ["instructions"],
            "additionalProperties": False,
        }

    def format_input(self, input: Row) -> ChatType:
        prompt = templates.render(
            self.template,
            input=filled(input, "input"),
            num_instructions=self.num_instructions,
            criteria_for_query_generation=self.criteria_for_query_generation,
            application_description=self.application_description,
            structured=self.structured_output is True,
        )
        return [user(prompt)]

    def format_output(self, output: str | None, input: Row) -> Row:  # noqa: ARG002
        return self._complete(distinct(read_instructions(said(output))))

    def converse(self, input: Row, rng: Random) -> Conversation:  # noqa: ARG002
        request = Chat(self.format_input(input), response_format=self._counted(self.num_instructions))
        kept: list[str] = []
        for _ in range(self.max_parse_retries):
            answer: Answer = yield request
            found, reason = self._hear(answer, input)
            kept = distinct([*kept, *found])
            if len(kept) >= self.num_instructions:
                break
            request = self._ask_for_more(request, answer, kept) if kept else ask_again(request, answer, reason)
        else:
            answer = yield request
            found, _ = self._hear(answer, input)
            kept = distinct([*kept, *found])
        return self._complete(kept)

    def _complete(self, found: list[str]) -> Row:
        if missing := self.num_instructions - len(found[: self.num_instructions]):
            raise Unparsed(
                f"{missing} of {self.num_instructions} different instructions are missing",
                partial={"instructions": found} if found else {},
            )
        return {"instructions": found[: self.num_instructions]}

    def _hear(self, answer: Answer, input: Row) -> tuple[list[str], str]:
        """Return the instructions of one answer, and what is wrong with it."""
        text = answer.text
        if text and answer.finish_reason == "length" and not self.structured_output:
            # The line that was being written when the tokens ran out is half an instruction, and looks like a whole one.
            text = text.rpartition("\n")[0]
        try:
            columns, reason = self.read(text, input), ""
        except Unparsed as unparsed:
            columns, reason = unparsed.partial, unparsed.reason
        return columns.get("instructions", []), reason

    def _ask_for_more(self, request: Chat, answer: Answer, kept: list[str]) -> Chat:
        missing = self.num_instructions - len(kept)
        so_far = "\n".join(kept)
        return Chat(
            [
                *request.messages,
                *([{"role": "assistant", "content": answer.text}] if answer.text else []),
                user(
                    f"These {len(kept)} can be used:\n{so_far}\n\n"
                    f"Exactly {missing} more {'is' if missing == 1 else 'are'} needed. Write only the new queries, each "
                    "different from all of these, in the same format as before."
                ),
            ],
            response_format=self._counted(missing),
        )

    def _counted(self, count: int) -> dict[str, Any] | None:
        """Return the response format with the number wanted: a server that decodes by the schema then keeps to it."""
        schema = self.response_format
        if schema is None or self.structured_output is not True:
            return schema
        counted = self.json_schema()
        counted["properties"]["instructions"] |= {"minItems": count, "maxItems": count}
        return {**schema, "json_schema": {**schema["json_schema"], "schema": counted}}


def read_instructions(text: str) -> list[str]:
    """Return the instructions of an answer, in order: the strings of its JSON, else its lines, without what is around them."""
    listed = _from_json(text)
    bare = map(_bare, _from_lines(text) if listed is None else listed)
    found = [instruction for instruction in bare if _has_words(instruction)]
    return [] if all(map(is_refusal, found)) else found


def distinct(instructions: Iterable[str]) -> list[str]:
    """Return the first of each set of instructions that differ in case, spaces and the punctuation around them only."""
    first: dict[str, str] = {}
    for instruction in instructions:
        first.setdefault(normal(instruction), instruction)
    return list(first.values())


def _has_words(text: str) -> bool:
    # A rule of dashes, or a number whose text was cut off, is no instruction; "12 × 7 = ?" is one.
    return not re.fullmatch(r"[\W_]*\d{0,3}[\W_]*", text)


# What may stand before an instruction: `-`, `•`, `1.`, `**2)**`, `(3)`, `[4]`, `#5`, `Query 6:`, `**Instruction**:`. A number
# needs its mark: "3 apples cost…" and "2024 was…" are instructions.
_NAME = r"(?:query|instruction|question|prompt|request|task|q)"
_MARK = re.compile(
    r"(?:[-*+–—]\s+|[•‣◦▪]\s*|\[\d{1,3}\][.:]?\s*|#\d{1,3}[.):]?\s+|\*{0,2}\(?\d{1,3}[.):、。．](?!\d)\*{0,2}\s*"
    rf"|\*{{0,2}}{_NAME}(?:\s*#?\d{{1,3}}\s*\*{{0,2}}\s*[:.)–—-]|\s*\*{{0,2}}:)\*{{0,2}}\s*)",
    re.IGNORECASE,
)
_BOLD = re.compile(r"(\*\*|__|\*)(?=\S)((?:(?!\1).)+)\1", re.DOTALL)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`", "「": "」"}
# How models begin and end when they were told to write nothing else. "Great Britain did x: why?" is no greeting, and what goes
# on after "Here is a poem" asks for something; other announcements end in a colon, and such lines go anyway.
_OPENING = re.compile(
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|great|got it|understood)\W{0,2}(?:[!,.:](?=\s)|$)"
    r"|(?:here|below) (?:is|are) [^;:,.?!]*\b(?:queries|instructions|questions|prompts)\b[^;:,.?!]*[.!]?$",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:note:|(?:let me know (?:if|whether|which|should)|i hope (?:this|these|that|they|it)|hope (?:this|these)|feel free|"
    r"these (?:queries|instructions|questions) (?:cover|should|can|will|all|vary|range|aim)|"
    r"would you like (?:me|more|any|another|further))\b)",
    re.IGNORECASE,
)


# An object in the midst of a sentence.
_QUOTED = re.compile(r'[^\s:：.!`{][ \t]*\{\s*"instructions"')


def _from_lines(text: str) -> list[str]:
    lines = [line for each in text.splitlines() if _has_words(line := each.strip()) and not line.startswith("```")]
    if lines and re.match(r"[\[{]\s*(?:[\"{\[]|$)", lines[0]):
        return []  # JSON that is cut off or broken is not made of lines
    marked = [line for line in lines if _MARK.match(line) or _MARK.match(line.lstrip("*_"))]
    if marked and 2 * len(marked) >= len(lines):
        return marked  # where a list has marks, what has none is around the list
    lines = [line for line in lines if not line.startswith("#") and not line.rstrip("*_").endswith((":", "："))]
    if len(lines) > 1 and _OPENING.match(lines[0]) and not lines[0].endswith("?"):
        del lines[0]
    if len(lines) > 1 and _CLOSING.match(lines[-1]):
        del lines[-1]
    return lines


def _is_list(text: str, rest: str) -> bool:
    """Tell whether the prose around a JSON object is itself the list of instructions, and the object part of one of them."""
    lines = [line for line in _from_lines(rest) if not _CLOSING.match(_bare(line))]
    return any(map(_MARK.match, lines)) or (len(lines) > 1 and _QUOTED.search(text) is not None)


def _bare(line: str) -> str:
    """Take off bold, quotes and mark, as often as they are there."""
    before = None
    while before != line:
        before = line = line.strip()
        if bold := _BOLD.fullmatch(line):
            line = bold[2]
        elif line[1:-1] and line[-1] == _QUOTES.get(line[0]) and line[-1] not in line[1:-1]:
            line = line[1:-1]
        elif mark := _MARK.match(line):
            line = line[mark.end() :]
    return line


def _from_json(text: str) -> list[str] | None:
    """Return the strings of a JSON answer; None if it is none."""
    found = json_object(text, "instructions", labelled=lambda rest: _is_list(text, rest))
    listed = found["instructions"] if found else json_list(text)
    return listed if isinstance(listed, list) and listed and all(isinstance(each, str) for each in listed) else None
