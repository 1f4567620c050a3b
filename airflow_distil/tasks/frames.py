"""What models write around a new text: labels, announcements, remarks and refusals, for prompts and for responses.

Patterns only; `mutation` reads by them. Each is beside an example of what it matches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["GREETINGS", "PROMPTS", "RESPONSES", "Frame"]


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


GREETINGS = "sure|certainly|of course|absolutely|okay|ok"
_REWRITTEN = "rewritten|evolved|revised|modified|improved|enhanced"
# A text may well have a line "New request:" in it; they announce one only as `#New Request#:`, as they were asked for.
_ONLY_MARKED = "updated|created|new"

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
        GREETINGS,
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
