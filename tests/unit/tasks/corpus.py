"""A corpus of answers: what was meant, and how a model may have said it.

Each maker draws a truth, a value per item with words that belong to this item alone, and writes it down as models do. Three
levels:

well     the form that was asked for, or its JSON; items in any order.
chatty   the usual additions: bold, bullets, other brackets, preambles and remarks with numbers of their own, `4/5`, fences.
broken   whatever else was seen or feared: drafts in `<think>`, items repeated beforehand (which may hold lines that look like
         an answer), items missing, added, said twice, counted from zero; values that are none; forms nobody asked for.

A maker takes a `random.Random`, so that a sample with a fixed seed and Hypothesis, which shrinks, draw from the same corpus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st

from airflow_distil.conversation import Row

Level: TypeAlias = Literal["well", "chatty", "broken"]
Maker: TypeAlias = Callable[[Random, Level], "Case"]

# One per item and column: where one of them turns up, its item's rationale went.
MARKS = (
    "amber", "basalt", "cedar", "dune", "elder", "fjord", "gravel", "hazel", "indigo", "jasper", "kelp", "lichen", "marble",
    "nectar",
    "onyx", "pebble", "quartz", "resin", "saffron", "tundra", "umber", "velvet", "walnut", "xenon", "yarrow", "zephyr",
)  # fmt: skip
NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Marked:
    """A text of which only the mark matters: readers may keep a remark that follows it."""

    mark: str


@dataclass(frozen=True)
class Case:
    """An answer and its truth.

    :param truth: column → value per item (of a single value, one); None where the answer says none, or two.
    :param complete: all of it must be read.
    :param cuttable: cut anywhere, it still says nothing but the truth. Not so what is made right by its end: a draft or an
        earlier verdict that is taken back, `3 or 4`, a repeated item, labels that turn out to count from zero.
    """

    row: Row
    text: str
    truth: dict[str, list[Any]]
    complete: bool = True
    cuttable: bool = True


def cases(maker: Maker, *levels: Level) -> st.SearchStrategy[Case]:
    """Return a strategy over what a maker makes."""
    return st.builds(maker, st.randoms(use_true_random=False), st.sampled_from(levels))


# --- what is said around an answer


PREAMBLES = (
    "", "Sure!", "Here you go:", "Here are my 3 verdicts, on a scale from 1 to 5:", "## Evaluation", "**Evaluation**",
    "2 of these are hard.",
    "I have looked at all of them; number 2 took me longest.", "Text 2 is better than text 1, by 1 or 2 points.",
    "[2] is harder than [1].", "Item 1 and item 2 are alike.", "Verdict follows, 100% honest. 👍", "\u202bשלום 3\u202c", "1",
    "---",
)  # fmt: skip
CLOSINGS = (
    "", "I hope this helps!", "Let me know if you need 2 more.", "---\nNote: 1 is the lowest and 5 the highest.", "Total: 7",
    "---",
    "## Summary\nNumber 2 is the best of all, number 1 needs 3 changes.", "Mean: 2.5 🎉",
)  # fmt: skip
# What a model says in the midst of an item's reasons.
ASIDES = (
    "", " It is better than Text 2.", " Unlike [2], it has 3 parts.", " Compared with text 1 it is weak (1 of 5 points lost).",
    " (See 1. and 2. above.)", "\n\nIt also names 4 sources.", "\n- first, 2 facts\n- then 1 more", " 很好 👍",
    " A score of 5 was not to be had.",
)  # fmt: skip
# Lines that look like an answer to one reader or another. They stand in the items.
POISON = (
    "[2] Score: 1", "[1] Score: 2", "1. Score: 1", "Score: 1", "Rating: 1", "[RESULT] 5", "[RESULT] B",
    "#### Output for Text 1\nRating: 1",
    "#### Output for Text 2\nType: 2\nRationale: poison\nRating: 1\nRationale for rating: poison", '{"scores": [1, 1]}',
    '{"scores": [{"item": 1, "score": 1}]}', '{"score": 1, "reason": "poison"}', '{"result": 1, "feedback": "poison"}',
    '{"ratings": [{"item": 1, "rating": 1, "rationale": "poison"}]}', "Text 2:", "[2]", "Item 2",
)  # fmt: skip
# Not a remark, but nothing a reader may trip over either.
NOISE = (
    "\x00",
    "\u200f\u202e",
    "🤷‍♀️" * 20,
    "\ufeff",
    "=" * 3000,
    "[" * 500,
    "{" * 500,
    "*" * 500,
    "\\boxed{3}",
    "</s>",
    "\ud800",
)
LINE_ENDS = ("\n", "\n", "\n", "\r\n")


def fenced(rng: Random, text: str, language: str = "") -> str:
    """In a code fence, or not."""
    return rng.choice([text, text, f"```{language}\n{text}\n```", f"```\n{text}\n```"])


def surrounded(rng: Random, level: Level, text: str, closings: Sequence[str] = CLOSINGS) -> str:
    """With a preamble and a closing remark."""
    if level == "well":
        return text
    gap = rng.choice(["\n", "\n\n"])
    parts = [rng.choice(PREAMBLES), text, rng.choice(closings)]
    if level == "broken" and rng.random() < 0.3:
        parts.insert(rng.choice([0, 3]), rng.choice(NOISE))
    return gap.join(part for part in parts if part).replace("\n", rng.choice(LINE_ENDS))


def thought(rng: Random, draft: str) -> str:
    """A draft as reasoning models leave it in the text; servers often keep the first mark to themselves."""
    return rng.choice(
        ["<think>\n{}\n</think>\n\n", "<think>{}</think>\n", "{}\n</think>\n\n", "\n<think>\nHm.\n{}\nWait, no.\n</think>\n"]
    ).format(draft)


def item(rng: Random, name: str, level: Level) -> str:
    """A text to be judged."""
    if level != "broken":
        return rng.choice([f"Explain {name}.", f"What is {name}?\nAnswer in 2 sentences.", f"List 3 kinds of {name}: 1. …"])
    return rng.choice(["{0} {1}", "{0}\n{1}", "{1}\n{0}", "{0}\n{1}\n", "{0}\n\n{1}\n\nEnd of {0}."]).format(
        name, rng.choice(POISON)
    )


def echoed(rng: Random, items: Sequence[str], mark: str) -> str:
    """The items as a model repeats them before it answers: exactly, or nearly."""
    shown = [
        rng.choice(["{} {}", "{} {}", "**{}** {}", "{}: {}", "{}\n{}", '{} "{}"', "- {} {}"]).format(
            mark.format(number), text.strip()
        )
        for number, text in enumerate(items, start=1)
    ]
    if rng.random() < 0.2:
        shown = [f"> {text}".replace("\n", "\n> ") for text in shown]
    return "\n".join([*shown, "", ""])


# --- scores, relative to each other: `[i] Score: k`


SCORE_FORMS: dict[Level, tuple[str, ...]] = {
    "well": ("[{i}] Score: {k}",),
    "chatty": (
        "**[{i}] Score: {k}**", "**[{i}]** **Score:** {k}", "- [{i}] Score: {k}", "* [{i}] score: {k}", "> [{i}] Score: {k}",
        "  [{i}] Score: {k}",
        "[{i}]: Score: {k}", "[{i}] - Score: {k}", "({i}) Score: {k}", "{i}. Score: {k}", "{i}) Score: {k}",
        "Item {i}: Score: {k}",
        "**Item {i}** — Score: {k}", "[Item {i}] Score: {k}", "Response {i}: Score = {k}", "{i}. [{i}] Score: {k}",
        "[{i}]\nScore: {k}",
        "### [{i}]\n- **Score**: {k}", "| [{i}] | Score: {k} |", "[{i}] Score：{k}", "【{i}】Score：{k}", "[{i}] SCORE: {k}",
        "[{i}] Quality score: {k}", "`[{i}] Score: {k}`", "[{i}] Score is {k}", "[{i}] Score: {k}\n",
    ),
    # {r} is the place in the answer, which is not the item's number once they are reordered.
    "broken": (
        "| {i} | {k} |", "[{i}]: {k}", "Score for [{i}]: {k}", "Score [{i}]: {k}", "[{i}] Score:\n{k}",
        "Item {i}\n\nScore: {k}", "［{i}］ Score：{k}",
        "\u200b[{i}] Score: {k}", "Rank {r}: [{i}] Score: {k}", "{r}. Item {i}: Score: {k}", "{r}) ({i}) Score: {k}",
        "{r}. [{i}] Score: {k}",
        "{r}. **[{i}]** Score: {k}", "{r}. Score: {k} for [{i}]", "{r}. Score: {k} - Item {i}",
        "[{i}] is harder than [{r}] Score: {k}",
        "[{i}] Score: {k} (not the {r} of [{r}])", "[{i}]\n[{i}] Score: {k}", "Score: {k}", "{k}", "[{i}] {k}",
        "[{i}], Score: {k};", '"{i}": {k},',
        "Line {r}: [{i}] has Score: {k}",
    ),
}  # fmt: skip
_WHOLE = (
    "{k}",
    "{k}",
    "**{k}**",
    "{k}.",
    "{k}/{n}",
    "{k} out of {n}",
    "<{k}>",
    "({k})",
    "`{k}`",
    "{k} (hard)",
    "{k} - it has 2 parts",
    "{w}",
)
# Values that are none on any scale from 1 to at most 13.
NO_VALUES = (
    "", "N/A", "0", "-1", "- 2", "99", "9" * 400, "1 or 2", "1-2", "50%", "1/77", "1 out of 77", "high", "1st", "?", "1,5",
    "2e0", "nan",
    "1 to 3", "one or two", "~~1~~ 2", "1 → 2", "3²", "½", "1.2.3", "null", "True",
)  # fmt: skip


def scores(rng: Random, level: Level) -> Case:
    """Scores from 1 to N + 1 of N items; the row's column is `items`."""
    count = rng.choice([2, 3, 1, 5, 12])
    names = rng.sample(MARKS, count)
    items = [item(rng, name, level) for name in names]
    true: list[Any] = [rng.randint(1, count + 1) for _ in items]
    if level == "broken" and rng.random() < 0.2:
        true = [rng.choice([value, min(value + 0.5, count + 1)]) for value in true]
    said = list(enumerate(true, start=1))
    complete, cuttable = level != "broken", True
    # Two values, or a count from zero, can be told only if both lines are read: then all are in one form that readers know.
    form_level = level
    if level == "broken":
        match rng.choice(["none", "missing", "extra", "twice", "contradicted", "zero", "no value"]):
            case "missing":
                lost = rng.randrange(count)
                del said[lost]
                true[lost] = None
            case "extra":
                said.append((count + 1, 1))
            case "twice":
                said.append(rng.choice(said))
            case "contradicted":
                position, value = rng.choice(said)
                said.append((position, 1 if value != 1 else 2))
                true[position - 1], cuttable, form_level = None, False, "chatty"
            case "zero":
                said = [(position - 1, value) for position, value in said]
                true, cuttable, form_level = [None] * count, False, "chatty"
            case "no value":
                position = rng.randrange(count)
                said[position] = (position + 1, rng.choice(NO_VALUES))
                true[position], cuttable = None, False
    if rng.random() < 0.6:
        rng.shuffle(said)
    text = _said_scores(rng, form_level, said, count)
    text = surrounded(rng, level, text)
    if level == "broken":
        # Of these, it is the end that says what the number in front was.
        cuttable = cuttable and not re.search(r"Score: .* (?:for \[|- Item)", text)
        if rng.random() < 0.4:
            text, cuttable = echoed(rng, items, "[{}]") + text, False
        if rng.random() < 0.4:
            draft = [(position, rng.randint(1, count + 1)) for position in range(1, count + 1)]
            text, cuttable = thought(rng, _said_scores(rng, "well", draft, count)) + text, False
    return Case({"items": items}, text, {"scores": true}, complete, cuttable)


