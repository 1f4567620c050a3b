"""Reading answers by label: which item a value is about is what the model wrote beside it, never the line it stands on.

Small pure functions for tasks that judge. None of them raises over a text; what cannot be read, or was said in two ways, is
None or left out, so that no item is given a value that was not meant for it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from airflow_distil.conversation import Row

__all__ = [
    "around_last",
    "by_item",
    "fields",
    "filled",
    "is_absent",
    "items",
    "json_list",
    "json_object",
    "labelled_numbers",
    "number",
    "one",
    "said",
    "sections",
    "text",
    "whole",
    "without_echo",
    "without_mark",
    "without_quote",
    "without_thought",
]

_T = TypeVar("_T", bound=Hashable)

# What chatty models put before a line: quotes, bullets, headings, bold, code marks, table bars.
LEAD = r"[ \t>*_#＃`+•|-]*"

_NUMERALS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
}  # fmt: skip
_NUMERAL = "|".join(_NUMERALS)

# Possessive throughout: without that, 4.5 which may not be a 4.5 is tried again as a 4.
_NUMBER = re.compile(
    rf"""
    [\s*_`"'“”(\[<{{]*+
    (?P<value> [+-]?\d++(?:\.\d++)?+ | {_NUMERAL} )
    (?! [\w%] | \.\d )
    [*_`]*+
    (?: [ \t]*\(?[ \t]* (?:/|out[ \t]+of) [ \t]* (?P<scale>\d++) )?+
    (?! [ \t]*or\b | [ \t]* (?: [-–—~,→]>? | to\b | and\b ) [ \t]* [*_`]* (?: \d | (?:{_NUMERAL})\b ) )
    """,
    re.VERBOSE | re.IGNORECASE,
)

_ABSENT = re.compile(r"\W*(?:n\s*[/.]?\s*a|none|null|not\s+applicable)\b", re.IGNORECASE)

_THING = r"(?:instruction|question|prompt|item|response|answer|generation|output|text)"
# Between an item's label and that of its number. The latter may stand on the next line, but not further away, and not below a
# number alone: that would be a total, or anything.
_GAP = r"[ \t*_:：.,|`–—-]*+"
# How an item is named: [1], 1. [1], [Item 1]; or 1., 1), Item 1.
_ITEM = (
    rf"(?:(?:\d++[.)][ \t]*+)?[\[【][ \t]*(?:{_THING}[ \t]*)?#?(\d++)[ \t]*[\]】]{_GAP}(?:\n{LEAD})?"
    rf"|(?:\d++[.)][ \t]*+(?=[(<]))?[(<]?(?:{_THING}[ \t]*)?#?(\d++)[.):>]{{0,2}}{_GAP})"
)
_KIND = r"(?:(?:complexity|difficulty|quality|final|overall)[ \t]+)?"

# The heading that is asked for; where a model left it out altogether, one that is nothing but the name of a text.
_HEADINGS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rf"^{LEAD}(?:output|feedback|evaluation|review)[ \t]+(?:for|of)[ \t]+<?text[ \t]*[#<]?(\d++)>?[ \t*_#`]*(?:[:：]|$)",
        rf"^{LEAD}(?:text|output|response)[ \t]*#?(\d++)[ \t*_#`]*[:：]?[ \t*_`]*$",
    )
)

# A heading that names a text in some other way: what follows is about that one, whoever that is.
_OTHER_HEADING = re.compile(
    rf"^[ \t]*#{{1,6}}[^\n:：]*(?:\d|\b(?:{_NUMERAL})\b).*$"
    rf"|^{LEAD}+(?:\d++[.)][ \t]*+)?{LEAD}+(?:(?:output|feedback|evaluation|review|regarding|for|of|on|the)[ \t]+)*"
    rf"(?:{_THING}[ \t]*[#<\[(]?\d++|[<\[(](?:{_THING}[ \t]*)?\d++|\d++[.)])[\])>]?[ \t*_#`|.:：–—-]*$",
    re.IGNORECASE | re.MULTILINE,
)

# A rule, or a heading of the model's own, ends a value: what follows is a remark about all of them.
_END = re.compile(r"^[ \t]*(?:(?:-[ \t]*){3,}|#{2,6}[ \t].*)$", re.MULTILINE)


_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t].*$", re.MULTILINE)


def items(input: Row, column: str) -> list[str]:
    """Return the texts of a column, to be numbered from 1.

    :raises TypeError: if it holds anything but a list of texts.
    :raises ValueError: if the list is empty: there is nothing to judge, and no answer to pay for.
    """
    values = input.get(column)
    if not isinstance(values, list | tuple):
        raise TypeError(f"`{column}` must be a list of texts, not {type(values).__name__}")
    if not values:
        raise ValueError(f"`{column}` is empty: there is nothing to judge")
    for position, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise TypeError(f"item {position} of `{column}` must be text, not {type(value).__name__}")
    return list(values)


