"""Operators that judge."""

from __future__ import annotations

import pytest

from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.operators import judging

ROWS = [{"instruction": "{{ ds }}"}]
PROMPT = "{{ instruction }} {{ generations }}"


def test_values_reach_the_task():
    """An argument was taken, and another value used."""
    rubrics = {"short": "[Short?]\n" + "\n".join(f"Score {score}: {score}" for score in range(1, 6))}
    operator = judging.PrometheusEvalOperator(
        task_id="t", source=ROWS, mode="relative", rubric="short", rubrics=rubrics, swap=True,
        system_prompt="You.", system_role=True, template=PROMPT, max_parse_retries=3,
    )  # fmt: skip
    task = operator.task
    assert (task.mode, task.rubric, task.rubrics, task.swap) == ("relative", "short", rubrics, True)
    assert (task.system_prompt, task.system_role, task.template, task.max_parse_retries) == (
        "You.",
        True,
        PROMPT,
        3,
    )
    rated = judging.UltraFeedbackOperator(task_id="u", source=ROWS, aspect="honesty", system_prompt=None, template=PROMPT).task
    assert (rated.aspect, rated.system_prompt, rated.template) == ("honesty", None, PROMPT)
    scored = judging.QualityScorerOperator(task_id="q", source=ROWS, template=PROMPT).task
    assert scored.template == PROMPT
    scored = judging.ComplexityScorerOperator(task_id="c", source=ROWS, template="{{ instructions }}").task
    assert scored.template == "{{ instructions }}"
    curated = judging.InstructionBacktranslationOperator(
        task_id="b", source=ROWS, template="{{ instruction }} {{ generation }}"
    ).task
    assert curated.template == "{{ instruction }} {{ generation }}"


def test_wrong_values_are_named():
    """When the DAG is parsed, not when its first row is asked about."""
    with pytest.raises(TaskDefinitionError, match=r"PrometheusEvalOperator: .*no rubric 'x'"):
        judging.PrometheusEvalOperator(task_id="t", source=ROWS, rubric="x")
    with pytest.raises(TaskDefinitionError, match="UltraFeedbackOperator: aspect"):
        judging.UltraFeedbackOperator(task_id="t", source=ROWS, aspect="beauty")
