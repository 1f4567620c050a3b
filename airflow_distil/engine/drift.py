"""Prompts that change by themselves: noticed before their rows are paid for twice."""

from __future__ import annotations

from airflow_distil.engine.dialogue import Dialogue, Turn, read_body
from airflow_distil.engine.facts import Facts
from airflow_distil.exceptions import TaskDefinitionError

__all__ = ["check_logged", "check_rendering", "kept_prompt"]

# Of the first rows the prompts are rendered twice and kept in the log, to see (and show) a prompt that changes by itself.
PROMPTS_KEPT = 64
# A prompt can have 50 MB, and a log segment with a few of those is one that nobody reads back.
PROMPT_CHARACTERS = 2**16
# Of two prompts that should be one, what is shown: from so much before the first difference.
CHARACTERS_SHOWN = 300
CHARACTERS_BEFORE = 100


def kept_prompt(ordinal: int, turn: Turn) -> dict[str, str]:
    """Return what the fact of a request says of its prompt."""
    return {"prompt": turn.prompt[:PROMPT_CHARACTERS]} if ordinal < PROMPTS_KEPT and turn.step == 0 else {}


def check_logged(facts: Facts, dialogue: Dialogue, wanted: Turn) -> None:
    """Check that what is about to be asked first is what the same work asked before.

    :raises TaskDefinitionError: if it asked something else.
    """
    at = dialogue.ordinal, dialogue.sample
    if wanted.step > 0 or (logged := facts.first(*at)) is None:
        return
    if facts.find(wanted.key, *at, own=False) is not None:
        return  # only this ask has no answer to it
    before = read_body(logged).get("prompt")
    _raise(dialogue, before or f"(kept only for the first {PROMPTS_KEPT} rows)")


def check_rendering(ordinal: int, dialogues: list[Dialogue]) -> None:
    """Check, for one of the first rows, that its prompts come out alike when they are rendered again.

    :raises TaskDefinitionError: if one does not.
    """
    if ordinal >= PROMPTS_KEPT:
        return
    for dialogue in dialogues:
        again = dialogue.again()
        if dialogue.first and again.first and again.first.content != dialogue.first.content:
            _raise(dialogue, again.first.prompt)


def _raise(dialogue: Dialogue, other: str) -> None:
    now = dialogue.first.prompt if dialogue.first else ""
    raise TaskDefinitionError(
        f"Task {dialogue.speech.task.name!r} does not make the same prompt twice: row {dialogue.ordinal}, sample "
        f"{dialogue.sample}, of the same source and the same code: one is {_from_difference(now, other)}, another "
        f"{_from_difference(other, now)}. A retry could not recognise its answers and would pay again, so nothing more is "
        "asked. Make format_input depend on the row only (no clock, no set order, no unseeded random numbers; `converse` "
        "is given seeded ones). If the prompt comes from another module, and that was edited, clear with "
        "on_existing='regenerate'."
    )


def _from_difference(prompt: str, other: str) -> str:
    pairs = enumerate(zip(prompt, other, strict=False))
    same = next((at for at, (one, another) in pairs if one != another), min(len(prompt), len(other)))
    start = max(0, same - CHARACTERS_BEFORE)
    return f"{'…' if start else ''}{prompt[start : start + CHARACTERS_SHOWN]}"
