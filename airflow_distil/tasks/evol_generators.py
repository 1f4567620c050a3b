"""Make instructions out of nothing but a few words, by evolution."""

from __future__ import annotations

from functools import lru_cache, partial
from random import Random
from typing import Any, Self

from pydantic import NonNegativeInt, PositiveInt, PrivateAttr, model_validator

from airflow_distil.conversation import Conversation, Row, Unparsed, digest
from airflow_distil.tasks import templates
from airflow_distil.tasks.evol_instruct import COMPLEXITY_MUTATIONS, INSTRUCTION_MUTATIONS
from airflow_distil.tasks.frames import PROMPTS
from airflow_distil.tasks.generator import GeneratorTask
from airflow_distil.tasks.mutation import ask_for_answers, ask_for_text, check_mutations, choose, read_evolution

__all__ = [
    "COMPLEXITY_GENERATOR_MUTATIONS",
    "INSTRUCTION_GENERATOR_MUTATIONS",
    "EvolComplexityGenerator",
    "EvolInstructGenerator",
]

FRESH_START = "FRESH_START"
# One word leaves the model free, four hardly fit into one question.
MOST_WORDS = 4

_FRESH_START = {FRESH_START: templates.packaged("evol_instruct_fresh_start.jinja2")}

INSTRUCTION_GENERATOR_MUTATIONS = {**_FRESH_START, **INSTRUCTION_MUTATIONS}
"""The first instruction, which sees `words`, and what it is evolved by, which sees `prompt`."""

COMPLEXITY_GENERATOR_MUTATIONS = {**_FRESH_START, **COMPLEXITY_MUTATIONS}
"""The same, without the mutation that makes another prompt of one."""


# Evolutions that fail one after the other: what the model does to this text will not change. Each is two requests.
PATIENCE = 3


class EvolInstructGenerator(GeneratorTask):
    """Make instructions: ask for each with a few random words, evolve it until it is long enough (WizardLM, arXiv 2304.12244).

    Reads nothing. Writes `num_instructions` rows, no two of them equal but for case and spaces: `instruction` (str, of
    `min_length` to `max_length` characters), with `generate_answers` also `answer` (str), and `mutations` (list[str]: the kinds
    that it is the result of; the first is `FRESH_START`).

    Evolution adds words and takes none away. So a text that is too long is asked for again, and if it still is, it is dropped
    like an answer that is empty, a refusal, unchanged, cut off, or that speaks of the task: the next evolution starts from the
    text before. A candidate that is not long enough after `max_evolutions`, or of which three in a row failed, is given up,
    and so is one of which the provider refuses a request, as content filters do.

    :param num_instructions: instructions to make.
    :param generate_answers: True asks for an answer to each instruction, too.
    :param mutation_templates: kind of mutation → Jinja2 prompt that sees `prompt`; each evolution chooses one of them at
        random. `FRESH_START`, which sees `words` (list of 1 to 4), asks for the text to start from.
    :param min_length: fewest characters of an instruction.
    :param max_length: most characters of an instruction.
    :param max_evolutions: most evolutions of a candidate. Each should add 10 to 20 words, some 100 characters: more than 10 are
        needed only for a `min_length` of well above 512.
    :param max_candidates: most candidates that are asked for; by default 10 times `num_instructions`.
    """

    has_json_form = False

    num_instructions: PositiveInt
    generate_answers: bool = False
    mutation_templates: dict[str, str] = INSTRUCTION_GENERATOR_MUTATIONS
    min_length: NonNegativeInt = 512
    max_length: PositiveInt = 1024
    # Five get a question of 80 characters to 512; of the others some fail, and BREADTH adds nothing.
    max_evolutions: PositiveInt = 10

    _accepted: set[bytes] = PrivateAttr(default_factory=set)

    @model_validator(mode="after")
    def _check_templates(self) -> Self:
        if FRESH_START not in self.mutation_templates:
            raise ValueError(f"mutation_templates has no {FRESH_START}, which asks for the text to start from")
        check_mutations({FRESH_START: self.mutation_templates[FRESH_START]}, ["words"])
        check_mutations(self._mutations, ["prompt"])
        if self.min_length > self.max_length:
            raise ValueError(f"min_length={self.min_length} is more than max_length={self.max_length}")
        return self

    @property
    def num_rows(self) -> int:
        return self.num_instructions

    @property
    def output_types(self) -> dict[str, Any]:  # type: ignore[override]
        return {"instruction": str, **({"answer": str} if self.generate_answers else {}), "mutations": list[str]}

    @property
    def outputs(self) -> list[str]:
        return [*self.output_types, "model_name"]

    def accept(self, row: Row) -> bool:
        text = " ".join(row["instruction"].casefold().split())
        # A digest: a million instructions of a thousand characters need not be kept.
        known = digest(text.encode("utf-8", "surrogatepass"))
        if known in self._accepted:
            return False
        self._accepted.add(known)
        return True

    def converse(self, input: Row, rng: Random) -> Conversation:  # noqa: ARG002 - rng has the candidate's number in it
        words = rng.sample(_seed_words(), rng.randint(1, MOST_WORDS))
        prompt = templates.render(self.mutation_templates[FRESH_START], words=words)
        text = yield from ask_for_text(prompt, partial(self._read_fitting, previous=""), self.max_parse_retries)
        mutations = [FRESH_START]
        failed: list[str] = []
        for _ in range(self.max_evolutions):
            if len(text) >= self.min_length or len(failed) >= PATIENCE:
                break
            kind = choose(self._mutations, rng)
            prompt = templates.render(self.mutation_templates[kind], prompt=text)
            try:
                text = yield from ask_for_text(prompt, partial(self._read_fitting, previous=text), self.max_parse_retries)
            except Unparsed as unparsed:
                failed.append(unparsed.reason)
                continue
            failed.clear()
            mutations.append(kind)
        columns: Row = {"instruction": text, "mutations": mutations}
        if len(text) < self.min_length:
            reason = f"; the last evolutions failed: {failed[-1]}" if failed else ""
            raise Unparsed(f"the instruction has {_length(text)}, and min_length is {self.min_length:,}{reason}", columns)
        if self.generate_answers:
            [answer] = yield from ask_for_answers([text], self.max_parse_retries)
            if answer is None:
                raise Unparsed("the answer is empty", columns)
            columns["answer"] = answer
        return columns

    @property
    def _mutations(self) -> dict[str, str]:
        return {kind: template for kind, template in self.mutation_templates.items() if kind != FRESH_START}

    def _read_fitting(self, answer: str | None, previous: str) -> str:
        text = read_evolution(answer, previous, PROMPTS)
        if len(text) > self.max_length:
            raise Unparsed(f"the text is too long: {_length(text)}, and {self.max_length:,} are the most")
        return text


class EvolComplexityGenerator(EvolInstructGenerator):
    """Make instructions as `EvolInstructGenerator` does, without the mutation `BREADTH` (DEITA, arXiv 2312.15685).

    Reads nothing, writes the same columns and takes the same parameters.
    """

    mutation_templates: dict[str, str] = COMPLEXITY_GENERATOR_MUTATIONS


def _length(text: str) -> str:
    return f"{len(text):,} characters"


@lru_cache(maxsize=1)
def _seed_words() -> list[str]:
    lines = templates.packaged("seed_words.txt").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]
