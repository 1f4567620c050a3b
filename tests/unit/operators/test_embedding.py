"""`GenerateEmbeddingsOperator` with both kinds of connections."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_distil import open_dataset
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.operators.embedding import GenerateEmbeddingsOperator
from tests.unit.operators.attempts import attempt

ROWS = [{"text": f"row {number}"} for number in range(40)]


def table(summary) -> pa.Table:
    return open_dataset(summary).to_table()


def test_an_api(llm):
    """The parameters of the endpoint were taken for a chat's and refused; or each text was a call."""
    operator = GenerateEmbeddingsOperator(task_id="task", source=ROWS, model="m", generation_kwargs={"dimensions": 8})
    found = table(attempt(operator))
    assert found["embedding"].type == pa.list_(pa.float32(), 8)
    assert len(found) == 40
    assert llm.answered.calls < 10
    assert {(body["model"], body["dimensions"]) for body in llm.requests} == {("m", 8)}


def test_a_local_model(llm, monkeypatch):
    """The backend of the connection was not looked at, and the texts went to OpenAI."""
    pytest.importorskip("torch")
    from tests import tiny_models

    extra = {"backend": "transformers", "model": tiny_models.minilm(), "device": "cpu"}
    monkeypatch.setenv("AIRFLOW_CONN_LOCAL", json.dumps({"conn_type": "distil_llm", "extra": extra}))
    found = table(attempt(GenerateEmbeddingsOperator(task_id="task", source=ROWS, llm_conn_id="local")))
    assert found["embedding"].type == pa.list_(pa.float32(), 384)
    assert found["embedding"].null_count == 0
    assert not llm.requests


def test_a_local_model_and_parameters_in_default_args(llm, monkeypatch):
    """`generation_kwargs` for a DAG's chat tasks made its embeddings impossible, and the error did not say the way out."""
    pytest.importorskip("torch")
    from tests import tiny_models

    extra = {"backend": "transformers", "model": tiny_models.minilm(), "device": "cpu"}
    monkeypatch.setenv("AIRFLOW_CONN_LOCAL", json.dumps({"conn_type": "distil_llm", "extra": extra}))
    shared = {"generation_kwargs": {"temperature": 0.5}, "llm_conn_id": "local"}
    with DAG("embeds", start_date=datetime(2026, 1, 1, tzinfo=UTC), default_args=shared):
        inherits = GenerateEmbeddingsOperator(task_id="inherits", source=ROWS)
        without = GenerateEmbeddingsOperator(task_id="task", source=ROWS, generation_kwargs={})
    with pytest.raises(TaskDefinitionError, match=r"temperature\. .*pass generation_kwargs=\{\} to this operator"):
        inherits.get_llm()
    assert attempt(without)["ok"] == 40


def test_a_local_model_that_is_not_there(llm, monkeypatch):
    """Airflow retried for an hour what no retry can find."""
    pytest.importorskip("torch")
    extra = {"backend": "transformers", "model": "/no/such/folder"}
    monkeypatch.setenv("AIRFLOW_CONN_LOCAL", json.dumps({"conn_type": "distil_llm", "extra": extra}))
    with pytest.raises(AirflowFailException, match=r"There is no folder /no/such/folder on this machine\. Next:"):
        attempt(GenerateEmbeddingsOperator(task_id="task", source=ROWS, llm_conn_id="local"))
