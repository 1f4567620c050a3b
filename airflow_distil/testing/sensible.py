"""What a good model would say, as far as form goes: answers in the format that each prompt asks for.

with FakeLLM(answer=sensible) as llm, llm.as_connection():
    dag.test()

It knows a prompt by the labels and marks that the answer is to be read by, not by its wording, and a JSON schema by itself. The
same request is always answered in the same way, another model's name in another; equal texts get equal ratings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from airflow_distil.testing.voice import Messages, Say

__all__ = ["sensible"]

QUERIES = (
    "Explain {} to a ten-year-old.",
    "What do most people get wrong about {}?",
    "Compare {} with something that looks alike at first sight.",
    "Which three facts about {} should everybody know?",
    "Write a short quiz about {}, with its solutions.",
    "How did people find out about {}?",
    "Summarise what matters about {} in two sentences.",
    "Why should anybody care about {}?",
    "List the technical terms that one needs to talk about {}.",
    "Describe a day in which {} plays a part.",
)
# Some 100 characters each, as the prompts of evolutions ask for.
ADDITIONS = (
    "Give at least three reasons, and for each of them name a case in which it does not hold.",
    "Use plain words only, and put every technical term that cannot be avoided into a short list at the end.",
    "Show each step of the reasoning in a numbered list, and say where it depends on an assumption.",
    "Weigh the two strongest objections against it, and say what would have to be true for them to win.",
    "Add one worked example with realistic numbers, and check the result in another way.",
    "Write for readers who know the basics already and have to decide within a week what to do.",
    "Keep the whole text below three hundred words, without leaving out any of the points above.",
    "Say which sources one would consult to verify the main claims, and why just those.",
)
OPENINGS = (
    "Consider how this looks in a country that has no coast.",
    "Take the view of somebody who repairs old clocks for a living.",
    "Think of a school that lies four hours from the next library.",
    "Imagine that only hand tools and one day are available.",
)
SENTENCES = (
    "The short answer is that it depends on what one compares it with.",
    "There are three parts to it, and the second one is what most people forget.",
    "It helps to begin with an example and to look for the rule afterwards.",
    "The usual explanation is right for simple cases and misleading for all others.",
    "What matters in practice is the order of the steps, not their number.",
    "Where exact figures are wanted, measure twice and note down the conditions.",
    "In the end it comes down to how much time and how many people there are.",
)
VERDICTS = (
    "It meets the task and says why, though one step could be shown in more detail.",
    "It is correct in the main points and clear, but it leaves out a case that matters.",
    "It keeps to what was asked, is easy to follow and claims no more than it can support.",
)


def sensible(messages: Messages, body: Mapping[str, Any]) -> Say:
    """Answer a request of any of this package's tasks in the form that it asks for, and other requests with a few sentences.

    :param messages: the conversation.
    :param body: the whole request; its `response_format` and `model` count.
    """
    said = [_text(message) for message in messages if message.get("role") == "user"] or [""]
    talk = _Talk("\n".join(map(_text, messages)), str(body.get("model")))
    if schema := _schema(body):
        return _filled(schema, schema, "", said[0], talk)  # type: ignore[no-any-return]
    for asked in reversed(said):
        for mark, answer in FORMS:
            if mark.search(asked):
                return answer(asked, talk)
    return talk.speak(said[-1])


class _Talk:
    """Makes choices that depend on the conversation, and on nothing else."""

    def __init__(self, text: str, model: str) -> None:
        self.text = text
        self.model = model

    def number(self, about: str, low: int, high: int) -> int:
        return low + int.from_bytes(blake2b(about.encode("utf-8", "replace"), digest_size=8).digest()) % (high - low + 1)

    def pick(self, about: str, choices: Sequence[str]) -> str:
        return choices[self.number(about, 0, len(choices) - 1)]

    def speak(self, asked: str) -> str:
        about = f"{self.model}/{self.text}"
        first = self.number(about, 0, len(SENTENCES) - 1)
        subject = " ".join(asked.split()[-6:]).strip(" .?!:\"'")
        told = [SENTENCES[(first + step) % len(SENTENCES)] for step in range(self.number(f"{about}/long", 2, 4))]
        return f"About “{subject}”: {' '.join(told)}"


def _genstruct(asked: str, talk: _Talk) -> str:
    title = re.search(r"\[\[\[Title\]\]\] *(.*)", asked)
    question = talk.pick(asked, QUERIES).format(title[1] if title else "this text")
    return f"{question}\n[[[Assistant]]] {talk.speak(question)}"


def _chosen(asked: str, talk: _Talk) -> str:
    return f"{talk.pick(asked, VERDICTS)} [RESULT] {talk.pick(asked + 'result', 'AB')}"


def _graded(asked: str, talk: _Talk) -> str:
    return f"{talk.pick(asked, VERDICTS)} [RESULT] {talk.number(asked, 1, 5)}"


def _rated(asked: str, talk: _Talk) -> str:
    typed = re.search(r"^Type:", asked, re.MULTILINE)
    blocks = []
    for index, text in enumerate(_items(asked), start=1):
        lines = [f"#### Output for Text {index}"]
        lines += (
            [f"Type: {talk.number(text + 'type', 1, 3)}", f"Rationale: {talk.pick(text + 'type', VERDICTS)}"] if typed else []
        )
        lines += [f"Rating: {talk.number(text, 1, 5)}"]
        lines += [f"Rationale{' for rating' if typed else ''}: {talk.pick(text, VERDICTS)}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _scored(asked: str, talk: _Talk) -> str:  # noqa: ARG001
    return "\n".join(f"[{index}] Score: {score}" for index, score in enumerate(_ranks(_items(asked)), start=1))


def _verdict(asked: str, talk: _Talk) -> str:
    return f"{talk.pick(asked, VERDICTS)}\nScore: {talk.number(asked, 1, 5)}"


def _evolved(asked: str, talk: _Talk) -> str:
    """Write the text between the last two marks anew."""
    marks = list(_MARK.finditer(asked))
    text = asked[marks[-2].end() : marks[-1].start()].strip()
    if "created" in marks[-1][0].casefold():
        # Another text of the same length: its first sentence is exchanged.
        first, _, rest = text.partition(". ")
        opening = talk.pick(text, [each for each in OPENINGS if not text.startswith(each)])
        return f"{opening} {rest or first}"
    fresh = [each for each in ADDITIONS if each not in text]
    return f"{text} {talk.pick(talk.text, fresh) if fresh else f'Add an example of {len(text)} characters.'}"


def _begun(asked: str, talk: _Talk) -> str:
    words = [word.strip() for word in asked[asked.index(":") + 1 :].split("\n", 1)[0].rstrip(".").split(",")]
    return talk.pick(asked, QUERIES).format(f"{talk.pick(asked + 'word', words)} in everyday life")


def _listed(asked: str, talk: _Talk) -> str:
    return "\n".join(_queries(asked, talk))


_MARK = re.compile(r"^#[^#\n]+#:[ \t]*$", re.MULTILINE)

FORMS: tuple[tuple[re.Pattern[str], Callable[[str, _Talk], str]], ...] = (
    (re.compile(r"\[\[\[User\]\]\]\s*\Z"), _genstruct),
    (re.compile(r"\[RESULT\].*\bA or B\b|\bA or B\b.*\[RESULT\]"), _chosen),
    (re.compile(r"\[RESULT\]"), _graded),
    (re.compile(r"#### Output for Text"), _rated),
    (re.compile(r"\[i\] Score: k"), _scored),
    (re.compile(r"^Score: k", re.MULTILINE), _verdict),
    (re.compile(r"^#[^#\n]+#:\s*\Z", re.MULTILINE), _evolved),
    (re.compile(r"\bwords?\b occurs?: .+\.$", re.MULTILINE), _begun),
    (re.compile(r"\bExactly \d+\b.*\b(?:quer|instruction|question)", re.IGNORECASE | re.DOTALL), _listed),
)
"""What the answer is to be read by → who writes it. The first that occurs in a prompt counts."""


def _items(asked: str) -> list[str]:
    """Return the first paragraph of each numbered text of a prompt, `<text 1> …` or `[1] …`."""
    for mark in ("\n<text {}> ", "\n[{}] "):
        starts: list[int] = []
        while (at := asked.find(mark.format(len(starts) + 1), starts[-1] if starts else 0)) >= 0:
            starts.append(at)
        if starts:
            texts = [asked[start:end] for start, end in zip(starts, [*starts[1:], len(asked)], strict=True)]
            return [text.strip().partition("\n\n")[0][len(mark) - 2 :] for text in texts]
    return [asked]


def _ranks(items: list[str]) -> list[int]:
    """Say that longer is more: 1 for the shortest; texts of one length share a rank."""
    lengths = sorted({len(item) for item in items})
    return [1 + lengths.index(len(item)) for item in items]


def _queries(asked: str, talk: _Talk, count: int | None = None) -> list[str]:
    """Write as many queries as are wanted, none of which was there before."""
    wanted = re.search(r"\bexactly (\d+)\b", asked, re.IGNORECASE)
    count = count or (int(wanted[1]) if wanted else 3)
    context = re.search(r"^Context:\s*(.+)$", talk.text, re.MULTILINE)
    subject = " ".join((context[1] if context else asked).split()[:8]).strip(" .,;:?!")
    start = talk.number(talk.text, 0, len(QUERIES) - 1)
    written: list[str] = []
    step = 0
    while len(written) < count:
        round_, place = divmod(step, len(QUERIES))
        query = QUERIES[(start + place) % len(QUERIES)].format(subject if not round_ else f"{subject} (part {round_ + 1})")
        if query not in talk.text:
            written.append(query)
        step += 1
    return written


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content or "")


def _schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    asked = body.get("response_format") or {}
    return (asked.get("json_schema") or {}).get("schema") or (
        {"type": "object"} if asked.get("type") == "json_object" else None
    )


def _filled(schema: Mapping[str, Any], root: Mapping[str, Any], name: str, asked: str, talk: _Talk) -> Any:
    """Return a value that fits a JSON schema. `name` is the path to it, and varies what is written."""
    schema = _plain(schema, root)
    if options := schema.get("enum"):
        return options[talk.number(f"{asked}/{name}", 0, len(options) - 1)]
    match schema.get("type", "object"):
        case "object":
            properties = schema.get("properties", {})
            return {key: _filled(each, root, f"{name}/{key}", asked, talk) for key, each in properties.items()}
        case "array":
            return _list(schema, root, name, asked, talk)
        case "integer" | "number":
            low = int(schema.get("minimum", 1))
            return talk.number(f"{asked}/{name}", low, int(schema.get("maximum", low + 4)))
        case _:
            return talk.pick(f"{asked}/{name}", VERDICTS)


def _plain(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema that says what it is: references followed, the first of several taken."""
    if "$ref" in schema:
        return _plain(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return _plain(options[0], root)
    if isinstance(kinds := schema.get("type"), list):
        return {**schema, "type": kinds[0]}
    if "const" in schema:
        return {"enum": [schema["const"]]}
    return {"enum": {"boolean": [False, True], "null": [None]}[kinds]} if kinds in {"boolean", "null"} else schema


def _list(schema: Mapping[str, Any], root: Mapping[str, Any], name: str, asked: str, talk: _Talk) -> list[Any]:
    each = _plain(schema.get("items", {"type": "string"}), root)
    if "item" in each.get("properties", {}):
        # One about each of the prompt's numbered texts; a score compares them with each other.
        items = _items(asked)
        about = [{**_filled(each, root, name, item, talk), "item": index} for index, item in enumerate(items, start=1)]
        scores = _ranks(items) if "score" in each["properties"] else []
        return about if not scores else [{**one, "score": score} for one, score in zip(about, scores, strict=True)]
    if each.get("type") == "string":
        return _queries(asked, talk, schema.get("minItems"))
    return [_filled(each, root, f"{name}/{index}", asked, talk) for index in range(schema.get("minItems", 1))]
