"""Evolve instructions: into harder ones, and into others of the same domain."""

from __future__ import annotations

from random import Random
from typing import Any

from airflow_distil.conversation import Conversation, Row, Unparsed
from airflow_distil.tasks import templates
from airflow_distil.tasks.evolution import Evolution
from airflow_distil.tasks.frames import PROMPTS
from airflow_distil.tasks.mutation import ask_for_answers

__all__ = ["COMPLEXITY_MUTATIONS", "INSTRUCTION_MUTATIONS", "EvolComplexity", "EvolInstruct"]

_METHODS = {
    "CONSTRAINTS": "add one more condition or requirement that the response has to meet.",
    "DEEPENING": "where the prompt asks about something, let it ask about that in more depth and more breadth.",
    "CONCRETIZING": "put something more specific in the place of what is said in general.",
    "INCREASED_REASONING_STEPS": (
        "if a few simple thoughts are enough to respond to the prompt, change it so that it asks explicitly for reasoning in "
        "several steps."
    ),
}
_FRAME = templates.packaged("evol_instruct.jinja2")

COMPLEXITY_MUTATIONS = {kind: _FRAME.replace("[[method]]", method) for kind, method in _METHODS.items()}
"""The mutations that make a prompt harder; they see `prompt`."""

INSTRUCTION_MUTATIONS = {**COMPLEXITY_MUTATIONS, "BREADTH": templates.packaged("evol_instruct_breadth.jinja2")}
"""And the one that makes another of it."""


class EvolInstruct(Evolution):
    """Evolve an instruction step by step: into a harder one, or into another of its domain (WizardLM, arXiv 2304.12244).

    Reads `instruction` (str). Writes `evolved_instruction` (str: the last one); with `store_evolutions` or
    `include_original_instruction`, in its place `evolved_instructions` (list[str], oldest first). With `generate_answers` also
    `answer` (str), or `answers` (list[str | None], one per evolved instruction). And of each evolution, `mutations` (list[str]:
    the kind that was chosen) and `mutation_errors` (list[str | None]: None, or why it failed: the answer was empty, a refusal,
    unchanged, cut off, or it spoke of the task). After an evolution that failed, the instruction stays as it was, in
    `evolved_instructions`, too, and the next one starts from it. If none succeeded, the row is unparsed. A request
    that the provider refuses, as content filters do, fails the row with all of its evolutions.

    :param num_evolutions: evolutions, one after the other, of each instruction.
    :param store_evolutions: True writes the instruction after each evolution, not only after the last.
    :param generate_answers: True asks what was written for an answer, too.
    :param include_original_instruction: True puts the original instruction first in the list.
    :param mutation_templates: kind of mutation → Jinja2 prompt that sees `prompt`; each evolution chooses one of them at
        random. It should have the new prompt written alone, or behind `#Rewritten Prompt#:`.
    """

    evolves = "instruction"
    frame = PROMPTS
    seen_as = {"instruction": "prompt"}

    generate_answers: bool = False
    include_original_instruction: bool = False
    mutation_templates: dict[str, str] = INSTRUCTION_MUTATIONS

    @property
    def output_types(self) -> dict[str, Any]:  # type: ignore[override]
        listed = self.store_evolutions or self.include_original_instruction
        types: dict[str, Any] = {"evolved_instructions": list[str]} if listed else {"evolved_instruction": str}
        if self.generate_answers:
            types |= {"answers": list[str | None]} if listed else {"answer": str}
        return types | self.history_types

    def converse(self, input: Row, rng: Random) -> Conversation:
        history = yield from self.evolve(input, rng)
        told = self.told(history, include_original=self.include_original_instruction)
        if isinstance(told, str):
            columns = {"evolved_instruction": told, **history.columns}
        else:
            columns = {"evolved_instructions": told, **history.columns}
        if not self.generate_answers:
            return columns
        answers = yield from ask_for_answers([told] if isinstance(told, str) else told, self.max_parse_retries)
        columns |= {"answer": answers[0]} if isinstance(told, str) else {"answers": answers}
        if None in answers:
            raise Unparsed(f"{answers.count(None)} of {len(answers)} answers are empty", partial=columns)
        return columns


class EvolComplexity(EvolInstruct):
    """Evolve an instruction into a harder one, step by step, never into another (DEITA, arXiv 2312.15685).

    Reads, writes and takes what `EvolInstruct` does; it has no mutation `BREADTH`.
    """

    mutation_templates: dict[str, str] = COMPLEXITY_MUTATIONS