def text(input: Row, column: str) -> str:
    """Return the text of a column.

    :raises TypeError: if it holds anything else; its repr would be judged instead.
    """
    value = input.get(column)
    if not isinstance(value, str):
        raise TypeError(f"`{column}` must be text, not {type(value).__name__}")
    return value


def filled(input: Row, column: str) -> str:
    """Return the text of a column, which is what the answer will be about.

    :raises TypeError: if it holds anything else.
    :raises ValueError: if it is blank: there is no answer to pay for.
    """
    if not (value := text(input, column)).strip():
        raise ValueError(f"`{column}` is empty: there is nothing to write about")
    return value


def said(answer: str | None) -> str:
    """Return an answer without what a reasoning model thought before it, each line ended by a newline."""
    return without_thought(answer).replace("\r\n", "\n").replace("\r", "\n")


def without_thought(answer: str | None) -> str:
    """Return an answer without what a reasoning model thought before it: a draft holds other values.

    The server may have kept the first mark to itself, and an answer that was cut off may have nothing but thoughts.
    """
    _, mark, rest = (answer or "").rpartition("</think>")
    return "" if not mark and rest.lstrip().startswith("<think>") else rest


def number(text: str, *, low: float, high: float, out_of: float) -> float | None:
    """Read the number that a text starts with; `4/5` and `4 out of 5` are 4 where 5 is `out_of`.

    None for what is out of range, is two numbers (`3-4`, `3 or 4`), or was given on another scale.
    """
    if (match := _NUMBER.match(text)) is None:
        return None
    value, scale = match["value"].lower(), match["scale"]
    if scale is not None and float(scale) != out_of:
        return None
    parsed = float(_NUMERALS.get(value, value))
    return parsed if low <= parsed <= high else None


def whole(value: Any, *, low: int, high: int) -> int | None:
    """Return a whole number of a scale, given as a number or as the start of a text; 4.5 is not one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    parsed = number(str(value), low=low, high=high, out_of=high)
    return int(parsed) if parsed is not None and parsed.is_integer() else None


def is_absent(text: str) -> bool:
    """Tell whether a text says that there is nothing to say: None, N/A, not applicable."""
    return _ABSENT.match(text) is not None


def one(values: Iterable[_T]) -> _T | None:
    """Return the one value that was said, however often; None if there is none, or if they differ."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def labelled_numbers(text: str, *, label: str, count: int, low: float, high: float) -> list[float | None]:
    """Read `[i] Score: k` lines (with "Score" as the label), in any order, among any other lines.

    :param count: how many items there are; numbers out of `count` (`3/4`) are on the same scale.
    :return: one number per item; None where there is none in range, or two that differ.
    """
    said: dict[int, set[float]] = defaultdict(set)
    for match in _labelled(label).finditer(text):
        value = number(match["value"], low=low, high=high, out_of=count)
        if match[2] and _ITEM_AFTER.search(match["value"]):
            continue  # the number in front is a place in a list
        said[_index(match[1] or match[2])].update(() if value is None else (value,))
    if 0 in said:
        # Counted from zero, so every label means another item than it says.
        return [None] * count
    return [one(said[index]) for index in range(1, count + 1)]


# `1. Score: 3 - Item 2`, `2. Score: 4 for [1]`
_ITEM_AFTER = re.compile(rf"(?:\b(?:for|of)|[-–—:(])[ \t]*(?:{_THING}[ \t]*#?\d++|[\[(]\d++[\])])[^\w\n]*$", re.IGNORECASE)


@lru_cache
def _labelled(label: str) -> re.Pattern[str]:
    return re.compile(
        rf"^{LEAD}{_ITEM}{_KIND}{label}\b"
        # Without a separator, a bracket is a label: `Score [1]: 3`.
        r"[ \t*_`\"']*+(?:[:：=]|[-–—](?=[ \t])|is\b|(?![\[(【<]))(?P<value>.*)",
        re.IGNORECASE | re.MULTILINE,
    )


def without_echo(text: str, items: Sequence[str], *, mark: str) -> str:
    """Return an answer without the items that it repeats as they were shown: their mark, then their text.

    An item may itself hold lines that look like an answer. Bold marks, quotes and `>` may have been added to it.

    :param mark: how item i is marked, with `{}` for i.
    """
    for index, item in enumerate(items, start=1):
        lines = [re.escape(line.strip()) for line in item.splitlines() if line.strip()]
        label = mark.format(index)
        if lines and label in text:
            shown = r"[ \t]*\n[\s>]*".join(lines)
            text = re.sub(rf"{re.escape(label)}[*_`:：]*[\s>]*[\"“]?{shown}[\"”]?(?!\S)", label.replace("\\", r"\\"), text)
    return text


