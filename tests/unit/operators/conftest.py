"""A model, and folders that are this test's own."""

from __future__ import annotations

import pytest

from airflow_distil.testing import FakeLLM


@pytest.fixture
def llm(tmp_path, monkeypatch):
    """A fake LLM as the default connection, and a dataset root."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", str(tmp_path / "scratch"))
    with FakeLLM() as llm, llm.as_connection():
        yield llm