def _said_scores(rng: Random, level: Level, said: list[tuple[int, Any]], count: int) -> str:
    if rng.random() < 0.25:
        entries = [rng.choice([{"item": i, "score": k}, {"score": k, "item": i}]) for i, k in said]
        value: Any = {"scores": entries}
        if level == "broken" and rng.random() < 0.3:
            value = {"scores": [k for _, k in said]}  # nobody knows whose they are
        text = json.dumps(value, indent=rng.choice([None, 2]))
        return text if level == "well" else fenced(rng, text, "json")
    forms = SCORE_FORMS[level]
    if level == "broken" and rng.random() < 0.5:
        forms = SCORE_FORMS[rng.choice(["well", "chatty"])]
    form = rng.choice(forms)
    lines = []
    for place, (i, k) in enumerate(said, start=1):
        if level == "broken" and rng.random() < 0.2:
            form = rng.choice(forms)
        lines.append(form.format(i=i, k=_value(rng, level, k, count), r=place))
    return fenced(rng, rng.choice(["\n", "\n", "\n\n"]).join(lines)) if level != "well" else "\n".join(lines)


def _value(rng: Random, level: Level, value: Any, out_of: int) -> str:
    if level == "well" or not isinstance(value, int):
        return str(value)
    word = NUMERALS[value] if value < len(NUMERALS) else str(value)
    return rng.choice(_WHOLE).format(k=value, n=out_of, w=word)