def without_quote(answer: str, quoted: str, verdict: re.Pattern[str]) -> str:
    """Return an answer without a text that it quotes whole, if there are verdicts in it, or JSON, that are not the model's."""
    quoted = quoted.strip()
    return answer.replace(quoted, "…") if _OPENING.search(quoted) or verdict.search(quoted) else answer


def json_object(text: str, key: str, *, labelled: Callable[[str], bool]) -> dict[str, Any] | None:
    """Return the one JSON object with this key that is the answer: alone, in a code fence, or among prose.

    Prose that gives the answer by label only quotes the object, from what it is about; a fenced one, only if that follows.

    :param labelled: tells whether the rest of the text gives an answer by label.
    """
    found: list[dict[str, Any]] = []
    rest: list[str] = []
    end = tries = kept = 0
    while (opening := _OPENING.search(text, end)) and tries < TRIES:
        try:
            value, end = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            end, tries = opening.start() + 1, tries + 1
        else:
            if key in value:
                found.append(value)
                rest.append(text[kept : opening.start()])
                kept = end
    if not found or any(value != found[0] for value in found):
        return None
    after = text[kept:]
    fenced = rest[-1].rstrip().rpartition("\n")[2].strip().startswith("```") and after.lstrip().startswith("```")
    return None if labelled(after if fenced else "\n".join([*rest, after])) else found[0]


# Each failure counts the lines before it and may descend a thousand levels: a text of nothing but braces took minutes.
TRIES = 100
_OPENING = re.compile(r'\{\s*+"')
_DECODER = json.JSONDecoder()
_FENCE = re.compile(r"\A```\w*")


def json_list(text: str) -> list[Any] | None:
    """Return the JSON list that a text is, with nothing but a code fence around it; `[1] Score: 2` is none."""
    try:
        value = json.loads(_FENCE.sub("", text.strip(), count=1).removesuffix("```"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def by_item(entries: Any, count: int) -> dict[int, list[dict[str, Any]]]:
    """Return JSON objects by the `item` they say they are about; without those about none of the items."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and (index := whole(entry.get("item"), low=0, high=count)) is not None:
            found[index].append(entry)
    return {} if 0 in found else dict(found)


def sections(text: str, count: int) -> dict[int, list[str]]:
    """Return what stands under `#### Output for Text i` headings, by i; of a single text, also without a heading."""
    for heading in _HEADINGS:
        if matches := list(heading.finditer(text)):
            ends = [match.start() for match in matches[1:]] + [len(text)]
            found: dict[int, list[str]] = defaultdict(list)
            for match, end in zip(matches, ends, strict=True):
                other = _OTHER_HEADING.search(text, match.end(), end)
                found[_index(match[1])].append(text[match.end() : other.start() if other else end])
            return {} if 0 in found else {index: blocks for index, blocks in found.items() if index <= count}
    # Under another heading it may speak of more texts than there are.
    return {1: [text]} if count == 1 and not _OTHER_HEADING.search(text) else {}


def fields(block: str, labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the labelled values of a block, in its order, as (name, text up to the next label).

    :param labels: name → regular expression of the label that stands before a colon at the start of a line.
    """
    groups = "|".join(f"(?P<{name}>{pattern})" for name, pattern in labels.items())
    matches = list(
        re.finditer(
            rf"^{LEAD}(?:\d+[.)][ \t*_]*)?(?:{groups})[ \t*_`]*(?:\([^)\n]*\))?[*_]*[:：][ \t*_]*",
            block,
            re.IGNORECASE | re.MULTILINE,
        )
    )
    # A heading of the model's own behind the first value ends the block.
    starts = {match.start() for match in matches}
    last = (
        min(
            (line.start() for line in _HEADING.finditer(block, matches[0].end()) if line.start() not in starts),
            default=len(block),
        )
        if matches
        else 0
    )
    matches = [match for match in matches if match.start() < last]
    block = block[:last]
    ends = [match.start() for match in matches[1:]] + [len(block)]
    return [
        (str(match.lastgroup), _END.split(block[match.end() : end], maxsplit=1)[0].strip().removesuffix("```").rstrip())
        for match, end in zip(matches, ends, strict=False)
    ]


def around_last(pattern: re.Pattern[str], text: str) -> tuple[str, str] | None:
    """Return what stands before and after the last match of a pattern; None if there is none."""
    last = None
    for last in pattern.finditer(text):  # noqa: B007 - only the last counts
        pass
    return (text[: last.start()], text[last.end() :]) if last else None


def without_mark(text: str) -> str:
    """Return a text without the bold marks, bullets or quotes that open the line which was cut off after it."""
    lines, _, last = text.rpartition("\n")
    return (text if last.strip(" \t>*_#`+-") else lines).strip()


def _index(digits: str) -> int:
    # No list has a million items; a label of five thousand digits is no number that Python converts.
    return int(digits) if len(digits) <= 6 else -1
