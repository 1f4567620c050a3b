"""What must hold on every Airflow that we support, the oldest included: `make oldest` runs this file there."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from pathlib import Path

DAG = """
from airflow.sdk import DAG
from airflow_distil.operators import TextGenerationOperator

with DAG("three_rows") as dag:
    TextGenerationOperator(
        task_id="answers",
        source=[{"instruction": text} for text in ("one", "two", "three")],
        destination=%r,
    )
"""


def test_provider_is_known_to_airflow():
    """An entry point or provider info that this Airflow cannot read makes connections and operators vanish without a word."""
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    manager = ProvidersManagerTaskRuntime()
    assert "airflow-distil" in manager.providers
    hook = manager.hooks["distil_llm"]
    assert hook is not None
    assert hook.hook_name == "LLM (airflow-distil)"


def test_dag_runs(airflow_db: Path, tmp_path: Path):
    """An import or a context key that a newer Airflow has, and this one not, ends a task at its first line."""
    import airflow_distil
    from airflow_distil.testing import FakeLLM

    file = airflow_db / "dags" / "three_rows.py"
    file.write_text(DAG % str(tmp_path / "answers"))
    spec = importlib.util.spec_from_file_location("three_rows", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    date = datetime(2026, 1, 1, tzinfo=UTC)
    with FakeLLM(answer=lambda messages: messages[-1]["content"].upper()) as llm, llm.as_connection():
        run = module.dag.test(logical_date=date, run_after=date)
    assert run.state == "success"
    assert llm.answered.choices == 3
    rows = airflow_distil.open_dataset(str(tmp_path / "answers")).to_table().to_pylist()
    assert [row["generation"] for row in rows] == ["ONE", "TWO", "THREE"]
