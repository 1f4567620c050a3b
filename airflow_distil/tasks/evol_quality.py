"""Evolve responses into better ones."""

from __future__ import annotations

from random import Random
from typing import Any

from airflow_distil.conversation import Conversation, Row
from airflow_distil.tasks import templates
from airflow_distil.tasks.evolution import Evolution
from airflow_distil.tasks.frames import RESPONSES

__all__ = ["QUALITY_MUTATIONS", "EvolQuality"]

_METHODS = {
    "HELPFULNESS": "make it more helpful to the person who wrote the prompt.",
    "RELEVANCE": "make it more relevant to what the prompt asks for.",
    "DEEPENING": "go deeper into what it says.",
    "CREATIVITY": "make it more creative.",
    "DETAILS": "add details to it.",
}
_FRAME = templates.packaged("evol_quality.jinja2")

QUALITY_MUTATIONS = {kind: _FRAME.replace("[[method]]", method) for kind, method in _METHODS.items()}
"""They see `instruction` and `response`."""


class EvolQuality(Evolution):
    """Evolve the response to an instruction into a better one, step by step (DEITA, arXiv 2312.15685).

    Reads `instruction` (str) and `response` (str). Writes `evolved_response` (str: the last one); with `store_evolutions` or
    `include_original_response`, in its place `evolved_responses` (list[str], oldest first). And of each evolution, `mutations`
    (list[str]: the kind that was chosen) and `mutation_errors` (list[str | None]: None, or why it failed: the answer was empty,
    a refusal, unchanged, cut off, or it spoke of the task). After an evolution that failed, the response stays as it was, in
    `evolved_responses`, too, and the next one starts from it. If none succeeded, the row is unparsed. A request
    that the provider refuses, as content filters do, fails the row with all of its evolutions.

    :param num_evolutions: evolutions, one after the other, of each response.
    :param store_evolutions: True writes the response after each evolution, not only after the last.
    :param include_original_response: True puts the original response first in the list.
    :param mutation_templates: kind of mutation → Jinja2 prompt that sees `instruction` and `response`; each evolution chooses
        one of them at random. It should have the new response written alone, or behind `#Rewritten Response#:`.
    """

    evolves = "response"
    frame = RESPONSES
    seen_as = {"instruction": "instruction", "response": "response"}

    include_original_response: bool = False
    mutation_templates: dict[str, str] = QUALITY_MUTATIONS

    @property
    def output_types(self) -> dict[str, Any]:  # type: ignore[override]
        listed = self.store_evolutions or self.include_original_response
        types: dict[str, Any] = {"evolved_responses": list[str]} if listed else {"evolved_response": str}
        return types | self.history_types

    def converse(self, input: Row, rng: Random) -> Conversation:
        history = yield from self.evolve(input, rng)
        told = self.told(history, include_original=self.include_original_response)
        return {"evolved_response" if isinstance(told, str) else "evolved_responses": told, **history.columns}
