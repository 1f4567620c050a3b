"""The snippets in the operators' docstrings, run."""

from __future__ import annotations

import inspect
import re
import textwrap
from datetime import UTC, datetime

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from airflow_distil import operators
from airflow_distil.operators.base import TaskOperator

NAMED = [each for name in operators.__all__ if issubclass(each := getattr(operators, name), TaskOperator)]


@pytest.mark.parametrize("cls", NAMED)
def test_the_example_of_each_operator_makes_its_task(cls):
    """An example in a docstring is what people paste, and it outlived a renamed argument."""
    found = re.search(r"^Example::\n\n((?:    .*\n?|\n)+)", inspect.getdoc(cls) or "", re.MULTILINE)
    assert found, f"{cls.__name__} has no example"
    names = {name: getattr(operators, name) for name in operators.__all__}
    with DAG("example", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None) as dag:
        names["upstream"] = operators.TextGenerationOperator(task_id="upstream", source="rows.jsonl")
        exec(textwrap.dedent(found[1]), names)
    made = [task for task in dag.tasks if type(task) is cls and task.task_id != "upstream"]
    assert len(made) == 1
    assert DagSerialization.to_dict(dag)
