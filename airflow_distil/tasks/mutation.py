"""One mutation of a text: the templates that ask for it, and how the answer is read.

A model that rewrites also chats, refuses, forgets to change anything, or writes of the frame around the text as if it were part
of it. WizardLM (arXiv 2304.12244) leaves such evolutions out; `read_evolution` tells them from a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from random import Random

from airflow_distil.conversation import Answer, Chat, Request, Unparsed, user
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import ask_again

__all__ = [
    "PROMPTS",
    "RESPONSES",
    "Frame",
    "ask_for_answers",
    "ask_for_text",
    "check_mutations",
    "choose",
    "read_evolution",
]

# WizardLM takes an apology for a refusal only if it is short: a long text that begins with one may be a letter.
REFUSAL_WORDS = 80


@dataclass(frozen=True, slots=True)
class Frame:
    """The words that stand around a text of one sort.

    :param labels: matches what announces a new text, wherever it stands: `#Rewritten Prompt#:`, "Here's the improved prompt:".
    :param openings: matches what may come before a text without being a label: "Sure!", "Prompt:".
    :param leaks: matches words of the frame that a text of its own has no reason to use.
    """

    labels: re.Pattern[str]
    openings: re.Pattern[str]
    leaks: re.Pattern[str]


def read_evolution(text: str | None, previous: str, frame: Frame, *, beside: str = "") -> str:
    """Return the new text that an answer holds, without labels, fences and quotes around it.

    :param text: the answer.
    :param previous: the text that was to be changed; empty for one that is made up. What it says itself is no leak.
    :param beside: other text that the model was shown.
    :raises Unparsed: if there is none: the answer is empty, a refusal, unchanged, or speaks of the frame.
    """
    found = _unwrapped(_THOUGHT.sub("", text or "").strip(), previous)
    labels = list(frame.labels.finditer(found))
    # The last label is the one that counts, as an answer may repeat the whole frame. Labels that are part of the text itself
    # were there before, and are still behind it.
    own = sum(1 for _ in frame.labels.finditer(previous))
    if len(labels) > own:
        found = _unwrapped(found[labels[-1 - own].end() :].strip(), previous)
    if (opening := frame.openings.match(found)) and not frame.openings.match(previous):
        found = _unwrapped(found[opening.end() :].strip(), previous)
    if not re.search(r"\w", found):
        raise Unparsed("there is no text in it")
    if is_refusal(found) and not _REFUSAL.match(previous):
        raise Unparsed("it is a refusal or an apology instead of a text")
    if _plain(found) == _plain(previous):
        raise Unparsed("the text is the same as before")
    known = f"{_plain(previous)}\n{_plain(beside)}"
    for leak in frame.leaks.finditer(found):
        if _plain(leak.group()) not in known:
            raise Unparsed(f"the text must stand by itself, and it says {_plain(leak.group())!r}")
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
    """Tell whether a text is a refusal or an apology."""
    return len(text.split()) <= REFUSAL_WORDS and _REFUSAL.match(text) is not None


def _plain(text: str) -> str:
    """Return what two texts have in common that differ in case, spaces and punctuation only."""
    return " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))


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

# Reasoning models write what they think before what they say, and some servers leave it in the text.
_THOUGHT = re.compile(r"\A\s*<think>[\s\S]*?(?:</think>|\Z)")

_UNABLE = r"(?:(?:can|could|will|may|do)[ ]?not|can['’]t|won['’]t|(?:am|['’]m)\ (?:unable|not\ able|not\ allowed))"
_REFUSAL = re.compile(
    rf"""\W*(?:
        (?:(?:i['’]m|i\ am)\ (?:\w+\ )?)?sorry\b(?:[.!]*\s*\Z|,?\ but\b|[^\n]{{0,120}}?\bi\ ?{_UNABLE}\b)
      | (?:i|we|my|our)\ (?:\w+\ )?apolog | apologies\b
      | (?:unfortunately,?\ )?(?:i|we)\ ?{_UNABLE}\ (?:to\ )?(?:help|assist|fulfil|comply|provide|rewrite|create|generate
            |answer|respond|complete|continue|produce|engage|participate|support|offer|discuss|process|modify|improve
            |do\ (?:that|this))
      | as\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)(?:\ (?:language|model|assistant))*,?\ i\b
      | (?:please|could\ you)\ (?:\w+\ )?(?:provide|share)\b[^\n]{{0,60}}\b(?:prompt|instruction)\b
    )""",
    re.VERBOSE | re.IGNORECASE,
)


_HERE = r"[^\n]{0,60}\bhere(?:['’]s|[ ]is)\b"


def _labels(adjectives: str, nouns: str) -> re.Pattern[str]:
    name = rf"(?:the[ ]+)?(?:{adjectives})[ ]+(?:{nouns})"
    return _any_of(
        {
            "**Rewritten Prompt:**": rf"^[ \t>#*_`-]*{name}[ \t#*_`]*[::][#*_`]*",
            "## Rewritten Prompt": rf"^[ \t]*(?:#+|\*\*|__)[ \t]*{name}[ \t#*_]*$",
            "so, #Rewritten Prompt#:": rf"#[ \t]*{name}[ \t]*#[ \t]*(?:[::]|$)",
            "Here's the rewritten prompt, with more depth:": rf"^{_HERE}[^\n::]{{0,60}}?\b{name}\b[^\n::]{{0,100}}[::][*_]*",
        }
    )


def _openings(nouns: str, greetings: str) -> re.Pattern[str]:
    name = rf"\b(?:{nouns})\b"
    return _any_of(
        {
            "Sure! Here is a version with more depth:": rf"{_HERE}[^\n::]{{0,100}}?{name}[^\n::]{{0,100}}[::][*_]*[ \t]*$",
            "Prompt:": rf"[ \t#*_]*(?:{nouns})[ \t#*_]*[::][#*_]*",
            "Sure!": rf"(?:{greetings})[.!,:]+\s",
        }
    )


def _any_of(patterns: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns.values()), re.MULTILINE | re.IGNORECASE)


def _leaks(adjectives: str, nouns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{adjectives})[\s_#*]+(?:{nouns})\b", re.IGNORECASE)


_REWRITTEN = "rewritten|evolved|revised|modified|improved|enhanced|updated"

PROMPTS = Frame(
    labels=_labels(f"{_REWRITTEN}|created|new", "prompt|instruction|question|request"),
    openings=_openings("prompt|instruction|question|request|version|variation", "sure|certainly|of course|absolutely|okay|ok"),
    leaks=_leaks("given|rewritten|created", "prompt"),
)

RESPONSES = Frame(
    labels=_labels(_REWRITTEN, "response|answer"),
    # A response itself may well begin with "Sure!", or with the version of something.
    openings=_openings("response|answer", "(?!)"),
    leaks=_leaks("given|rewritten", "prompt|response"),
)