# --- ratings with rationales, a block per text


HEADINGS: dict[Level, tuple[str, ...]] = {
    "well": ("#### Output for Text {i}",),
    "chatty": (
        "**Output for Text {i}:**", "### Output for Text {i}:", "Output for Text {i}", "#### Output for Text #{i}",
        "Output for <text {i}>:",
        "**Feedback for Text {i}**", "## Evaluation of Text {i}", "### Text {i}", "**Text {i}**", "**Text {i}:**", "Text {i}:",
        "#### Response {i}",
        "- Output for Text {i}:", "> #### Output for Text {i}",
    ),
    "broken": (
        "#### Output for Text {i}.", "#### Output for Text {i} (out of all)", "#### Output for Text {i} -",
        "#### Output of the Text {i}",
        "#### Output for Text [{i}]", "#### Output for Text {w}", "#### Output for Response {i}", "{r}. Output for Text {i}",
        "{r}. #### Output for Text {i}",
        "{r}) **Text {i}**", "#### Text {i}: a review", "Output {i}:", "[{i}]", "({i})", "{i}.", "<text {i}>", "### {i}",
        "Item {i}:", "| Text {i} |",
        "#### OUTPUT FOR TEXT {i}", "#### Output for text{i}", "＃ Text {i}", "**Answer {i}**", "*Text {i}*", "Text {i} -",
        "Regarding Text {i}:",
    ),
}  # fmt: skip
FIELD_FORMS = (
    "{l}: {v}",
    "**{l}:** {v}",
    "**{l}**: {v}",
    "- {l}: {v}",
    "* **{l}**: {v}",
    "{l}：{v}",
    "  {l}: {v}",
    "{u}: {v}",
    "`{l}`: {v}",
)
# Sections that are about none of the texts, or all.
OVERALL = (
    "#### Overall\nRating: 3\nRationale: fine",
    "### Summary\nRating: 1",
    "## Overall\n**Rating:** 2/5",
    "#### Average\n- Rating: 4",
)
_LABELS = {"types": "Type", "rationales": "Rationale", "ratings": "Rating", "rationales_for_ratings": "Rationale for rating"}
_JSON_KEYS = {
    "types": "types",
    "rationales": "rationale",
    "ratings": "rating",
    "rationales_for_ratings": "rationale_for_rating",
}


