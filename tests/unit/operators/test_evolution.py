"""The operators of evolution: their arguments reach their tasks."""

from __future__ import annotations

import pytest

from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.operators.evolution import (
    EvolComplexityGeneratorOperator,
    EvolComplexityOperator,
    EvolInstructGeneratorOperator,
    EvolInstructOperator,
    EvolQualityOperator,
)

ROWS = [{"instruction": "{{ ds }}", "response": "r"}]
MINE = {"MINE": "{{ prompt }} {{ '{{ ds }}' }}"}


@pytest.mark.parametrize("operator", [EvolInstructOperator, EvolComplexityOperator])
def test_instruction_arguments_reach_the_task(operator):
    """An argument that is taken and forgotten."""
    made = operator(
        task_id="t", source=ROWS, num_evolutions=3, store_evolutions=True, generate_answers=True,
        include_original_instruction=True, mutation_templates=MINE, seed=7,
    )  # fmt: skip
    task = made.task
    assert type(task) is operator.task_class
    assert (task.num_evolutions, task.store_evolutions, task.generate_answers) == (3, True, True)
    assert (task.include_original_instruction, task.mutation_templates, task.seed) == (True, MINE, 7)


def test_quality_arguments_reach_the_task():
    """An argument that is taken and forgotten."""
    mine = {"MINE": "{{ instruction }} {{ response }}"}
    made = EvolQualityOperator(
        task_id="t",
        source=ROWS,
        num_evolutions=2,
        store_evolutions=True,
        include_original_response=True,
        mutation_templates=mine,
    )
    assert (made.task.num_evolutions, made.task.store_evolutions) == (2, True)
    assert (made.task.include_original_response, made.task.mutation_templates) == (True, mine)


@pytest.mark.parametrize("operator", [EvolInstructGeneratorOperator, EvolComplexityGeneratorOperator])
def test_generator_arguments_reach_the_task(operator):
    """An argument that is taken and forgotten; and a source, which a generator cannot read."""
    mine = {"FRESH_START": "{{ words }}", **MINE}
    made = operator(
        task_id="t", num_instructions=4, generate_answers=True, mutation_templates=mine, min_length=1, max_length=9,
        max_evolutions=3, max_candidates=8,
    )  # fmt: skip
    task = made.task
    assert type(task) is operator.task_class
    assert (task.num_rows, task.generate_answers, task.mutation_templates) == (4, True, mine)
    assert (task.min_length, task.max_length, task.max_evolutions, task.candidates) == (1, 9, 3, 8)
    with pytest.raises((TypeError, TaskDefinitionError), match="source"):
        operator(task_id="t", num_instructions=4, source=ROWS)


def test_what_is_wrong_is_said_in_the_dag_file():
    """A template of another library, noticed when the prompts were paid."""
    with pytest.raises(TaskDefinitionError, match=r"never uses \{\{ prompt \}\}"):
        EvolInstructOperator(task_id="t", source=ROWS, num_evolutions=1, mutation_templates={"A": "Rewrite <PROMPT>"})
    with pytest.raises(TypeError, match="num_evolutions"):
        EvolInstructOperator(task_id="t", source=ROWS)


def test_the_default_templates_are_not_shared():
    """One DAG that changed its operator's templates changed those of all."""
    one, two = (EvolInstructOperator(task_id=name, source=ROWS, num_evolutions=1) for name in "ab")
    one.task.mutation_templates["NEW"] = "{{ prompt }}"
    assert "NEW" not in two.task.mutation_templates
