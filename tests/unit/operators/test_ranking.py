"""`PairRMOperator` brings its model along."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from airflow.sdk import DAG

from airflow_distil import open_dataset
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.llms import PairRanker
from airflow_distil.operators import PairRMOperator
from tests.unit.operators.attempts import attempt

ROWS = [{"input": "the cat", "candidates": ["a dog", "one two", "not good"][: 1 + i % 3]} for i in range(9)]


def test_the_model_is_read_from_the_arguments():
    """A connection was asked for that nobody has; or the device was forgotten."""
    llm = PairRMOperator(task_id="rank", source=ROWS, model="/models/mine", device="cuda:1").get_llm()
    assert isinstance(llm, PairRanker)
    assert (llm.model, llm.device) == ("/models/mine", "cuda:1")
    # Named twice, in the operator and in the model, as DAG files do not import models.
    assert PairRMOperator(task_id="rank", source=ROWS).get_llm().model == PairRanker().model == "llm-blender/PairRM"
    assert PairRMOperator(task_id="rank", source=ROWS, model=None).model == "llm-blender/PairRM"


def test_the_model_is_templated():
    """A folder with the day's model was looked for under its template."""
    operator = PairRMOperator(task_id="rank", source=ROWS, model="/models/{{ ds }}", instructions="{{ ds }} ")
    operator.render_template_fields({"ds": "monday"})
    assert operator.get_llm().model == "/models/monday"
    assert operator.task.instructions == "{{ ds }} "


@pytest.mark.parametrize("given", [{"llm_conn_id": "mine"}, {"generation_kwargs": {"temperature": 1}}])
def test_what_it_has_no_use_for_is_refused(given):
    """A connection was named, and the task ranked with another model than the one meant."""
    with pytest.raises(TaskDefinitionError, match=rf"takes no {next(iter(given))}"):
        PairRMOperator(task_id="rank", source=ROWS, **given)


def test_default_args_of_chat_tasks_do_no_harm():
    """A DAG's default model and connection, meant for chat tasks, made the ranker load `gpt-4o` from the hub."""
    shared = {"model": "gpt-4o", "llm_conn_id": "openai", "generation_kwargs": {"temperature": 1}, "max_failure_ratio": 0.5}
    with DAG("ranks", start_date=datetime(2026, 1, 1, tzinfo=UTC), default_args=shared):
        operator = PairRMOperator(task_id="rank", source=ROWS)
    assert operator.get_llm().model == "llm-blender/PairRM"
    assert operator.max_failure_ratio == 0.5


def test_it_runs_without_a_connection(tmp_path, monkeypatch):
    """Hidden in the base class, a connection was opened all the same, and there was none."""
    pytest.importorskip("torch")
    from tests import tiny_models

    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", str(tmp_path / "scratch"))
    model = tiny_models.pair_ranker(tmp_path / "model")
    summary = attempt(PairRMOperator(task_id="task", source=ROWS, model=model, device="cpu"))
    found = open_dataset(summary).to_table().to_pylist()
    assert [len(row["ranks"]) for row in found] == [1, 2, 3] * 3
    assert {row["model_name"] for row in found} == {model}
    assert all(row["ranked_candidates"][0] == row["candidates"][row["ranks"].index(1)] for row in found)
    assert summary["ok"] == 9