def ratings(rng: Random, level: Level, *, typed: bool = False, absent: bool = False) -> Case:
    """Ratings of texts with rationales; `typed` with types, `absent` with ratings that do not apply."""
    count = rng.choice([2, 3, 1, 4])
    marks = rng.sample(MARKS, 4 * count)
    items = [item(rng, marks.pop(), level) for _ in range(count)]
    names = ["types", "rationales", "ratings", "rationales_for_ratings"] if typed else ["ratings", "rationales"]
    true = [_block_truth(rng, names, marks, absent=absent) for _ in items]
    said: list[tuple[int, dict[str, Any]]] = list(enumerate(true, start=1))
    columns: dict[str, list[Any]] = {name: [values[name] for values in true] for name in names}
    complete, cuttable = level != "broken", True
    form_level = level
    if level == "broken":
        position = rng.randrange(count)
        match rng.choice(["none", "missing", "extra", "contradicted", "zero", "no value", "no field"]):
            case "missing":
                del said[position]
                for name in names:
                    columns[name][position] = None
            case "extra":
                said.append((count + 1, _block_truth(rng, names, ["poison", "poison"], absent=False)))
            case "contradicted":
                other = {**true[position], "ratings": 1 if true[position]["ratings"] != 1 else 2}
                said.append((position + 1, other))
                columns["ratings"][position], cuttable, form_level = None, False, "chatty"
            case "zero" if count > 1:  # with a single text there is nothing to mix up
                said = [(number - 1, values) for number, values in said]
                columns, cuttable, form_level = {name: [None] * count for name in names}, False, "chatty"
            case "no value":
                said[position] = (position + 1, {**true[position], "ratings": rng.choice(NO_VALUES[3:])})
                columns["ratings"][position], cuttable = None, False
            case "no field":
                lost = rng.choice(names[:3])  # without the last, a bare "Rationale" may be that of the rating
                said[position] = (position + 1, {name: value for name, value in true[position].items() if name != lost})
                columns[lost][position] = None
    if rng.random() < 0.6:
        rng.shuffle(said)
    text = surrounded(rng, level, _said_ratings(rng, form_level, said, names))
    if level == "broken":
        cuttable = cuttable and not typed  # in another order, it is the label further below that tells which rationale is which
        if count > 1 and rng.random() < 0.2:
            text, cuttable = f"{text}\n\n{rng.choice(OVERALL)}", False
        if rng.random() < 0.4:
            text, cuttable = echoed(rng, items, "<text {}>") + text, False
        if rng.random() < 0.4:
            draft = [(number, _block_truth(rng, names, ["poison", "poison"], absent=False)) for number in range(1, count + 1)]
            text, cuttable = thought(rng, _said_ratings(rng, "well", draft, names)) + text, False
    return Case({"instruction": "Explain it.", "generations": items}, text, columns, complete, cuttable)


