"""Operators that judge."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from pydantic_core import PydanticUndefined

from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.operators import TextGenerationOperator, judging
from airflow_distil.operators.base import TaskOperator

ALL = [getattr(judging, name) for name in judging.__all__]
ROWS = [{"instruction": "{{ ds }}"}]


@pytest.mark.parametrize("cls", ALL)
def test_own_arguments_are_the_tasks_own_fields(cls):
    """A field was added to a task, and DAGs could not set it; or its default was changed in one of two places."""
    taken = dict(inspect.signature(cls.__init__).parameters)
    own = set(cls.task_class.model_fields) - set(inspect.signature(TaskOperator.__init__).parameters) - {"llm"}
    assert own == set(taken) - {"self", "source", "kwargs"}
    for name in own:
        field = cls.task_class.model_fields[name]
        assert taken[name].default == (field.default_factory() if field.default is PydanticUndefined else field.default)


@pytest.mark.parametrize("cls", ALL)
def test_every_argument_is_documented(cls):
    """An argument that only the source code explains."""
    own = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
    assert [name for name in own if f":param {name}:" not in cls.__doc__] == []


@pytest.mark.parametrize("cls", ALL)
def test_example(cls):
    """The snippet of the docstring was never run."""
    _, _, snippet = inspect.getdoc(cls).partition("Example::")
    names = {name: getattr(judging, name) for name in judging.__all__}
    with DAG("example", start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        names["upstream"] = TextGenerationOperator(task_id="upstream", source=ROWS)
        exec(inspect.cleandoc(snippet), names)
    assert len(dag.tasks) == 2
    assert DagSerialization.to_dict(dag)


def test_values_reach_the_task():
    """An argument was taken, and another value used."""
    rubrics = {"short": "[Short?]\n" + "\n".join(f"Score {score}: {score}" for score in range(1, 6))}
    operator = judging.PrometheusEvalOperator(
        task_id="t", source=ROWS, mode="relative", rubric="short", rubrics=rubrics, reference=True, swap=True,
        system_prompt="You.", system_role=True, template="{{ generations }}", max_parse_retries=3,
    )  # fmt: skip
    task = operator.task
    assert (task.mode, task.rubric, task.rubrics, task.reference, task.swap) == ("relative", "short", rubrics, True, True)
    assert (task.system_prompt, task.system_role, task.template, task.max_parse_retries) == (
        "You.",
        True,
        "{{ generations }}",
        3,
    )
    rated = judging.UltraFeedbackOperator(task_id="u", source=ROWS, aspect="honesty", system_prompt=None, template="x").task
    assert (rated.aspect, rated.system_prompt, rated.template) == ("honesty", None, "x")
    for cls in ALL:
        assert cls(task_id="v", source=ROWS, template="x").task.template == "x"


def test_wrong_values_are_named():
    """When the DAG is parsed, not when its first row is asked about."""
    with pytest.raises(TaskDefinitionError, match=r"PrometheusEvalOperator: .*no rubric 'x'"):
        judging.PrometheusEvalOperator(task_id="t", source=ROWS, rubric="x")
    with pytest.raises(TaskDefinitionError, match="UltraFeedbackOperator: aspect"):
        judging.UltraFeedbackOperator(task_id="t", source=ROWS, aspect="beauty")
