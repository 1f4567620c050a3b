"""One mutation of a text: the templates that ask for it, and how the answer is read.

A model that rewrites also chats, refuses, forgets to change anything, or writes of the frame around the text as if it were part
of it. WizardLM (arXiv 2304.12244) leaves such evolutions out; `read_evolution` tells them from a text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from random import Random

from airflow_distil.conversation import Answer, Chat, Request, Unparsed, user
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import ask_again
from airflow_distil.tasks.labels import without_thought

__all__ = [
    "PROMPTS",
    "RESPONSES",
    "Frame",
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


@dataclass(frozen=True, slots=True)
class Frame:
    """The words that stand around a text of one sort.

    :param labels: matches what announces a new text, wherever it stands: `#Rewritten Prompt#:`, `**Rewritten Prompt:**`.
    :param announcements: matches what does so only if no text stands before it: "Rewritten prompt:", "Here's the new prompt:".
    :param openings: matches what may come before a text without being a label: "Sure!", "Prompt:".
    :param remarks: matches a paragraph behind a text that tells what was changed.
    :param refusals: matches a text that is none, from its beginning.
    :param leaks: matches words of the frame that a text of its own has no reason to use.
    """

    labels: re.Pattern[str]
    announcements: re.Pattern[str]
    openings: re.Pattern[str]
    remarks: re.Pattern[str]
    refusals: re.Pattern[str]
    leaks: re.Pattern[str]


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

# Reasoning models write what they think before what they say, and some servers leave it in the text.
_GAP = re.compile(r"\n[ \t]*\n\s*")

_GREETINGS = "sure|certainly|of course|absolutely|okay|ok"
_REWRITTEN = "rewritten|evolved|revised|modified|improved|enhanced"
# A text may well have a line "New request:" in it; they announce one only as `#New Request#:`, as they were asked for.
_ONLY_MARKED = "updated|created|new"

# Sentences of a model that is about to show its text.
_PREAMBLE = re.compile(
    rf"""(?:\s*(?:
        (?:{_GREETINGS})[.!,:]+
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

_UNABLE = r"(?:(?:can|could|will|may|do)[ ]?not|can['’]t|won['’]t|(?:am|['’]m)\ (?:unable|not\ able|not\ allowed))"
_SORRY = r"(?:(?:(?:i['’]m|i\ am)\ (?:\w+\ )?)?sorry|(?:i|my)\ (?:\w+\ )?apolog\w+|apologies)\b"
_AI = r"as\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)(?:\ (?:language|model|assistant))*,?\ i\b"
_VERBS = (
    r"(?:help(?!\ (?:but|it|\w+ing)\b)|assist|fulfil|comply|provide|rewrite|create|generate|answer|respond|complete|continue"
    r"|produce|engage|participate|support|offer|discuss|process|modify|improve|evolve)\w*"
)
_WANTED = r"please\ (?:\w+\ )?(?:provide|share)|could\ you\ (?:\w+\ )?(?:provide|share)"
_PROMPT = r"(?:prompt|instruction)\b"

# People cannot do many things either, and ask for help with them. What a model cannot do is its task; or it says no more.
_TASK = (
    r"(?:(?:the|this|that|your|such|any|an?|another)\ )?(?:\w+er\ |more\ \w+\ |new\ |given\ |rewritten\ )?"
    r"(?:prompts?|instructions?|version)\b"
)
_NO_PROMPT = re.compile(
    rf"""\W*(?:
        (?:{_SORRY}[^\n]{{0,120}}?[\s,;:—-])?(?:unfortunately,?\ )?(?:i|we)\ ?{_UNABLE}\ (?:to\ )?(?:
            (?:help|assist|comply)\w*\ (?:you\ )?(?:with\ |on\ |in\ )?(?:{_TASK}
                |(?:this|that|your)\b(?:\ (?:request|task|question))?(?!\ \w))
          | {_VERBS}\ (?:to\ |with\ |on\ )?(?:{_TASK}|(?:this|that|your|such\ an?)\ (?:\w+\ )?(?:request|task|question)s?\b)
        )
      | {_SORRY}(?:,?\ but)?\ (?:the|this|that|your)\ (?:\w+\ )?(?:prompt|instruction|request)\b
      | {_AI}
      | (?:{_WANTED})\b[^\n]{{0,20}}\b(?:the|your|an?)\ (?:\w+\ )?{_PROMPT}\ (?:that|to\ (?:be|rewrite)|you|i|for\ me)\b
      | (?:                     # nothing but a refusal: one sentence
            {_SORRY}(?:[.,;]?\ (?:but\ )?i\ ?{_UNABLE}\b|,?\ but\ (?!my\b|our\b|i\ (?!{_UNABLE})))[^\n.!?:—]{{0,200}}
          | {_SORRY}
          | (?:unfortunately,?\ )?(?:i|we)\ ?{_UNABLE}(?:\ (?:to\ )?(?:{_VERBS}|do)
                (?:\ (?:you|with|on|to|creating|writing|rewriting))*
                (?:\ (?:that|this|it|such|any|(?:\w+\ )?(?:content|material|information|advice|assistance|guidance)
                )\b[^\n.!?:—]{{0,120}})?)?
          | (?:{_WANTED})\b[^\n.!?:—]{{0,20}}\b(?:the|your)\ (?:\w+\ )?{_PROMPT}
        )[\s.!"”'’*]*\Z
    )""",
    re.VERBOSE | re.IGNORECASE,
)

# "I cannot give advice, but drink water": that is an answer. To offer another one is none.
_GOES_ON = r"""[\s\S]{0,400}?\b(?:but|however|instead|still|that\ said)\b,?\ (?!
    (?:i\b|feel\ free|please|let\ me|if\ you|is\ there|you\ can\ ask)[^.!\n:]{0,120}[.!?]*\s*\Z)\w+\ \w+"""
_NO_RESPONSE = re.compile(
    rf"""\W*(?:
        {_SORRY}(?:[.!]*\s*\Z|,?\ but\b|[^\n]{{0,120}}?\bi\ ?{_UNABLE}\b)
      | (?:unfortunately,?\ )?(?:i|we)\ ?{_UNABLE}\ (?:to\ )?(?:{_VERBS}|do\ (?:that|this))
      | {_AI}
      | (?:{_WANTED})\b[^\n]{{0,60}}\b{_PROMPT}
    )(?!{_GOES_ON})""",
    re.VERBOSE | re.IGNORECASE,
)

_HERE = r"[^\n]{0,60}\bhere(?:['’]s|[ ]is)\b"


def _labels(nouns: str, *, only_marked: str = "") -> re.Pattern[str]:
    name = rf"(?:the[ ]+)?(?:{_REWRITTEN})[ ]+(?:{nouns})"
    asked = rf"(?:the[ ]+)?(?:{_REWRITTEN}|{_ONLY_MARKED})[ ]+(?:{nouns}{only_marked})"
    return _any_of(
        {
            "**Rewritten Prompt:**": rf"^[ \t>-]*(?:#|\*\*|__)[ \t#*_`]*{name}[ \t#*_`]*[:：][#*_`]*",
            "## Rewritten Prompt": rf"^[ \t]*(?:#+|\*\*|__)[ \t]*{name}[ \t#*_]*$",
            "so, #Rewritten Prompt#:": rf"#[ \t]*{asked}[ \t]*#[ \t*_]*(?:[:：][*_]*|$)",
        }
    )


def _announcements(nouns: str) -> re.Pattern[str]:
    name = rf"(?:{_REWRITTEN})[ ]+(?:{nouns})"
    later = rf"(?:{_REWRITTEN}|{_ONLY_MARKED})[ ]+(?:{nouns})"
    return _any_of(
        {
            "Rewritten prompt:": rf"^[ \t>*_`-]*(?:the[ ]+)?{name}[ \t*_`]*[:：][*_`]*",
            "Here's the rewritten prompt, with depth:": rf"^{_HERE}[^\n:：]{{0,60}}?\b{later}\b[^\n:：]{{0,100}}[:：][*_]*",
        }
    )


def _openings(asked: str, nouns: str, versions: str, greetings: str) -> re.Pattern[str]:
    here = rf"{_HERE}[^\n:：]{{0,100}}?\b(?:{versions})\b[^\n:：]{{0,100}}[:：][*_]*[ \t]*$"
    return _any_of(
        {
            "Sure! Here is a version with more depth:": here,
            "Prompt:": rf"[ \t#*_]*(?:(?:(?:{_ONLY_MARKED})[ ]+)?(?:{asked})|{nouns})[ \t#*_]*[:：][#*_]*",
            "## New Prompt": rf"[ \t]*(?:#+|\*\*|__)[ \t]*(?:{_ONLY_MARKED})[ ]+(?:{asked})[ \t#*_]*$",
            "Sure!": rf"(?:{greetings})[.!,:]+\s",
        }
    )


def _remarks(always: str, about: str) -> re.Pattern[str]:
    # A note may be a condition of the text, and the person who speaks may have made a cake: it must be about the change.
    mine = (
        r"i(?:['’]ve|[ ]have)?[ ](?:also[ ]|just[ ]|only[ ])?(?:added|changed|made|kept|replaced|included|introduced|rewrote"
        r"|rewritten|modified|increased|specified|expanded|improved|revised|deepened)\b"
    )
    about = rf"(?:(?:version|original|rewritten|rewrote|revised|{about})\b)"
    note = rf"[^?]{{0,400}}?\b(?:{mine}|{about})"
    return _any_of(
        {
            "Explanation:": rf"[*_>#( \t]*(?:{always})[*_]*[:：]",
            "(Note: I kept the table.)": rf"[*_>#( \t]*(?:notes?|explanation|changes)[*_]*[:：]{note}",
            "(I added a condition.)": rf"[*_]*\([*_]*{mine}",
            "I made it harder.": rf"[*_]*{mine}(?![^?]*\?)[\s\S]{{0,400}}?\b{about}",
        }
    )


def _any_of(patterns: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns.values()), re.MULTILINE | re.IGNORECASE)


def _leaks(adjectives: str, nouns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{adjectives})[\s_#*]+(?:{nouns})\b", re.IGNORECASE)


PROMPTS = Frame(
    labels=_labels("prompt|instruction|question", only_marked="|request"),
    announcements=_announcements("prompt|instruction|question"),
    openings=_openings(
        "prompt|instruction",
        "question",
        "version|variation|prompt|instruction|(?:more[ ]\\w+|harder|deeper|new|updated)[ ](?:question|request|task)",
        _GREETINGS,
    ),
    remarks=_remarks(
        "explanation",
        "prompts?|instructions?|(?:constraints?|requirements?|conditions?|reasoning|complex(?:ity)?|specific|difficult|harder|depth)",
    ),
    refusals=_NO_PROMPT,
    leaks=_leaks("given|rewritten|created", "prompt"),
)

RESPONSES = Frame(
    labels=_labels("response|answer"),
    announcements=_announcements("response|answer"),
    # A response itself may well begin with "Sure!", or with the version of something.
    openings=_openings("response", "answer", "response|answer", "(?!)"),
    # And it may well end with an explanation.
    remarks=_remarks("(?!)", "response|answer|prompt|helpful|relevant|creative|details?|depth"),
    refusals=_NO_RESPONSE,
    leaks=_leaks("given|rewritten", "prompt|response"),
)
