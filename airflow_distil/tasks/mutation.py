"""One mutation of a text: the templates that ask for it, and how the answer is read.

A model that rewrites also chats, refuses, forgets to change anything, or writes of the frame around the text as if it were part
of it. WizardLM (arXiv 2304.12244) leaves such evolutions out; `read_evolution` tells them from a text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from itertools import islice
from random import Random

from airflow_distil.conversation import Answer, Chat, Request, Unparsed, user
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import ask_again
from airflow_distil.tasks.frames import GREETINGS, PROMPTS, Frame
from airflow_distil.tasks.labels import without_thought

__all__ = [
    "ask_for_answers",
    "ask_for_text",
    "check_mutations",
    "choose",
    "is_refusal",
    "normal",
    "read_evolution",
]

# WizardLM takes an apology for a refusal only if it is short: a long text that begins with one may be a letter.
REFUSAL_WORDS = 80

# What is said before a new text is a sentence or two: a label without a mark that comes later is a line of the text.
FIRST_LABELS = 8


def read_evolution(text: str | None, previous: str, frame: Frame, *, beside: str = "") -> str:
    """Return the new text that an answer holds, without labels, fences and quotes around it.

    :param text: the answer.
    :param previous: the text that was to be changed; empty for one that is made up. What it says itself is no leak.
    :param beside: other text that the model was shown.
    :raises Unparsed: if there is none: the answer is empty, a refusal, unchanged, or speaks of the frame.
    """
    found = _unwrapped(without_thought(text).strip(), previous)
    labels = list(frame.labels.finditer(found))
    # The last label is the one that counts, as an answer may repeat the whole frame. Labels that are part of the text itself
    # were there before, and are still behind it.
    own = sum(1 for _ in frame.labels.finditer(previous))
    if len(labels) > own:
        found = _unwrapped(found[labels[-1 - own].end() :].strip(), previous)
    if not frame.announcements.search(previous):
        first = islice(frame.announcements.finditer(found), FIRST_LABELS)
        ends = [it.end() for it in first if _is_no_text(found[: it.start()], previous, beside)]
        if ends:
            found = _unwrapped(found[ends[-1] :].strip(), previous)
    if (opening := frame.openings.match(found)) and not frame.openings.match(previous):
        found = _unwrapped(found[opening.end() :].strip(), previous)
    found = _unwrapped(_without_remark(found, previous, frame), previous)
    if not re.search(r"\w", found):
        raise Unparsed("there is no text in it")
    if _refuses(found, frame) and not frame.refusals.match(previous):
        raise Unparsed("it is a refusal or an apology instead of a text")
    if normal(found) == normal(previous):
        raise Unparsed("the text is the same as before")
    known = f"{_words(previous)}\n{_words(beside)}"
    for leak in frame.leaks.finditer(found):
        if _words(leak.group()) not in known:
            raise Unparsed(f"the text must stand by itself, and it says {_words(leak.group())!r}")
    return found


def ask_for_text(prompt: str, read: Callable[[str | None], str], retries: int) -> Generator[Chat, Answer, str]:
    """Ask for a text, and again with the reason as long as it cannot be used.

    :raises Unparsed: if it still cannot.
    """
    request = Chat([user(prompt)])
    while True:
        answer = yield request
        try:
            if answer.finish_reason == "length":
                raise Unparsed("it breaks off at the limit of tokens; it must be shorter")
            return read(answer.text)
        except Unparsed as unparsed:
            if not retries:
                raise
            retries -= 1
            request = ask_again(request, answer, unparsed.reason)


def ask_for_answers(prompts: list[str], retries: int) -> Generator[list[Request], list[Answer], list[str | None]]:
    """Ask each prompt as it is, all at once, and again those whose answer is empty; return one answer, or None, per prompt.

    Where an evolution failed, the same prompt stands twice; it is asked once.
    """
    found: dict[str, str | None] = dict.fromkeys(prompts)
    for _ in range(retries + 1):
        if missing := [prompt for prompt, text in found.items() if text is None]:
            answers = yield [Chat([user(prompt)]) for prompt in missing]
            texts = (answer.text for answer in answers)
            found.update(zip(missing, (text if text and text.strip() else None for text in texts), strict=True))
    return [found[prompt] for prompt in prompts]


def choose(kinds: Iterable[str], rng: Random) -> str:
    """Choose a kind of mutation, each as likely; in whatever order they are given."""
    return rng.choice(sorted(kinds))


def check_mutations(mutation_templates: Mapping[str, str], names: Collection[str]) -> None:
    """Check templates that must all use these names, and no others.

    :raises ValueError: if there are none, or one of them is wrong.
    """
    if not mutation_templates:
        raise ValueError("mutation_templates is empty; give at least one")
    for kind, template in mutation_templates.items():
        try:
            # All needed: a template written for another library, with <PROMPT> in it, uses none of them.
            templates.check(template, names, needed=names)
        except ValueError as error:
            raise ValueError(f"mutation_templates[{kind!r}]: {error}") from error


def is_refusal(text: str) -> bool:
    """Tell whether a text that should be a prompt is a refusal or an apology of the model."""
    return _refuses(text, PROMPTS)


def normal(text: str) -> str:
    """Return what two texts have in common that differ in case, spaces and the punctuation around them only."""
    # Not `+`, `#` or brackets: C is not C++.
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?…。、\"'“”‘’«»`*")


def _refuses(text: str, frame: Frame) -> bool:
    return len(text.split()) <= REFUSAL_WORDS and frame.refusals.match(text) is not None


def _words(text: str) -> str:
    """Return the words of a text, whatever stands between them."""
    return " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))


def _is_no_text(before: str, previous: str, beside: str) -> bool:
    """Tell whether what stands before an announcement is polite, or what the model was shown, and no text of its own."""
    if (polite := _PREAMBLE.match(before)) is not None:
        before = before[polite.end() :]
    left = f" {_words(before)} "
    for shown in (_words(previous), _words(beside)):
        left = left.replace(f" {shown} ", " ", 1) if shown else left
    return set(left.split()) <= _SHOWN_AS


def _without_remark(text: str, previous: str, frame: Frame) -> str:
    """Return the text without a last paragraph that tells what was changed, unless the text had one before."""
    gaps = list(_GAP.finditer(text))
    if not gaps or not frame.remarks.match(text, gaps[-1].end()):
        return text
    if any(frame.remarks.match(previous, gap.end()) for gap in _GAP.finditer(previous)):
        return text
    return text[: gaps[-1].start()].strip()


def _unwrapped(text: str, previous: str) -> str:
    """Return the text without a fence, quotes or stars around the whole of it, unless they belong to it."""
    for pattern in _WRAPPINGS:
        if (wrapped := pattern.fullmatch(text)) and not pattern.fullmatch(previous.strip()):
            return _unwrapped(wrapped[1].strip(), previous)
    return text


# A fence with the name of a language is code, and code may be the whole of a text.
_WRAPPINGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"```(?:text|txt|plaintext|markdown|md|prompt)?[ \t]*\n((?:(?!```)[\s\S])*)```",
        r'"([^"]+)"',
        r"“([^“”]+)”",
        r"«([^«»]+)»",
        r"`([^`]+)`",
        r"\*\*((?:(?!\*\*)[^\n])+)\*\*",
    )
)

_GAP = re.compile(r"\n[ \t]*\n\s*")

# Sentences of a model that is about to show its text.
_PREAMBLE = re.compile(
    rf"""(?:\s*(?:
        (?:{GREETINGS})[.!,:]+
      | (?:(?:i['’]m|i\ am)\ sorry|sorry|i\ apologi[sz]e|my\ apologies|thanks|thank\ you|let\ me|let['’]s
            |to\ make\ (?:it|this|the\ (?:prompt|response|question|instruction|answer))
            |i(?:['’]ve|['’]ll|\ have|\ will|\ can|\ would)\ (?:\w+\ )?
                (?:rewr|revis|modif|improv|enhanc|updat|add|ma[dk]e|evol|chang)\w*
        )\b[^\n.!?:]{{0,150}}[.!:]+
    )(?=\s|\Z))+""",
    re.VERBOSE | re.IGNORECASE,
)
# What an echo is headed by: "The given prompt:", "Original question".
_SHOWN_AS = {
    "the", "given", "original", "old", "previous", "initial", "current",
    "prompt", "instruction", "question", "request", "response", "answer",
}  # fmt: skip
