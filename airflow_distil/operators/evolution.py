"""Operators that evolve instructions and responses, and that make instructions by evolution."""

from __future__ import annotations

from typing import Any, Unpack

from airflow_distil.operators.base import TaskOperator
from airflow_distil.operators.options import DistilOptions
from airflow_distil.tasks.evol_generators import (
    COMPLEXITY_GENERATOR_MUTATIONS,
    INSTRUCTION_GENERATOR_MUTATIONS,
    EvolComplexityGenerator,
    EvolInstructGenerator,
)
from airflow_distil.tasks.evol_instruct import COMPLEXITY_MUTATIONS, INSTRUCTION_MUTATIONS, EvolComplexity, EvolInstruct
from airflow_distil.tasks.evol_quality import QUALITY_MUTATIONS, EvolQuality

__all__ = [
    "EvolComplexityGeneratorOperator",
    "EvolComplexityOperator",
    "EvolInstructGeneratorOperator",
    "EvolInstructOperator",
    "EvolQualityOperator",
]


class EvolInstructOperator(TaskOperator):
    """Evolve the `instruction` of each row step by step; see `airflow_distil.tasks.EvolInstruct`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param num_evolutions: evolutions, one after the other, of each instruction.
    :param store_evolutions: True writes the instruction after each evolution, not only after the last.
    :param generate_answers: True asks what was written for an answer, too.
    :param include_original_instruction: True puts the original instruction first in the list.
    :param mutation_templates: kind of mutation → Jinja2 prompt that sees `prompt`. Not templated by Airflow.

    Example::

        evolved = EvolInstructOperator(task_id="evolve", source=upstream.output, num_evolutions=4, store_evolutions=True)
    """

    task_class = EvolInstruct

    def __init__(
        self,
        *,
        source: Any,
        num_evolutions: int,
        store_evolutions: bool = False,
        generate_answers: bool = False,
        include_original_instruction: bool = False,
        mutation_templates: dict[str, str] = INSTRUCTION_MUTATIONS,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {
            "num_evolutions": num_evolutions,
            "store_evolutions": store_evolutions,
            "generate_answers": generate_answers,
            "include_original_instruction": include_original_instruction,
            "mutation_templates": mutation_templates,
        }
        super().__init__(source=source, fields=fields, **kwargs)


class EvolComplexityOperator(TaskOperator):
    """Evolve the `instruction` of each row into a harder one, step by step; see `airflow_distil.tasks.EvolComplexity`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param num_evolutions: evolutions, one after the other, of each instruction.
    :param store_evolutions: True writes the instruction after each evolution, not only after the last.
    :param generate_answers: True asks what was written for an answer, too.
    :param include_original_instruction: True puts the original instruction first in the list.
    :param mutation_templates: kind of mutation → Jinja2 prompt that sees `prompt`. Not templated by Airflow.

    Example::

        harder = EvolComplexityOperator(task_id="harder", source=upstream.output, num_evolutions=2, generate_answers=True)
    """

    task_class = EvolComplexity

    def __init__(
        self,
        *,
        source: Any,
        num_evolutions: int,
        store_evolutions: bool = False,
        generate_answers: bool = False,
        include_original_instruction: bool = False,
        mutation_templates: dict[str, str] = COMPLEXITY_MUTATIONS,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {
            "num_evolutions": num_evolutions,
            "store_evolutions": store_evolutions,
            "generate_answers": generate_answers,
            "include_original_instruction": include_original_instruction,
            "mutation_templates": mutation_templates,
        }
        super().__init__(source=source, fields=fields, **kwargs)


class EvolQualityOperator(TaskOperator):
    """Evolve the `response` of each row into a better one, step by step; see `airflow_distil.tasks.EvolQuality`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param num_evolutions: evolutions, one after the other, of each response.
    :param store_evolutions: True writes the response after each evolution, not only after the last.
    :param include_original_response: True puts the original response first in the list.
    :param mutation_templates: kind of mutation → Jinja2 prompt that sees `instruction` and `response`. Not templated by
        Airflow.

    Example::

        better = EvolQualityOperator(task_id="better", source=upstream.output, num_evolutions=3)
    """

    task_class = EvolQuality

    def __init__(
        self,
        *,
        source: Any,
        num_evolutions: int,
        store_evolutions: bool = False,
        include_original_response: bool = False,
        mutation_templates: dict[str, str] = QUALITY_MUTATIONS,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {
            "num_evolutions": num_evolutions,
            "store_evolutions": store_evolutions,
            "include_original_response": include_original_response,
            "mutation_templates": mutation_templates,
        }
        super().__init__(source=source, fields=fields, **kwargs)


class EvolInstructGeneratorOperator(TaskOperator):
    """Make instructions out of a few random words, by evolution; see `airflow_distil.tasks.EvolInstructGenerator`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`. It reads no source.

    :param num_instructions: instructions to make.
    :param generate_answers: True asks for an answer to each instruction, too.
    :param mutation_templates: kind of mutation → Jinja2 prompt that sees `prompt`; `FRESH_START` sees `words`. Not templated by
        Airflow.
    :param min_length: fewest characters of an instruction.
    :param max_length: most characters of an instruction.
    :param max_evolutions: most evolutions of a candidate; one that is too short after them is given up.
    :param max_candidates: most candidates that are asked for; by default 10 times `num_instructions`.

    Example::

        made = EvolInstructGeneratorOperator(task_id="make", num_instructions=100, generate_answers=True)
    """

    task_class = EvolInstructGenerator

    def __init__(
        self,
        *,
        num_instructions: int,
        generate_answers: bool = False,
        mutation_templates: dict[str, str] = INSTRUCTION_GENERATOR_MUTATIONS,
        min_length: int = 512,
        max_length: int = 1024,
        max_evolutions: int = 10,
        max_candidates: int | None = None,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {
            "num_instructions": num_instructions,
            "generate_answers": generate_answers,
            "mutation_templates": mutation_templates,
            "min_length": min_length,
            "max_length": max_length,
            "max_evolutions": max_evolutions,
            "max_candidates": max_candidates,
        }
        super().__init__(fields=fields, **kwargs)


class EvolComplexityGeneratorOperator(TaskOperator):
    """Make instructions out of a few random words, each only made harder; see `airflow_distil.tasks.EvolComplexityGenerator`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`. It reads no source.

    :param num_instructions: instructions to make.
    :param generate_answers: True asks for an answer to each instruction, too.
    :param mutation_templates: kind of mutation → Jinja2 prompt that sees `prompt`; `FRESH_START` sees `words`. Not templated by
        Airflow.
    :param min_length: fewest characters of an instruction.
    :param max_length: most characters of an instruction.
    :param max_evolutions: most evolutions of a candidate; one that is too short after them is given up.
    :param max_candidates: most candidates that are asked for; by default 10 times `num_instructions`.

    Example::

        made = EvolComplexityGeneratorOperator(task_id="make", num_instructions=100, min_length=200, max_length=800)
    """

    task_class = EvolComplexityGenerator

    def __init__(
        self,
        *,
        num_instructions: int,
        generate_answers: bool = False,
        mutation_templates: dict[str, str] = COMPLEXITY_GENERATOR_MUTATIONS,
        min_length: int = 512,
        max_length: int = 1024,
        max_evolutions: int = 10,
        max_candidates: int | None = None,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {
            "num_instructions": num_instructions,
            "generate_answers": generate_answers,
            "mutation_templates": mutation_templates,
            "min_length": min_length,
            "max_length": max_length,
            "max_evolutions": max_evolutions,
            "max_candidates": max_candidates,
        }
        super().__init__(fields=fields, **kwargs)