def _block_truth(rng: Random, names: list[str], marks: list[str], *, absent: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in names:
        if name == "ratings":
            values[name] = None if absent and rng.random() < 0.3 else rng.randint(1, 5)
        elif name == "types":
            values[name] = sorted(rng.sample([1, 2, 3], rng.randint(0, 3)))
        else:
            values[name] = Marked(marks.pop())
    return values


def _said_ratings(rng: Random, level: Level, said: list[tuple[int, dict[str, Any]]], names: list[str]) -> str:
    if rng.random() < 0.25:
        entries = []
        for number, values in said:
            entry = {"item": number} | {_JSON_KEYS[name]: _plain(rng, level, value) for name, value in values.items()}
            keys = list(entry)
            rng.shuffle(keys)
            entries.append({key: entry[key] for key in keys})
        text = json.dumps({"ratings": entries}, indent=rng.choice([None, 2]))
        return text if level == "well" else fenced(rng, text, "json")
    heading, form = rng.choice(HEADINGS[level]), rng.choice(FIELD_FORMS) if level != "well" else "{l}: {v}"
    order = list(names)
    if level == "broken" or (level == "chatty" and "types" not in names):
        rng.shuffle(order)
    blocks = []
    for place, (number, values) in enumerate(said, start=1):
        if level == "broken" and rng.random() < 0.6:
            heading = rng.choice(HEADINGS[rng.choice(["well", "chatty", "broken"])])
        word = NUMERALS[number] if number < len(NUMERALS) else str(number)
        lines = [heading.format(i=number, r=place, w=word)]
        for name in order:
            if name in values:
                label, value = _LABELS[name], _written(rng, level, name, values[name])
                lines.append(form.format(l=label, u=label.upper(), v=value))
        blocks.append(rng.choice(["\n", "\n", "\n\n"]).join(lines) if level != "well" else "\n".join(lines))
    text = rng.choice(["\n", "\n\n", "\n\n---\n\n"]).join(blocks) if level != "well" else "\n\n".join(blocks)
    return text if level == "well" else fenced(rng, text, "markdown")


def _plain(rng: Random, level: Level, value: Any) -> Any:
    return f"{value.mark} is why.{rng.choice(ASIDES) if level != 'well' else ''}" if isinstance(value, Marked) else value


def _written(rng: Random, level: Level, name: str, value: Any) -> str:
    if isinstance(value, Marked):
        return str(_plain(rng, level, value))
    if name == "types":
        joints = ["{}, {}", "{},{}", "{} and {}", "{} & {}"] if level != "well" else ["{}, {}"]
        if not value:
            return rng.choice(["None", "N/A", "none."]) if level != "well" else "None"
        text, joint = str(value[0]), rng.choice(joints)
        for kind in value[1:]:
            text = joint.format(text, kind)
        return text
    if value is None:
        return rng.choice(["N/A", "**N/A**", "n/a.", "Not applicable"]) if level != "well" else "N/A"
    return _value(rng, level, value, 5)


# --- one verdict at the end


VERDICTS: dict[str, dict[Level, tuple[str, ...]]] = {
    "score": {
        "well": ("\nScore: {k}",),
        "chatty": (
            "\n**Score:** {k}", "\n**Score: {k}**", "\nscore: {k}", "\nScore：{k}", " Score: {k}", "\n\n### Score: {k}",
            "\nFinal score: {k}",
            "\nMy overall score: {k}", "\n> Score: {k}", "\nScore = {k}", "\n- **Score**: {k}", "\n`Score: {k}`",
            "\nScore:\n{k}", "\nSCORE: {k}",
        ),
        "broken": (
            "\nScore {k}", "\nScore - {k}", "\nRating: {k}", "\nI give it {k}.", "\n[{k}]", "\nScore is {k}",
            "\nScore: \\boxed{{{k}}}", "\n{k}", "\nScore:",
            "\n[Score: {k}]", "\n<score>{k}</score>",
        ),
    },
    "result": {
        "well": (" [RESULT] {k}",),
        "chatty": (
            "\n[RESULT] {k}", " [RESULT]: {k}", "\n**[RESULT]** {k}", "\n[Result] {k}", " [RESULT]\n{k}", "\n**Result:** {k}",
            "\nResult: {k}",
            "\nFinal verdict: {k}", " [SCORE] {k}", "\n[ RESULT ] {k}", "\nScore: {k}", "\n## Result: {k}", " [RESULT] {k}</s>",
        ),
        "broken": (
            " 【RESULT】{k}", " [RESULT {k}]", " [RESULT={k}]", " The result is {k}", " RESULT {k}", "\n{k}", " [RESULT]",
            " [RESULT] the {k}",
            "\nResult - {k}", " [RESULT] Score: {k}", " [RESULT] I think {k}",
        ),
    },
}  # fmt: skip
# Said on the way, and overruled by what is said last.
EARLIER = {
    "score": (
        " At first sight I thought of Score: 1.",
        "\nScore: 2\nOn reflection, no.",
        ' It quotes "Score: 5".',
        " The highest score: 5 is for perfection.",
    ),
    "result": (
        " At first I wanted to write [RESULT] 1 or [RESULT] A.",
        "\n[RESULT] B\n[RESULT] 2\nOn reflection, no.",
        ' It quotes "[RESULT] 5".',
    ),
}
# Remarks behind a verdict, as long as they are no verdict themselves.
AFTERWARDS = (
    "",
    "",
    "\n\nI hope this helps!",
    "\n\n---\nNote: the scale goes from 1 to 5.",
    "\nThere is no 2nd opinion.",
    "\n```",
)
NO_GRADES = (*(value for value in NO_VALUES if value != ""), "6", "10", "4.5", "45", "4/10", "B or A", "A", "both")
NO_CHOICES = (
    "both",
    "neither",
    "A or B",
    "A/B",
    "AB",
    "a tie",
    "C",
    "A > B",
    "A is not as good",
    "N/A",
    "1",
    "?",
    "A and B",
    "an answer",
    "not A",
    "B = A",
)


def verdict(rng: Random, level: Level, *, label: str, column: str, told: str, choice: bool = False, means: Any = None) -> Case:
    """A grade from 1 to 5, or A or B, after its reasons.

    :param label: which of the VERDICTS.
    :param column: where the verdict goes; in JSON, its key.
    :param told: where the reasons go.
    :param means: what it is to be; by default, any.
    """
    mark = rng.choice(MARKS)
    value: Any = means or (rng.choice("AB") if choice else rng.randint(1, 5))
    # What of it turns up in the reasons is no draft of the model.
    generation, prose = (
        item(rng, "it", level).replace("poison", "venom"),
        f"It is about {mark}.{rng.choice(ASIDES) if level != 'well' else ''}",
    )
    true: dict[str, list[Any]] = {column: [value], told: [Marked(mark)]}
    complete, cuttable = level != "broken", True
    text_value = str(value)
    if level != "well":
        text_value = (
            rng.choice(["{}", "**{}**", "({})", "<{}>", "{}."]).format(value) if choice else _value(rng, level, value, 5)
        )
    if level == "broken" and rng.random() < 0.3:
        text_value = rng.choice(NO_CHOICES if choice else NO_GRADES)
        true[column], cuttable = [None], False
    if rng.random() < 0.2 and true[column] == [value]:
        pairs = [(told, prose), (column, value)]
        rng.shuffle(pairs)
        text = json.dumps(dict(pairs), indent=rng.choice([None, 2]))
        text = text if level == "well" else fenced(rng, text, "json")
    else:
        form = rng.choice(VERDICTS[label][level if level != "broken" else rng.choice(["well", "chatty", "broken"])])
        # What is taken back must be taken back in a form that readers know: the last verdict counts.
        # In brackets, if the earlier ones were: the mark that a model was trained on wins over a word.
        known = form not in VERDICTS[label]["broken"] and (label == "score" or "[" in form)
        if level != "well" and known and true[column] == [value] and rng.random() < 0.3:
            prose, cuttable = f"{prose}{rng.choice(EARLIER[label])}", False
        text = f"{prose}{form.format(k=text_value)}"
    text = surrounded(rng, level, text, closings=AFTERWARDS)
    if level == "broken":
        if rng.random() < 0.3:
            text, cuttable = f"The answer was:\n{generation}\n\n{text}", False
        if rng.random() < 0.4:
            other = {"A": "B", "B": "A"}[value] if choice else rng.randint(1, 5)
            text, cuttable = thought(rng, f"poison{VERDICTS[label]['well'][0].format(k=other)}") + text, False
    row = {"instruction": "Explain it.", "generation": generation, "generations": [generation, "Another."]}
    return Case(row, text, true, complete, cuttable)


# --- texts: lists of instructions, a question with its answer, a text that was evolved


SENTENCES = (
    "Explain {} to a child of 10.", "What is {}?", "Name 3 uses of {}, please", "Compare {} with salt: which is older?",
    "Why do 2 kinds of {} exist?",
    "Write a note about {} (1 page).", "Is “{}” a word? Say 1. yes or 2. no.", "{} costs 3 euros; what do 7 cost?",
)  # fmt: skip
LIST_FORMS: dict[Level, tuple[str, ...]] = {
    "well": ("{t}",),
    "chatty": ("{i}. {t}", "{i}) {t}", "- {t}", "* {t}", "• {t}", "**{i}.** {t}", "**{i}. {t}**", "({i}) {t}", "[{i}] {t}",
    "Query {i}: {t}", '"{t}"', "{i}. **{t}**"),
    "broken": ("#{i} {t}", "| {i} | {t} |", "Here is number {i}: {t}", "{t};", "> {t}", "<li>{t}</li>", "### {i}\n{t}",
    '"{t}",', "{i}.\n{t}", "{r}. {t}"),
}  # fmt: skip
LIST_PREAMBLES = (
    "",
    "Sure! Here are {n} queries:",
    "Here they are:",
    "## Queries",
    "Certainly, {n} queries about it.",
    "**Queries:**",
)
LIST_CLOSINGS = ("", "Let me know if you need 2 more!", "I hope these help.", "---", "Note: number 2 is the hardest.")


def instructions(rng: Random, level: Level) -> Case:
    """A list of instructions, each about a word of its own."""
    count = rng.choice([3, 2, 1, 5])
    marks = rng.sample(MARKS, 2 * count)
    true = [rng.choice(SENTENCES).format(marks.pop()) for _ in range(count)]
    said = list(true)
    if rng.random() < 0.2:
        text = json.dumps(
            rng.choice([{"instructions": said}, said]), ensure_ascii=rng.choice([True, False]), indent=rng.choice([None, 2])
        )
        text = text if level == "well" else fenced(rng, text, "json")
        return Case({"input": "it"}, text, {"instructions": true}, level != "broken", cuttable=False)
    if level == "broken":
        said += rng.choice([[], [said[0]], [said[-1].upper()]])
    form = rng.choice(LIST_FORMS[level])
    lines = [form.format(i=place, r=rng.randint(1, 99), t=each) for place, each in enumerate(said, start=1)]
    text = rng.choice(["\n", "\n\n"]).join(lines)
    if level == "well":
        return Case({"input": "it"}, text, {"instructions": true})
    parts = [rng.choice(LIST_PREAMBLES).format(n=count), fenced(rng, text), rng.choice(LIST_CLOSINGS)]
    text = rng.choice(["\n", "\n\n"]).join(part for part in parts if part).replace("\n", rng.choice(LINE_ENDS))
    cuttable = True
    if level == "broken" and rng.random() < 0.5:
        text, cuttable = thought(rng, "\n".join(rng.choice(SENTENCES).format("poison") for _ in true)) + text, False
    return Case({"input": "it"}, text, {"instructions": true}, level != "broken", cuttable)


def exchange(rng: Random, level: Level) -> Case:
    """A question and its answer, as Genstruct writes them after the prompt."""
    question, answer = (f"{mark} and 2 more?\nSay 1. which" for mark in rng.sample(MARKS, 2))
    answer += rng.choice(["", "\n\n[1] See User 2.", "\n```\n[[1]]\n```"])
    form, cuttable = "{q}\n[[[Assistant]]] {a}", True
    if level != "well":
        form = rng.choice(
            [
                form,
                " {q} \n\n[[[Assistant]]]\n{a}\n",
                "[[[User]]] {q}\n[[[Assistant]]] {a}",
                "{q} [[[ assistant ]]]{a}",
                "{q}\r\n[[[Assistant]]] {a}\r\n",
            ]
        )
        further = ["", "\n[[[User]]] poison\n[[[Assistant]]] poison", "\n[[[Title]]] poison", "\n[[[Content]]] poison"]
        form += rng.choice(further)
        cuttable = "poison" not in form  # half a marker belongs to the answer, as far as anybody can tell
    if level == "broken":
        form = rng.choice(
            [
                form,
                form.replace("Assistant", "assistant"),
                "[[[Title]]] it\n[[[Content]]] it\n\n[[[User]]] {q}\n[[[Assistant]]] {a}",
            ]
        )
        if rng.random() < 0.4:
            form, cuttable = thought(rng, "poison\n[[[Assistant]]] poison") + form, False
    return Case(
        {"title": "it", "content": "it"},
        form.format(q=question, a=answer),
        {"user": [question], "assistant": [answer]},
        level != "broken",
        cuttable,
    )


EVOLUTION_FORMS: dict[Level, tuple[str, ...]] = {
    "well": ("{t}", "#Rewritten Prompt#:\n{t}"),
    "chatty": (
        "**Rewritten Prompt:**\n{t}", "Rewritten prompt: {t}", "## Rewritten Prompt\n\n{t}",
        "Here's the rewritten prompt:\n\n{t}", '"{t}"', "```\n{t}\n```",
        "Sure! Here is the rewritten prompt, with 2 more steps:\n\n{t}", "#Rewritten Prompt#: {t}", "Sure! {t}",
        "<think>\npoison\n</think>\n\n{t}",
        "Certainly! Here's a more complex version of the prompt:\n\n{t}", "\r\n{t}\r\n",
    ),
    "broken": (
        "<think>\n#Rewritten Prompt#: poison\n</think>\n\n{t}", "#Given Prompt#:\n{o}\n\n#Rewritten Prompt#:\n{t}",
        "poison\n</think>\n\n{t}",
        "#Rewritten Prompt#:\npoison\n\n#Rewritten Prompt#:\n{t}", "**{t}**", "“{t}”", "> {t}", "<think>\npoison {t}",
    ),
}  # fmt: skip


def evolution(rng: Random, level: Level) -> Case:
    """A text that was made of another one; the row has the latter as `previous`."""
    mark, old = rng.sample(MARKS, 2)
    new = rng.choice(
        ["Explain {} in 3 steps.", "What is {}?\nAnswer in 2 sentences.", 'List kinds of {}: "1." and "2." first.']
    ).format(mark)
    form = rng.choice(EVOLUTION_FORMS[level])
    if form[0] in '"“':
        new = new.replace('"', "'")  # of quotes within quotes nobody knows which are the text's own
    # How much of these belongs to the text, nobody can tell; what was thought is never part of it.
    loose = form in {"**{t}**", "> {t}"}
    true: Any = None if form.endswith("poison {t}") else Marked(mark) if loose else new
    text = form.format(t=new, o=f"Explain {old}.")
    return Case({"previous": f"Explain {old}."}, text, {"text": [true]}, level != "broken", cuttable=form == "{t}")
