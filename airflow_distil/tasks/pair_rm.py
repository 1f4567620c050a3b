"""Rank candidate answers by comparing them two by two (PairRM of LLM-Blender, arXiv 2306.02561)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from airflow_distil.conversation import Answer, Conversation, Rank, Row, Unparsed
from airflow_distil.tasks.base import Task

__all__ = ["PairRM"]


class PairRM(Task):
    """Rank candidate answers to an input with a PairRM model (arXiv 2306.02561).

    Reads `input` (str) and `candidates` (list[str], at least one; their number may differ from row to row). Writes `ranks`
    (list[int], one per candidate: 1 is the best, equal scores share the better rank), `ranked_candidates` (list[str], the best
    first, of equal ones in their order) and `scores` (list[float], one per candidate, the higher the better; comparable within
    a row only).

    The model is a `airflow_distil.llms.PairRanker`, which the operator brings; chat models cannot do this.

    :param instructions: put before each input, as it is: end it with a blank or a line break.
    """

    has_json_form = False
    output_types = {"ranks": list[int], "ranked_candidates": list[str], "scores": list[float]}

    instructions: str | None = None

    @property
    def inputs(self) -> list[str]:
        return ["input", "candidates"]

    @property
    def outputs(self) -> list[str]:
        return ["ranks", "ranked_candidates", "scores", "model_name"]

    def converse(self, input: Row, rng: Random) -> Conversation:  # noqa: ARG002 - nothing is chosen
        text, candidates = input["input"], input["candidates"]
        if not isinstance(text, str):
            raise TypeError(f"`input` must be text, not {type(text).__name__}")
        if not isinstance(candidates, list) or not all(isinstance(each, str) for each in candidates):
            raise TypeError("`candidates` must be a list of texts")
        if not candidates:
            raise ValueError("`candidates` is empty")
        answer: Answer = yield Rank((self.instructions or "") + text, candidates)
        scores = answer.scores
        if scores is None or len(scores) != len(candidates):
            raise Unparsed(f"{len(scores or [])} scores for {len(candidates)} candidates")
        best_first = sorted(range(len(candidates)), key=lambda position: -scores[position])
        return {
            "ranks": ranks(scores),
            "ranked_candidates": [candidates[position] for position in best_first],
            "scores": list(scores),
        }


def ranks(scores: Sequence[float]) -> list[int]:
    """Return the rank of each score: 1 is the highest; equal ones share the better rank, and the next ones count on."""
    falling = sorted(scores, reverse=True)
    return [falling.index(score) + 1 for score in scores]
