from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from airflow_distil.datasets.uri import URI
from tests.contracts.stores.backends import BUCKET, gcs_emulator


@pytest.fixture(scope="session")
def gcs_url() -> Iterator[str]:
    with gcs_emulator() as url:
        yield url


@pytest.fixture
def file_root(tmp_path) -> URI:
    return URI.parse(str(tmp_path / "a root"))


@pytest.fixture
def memory_root() -> URI:
    return URI.parse(f"memory://{uuid.uuid4().hex}/some/root")


@pytest.fixture
def gs_root(gcs_url, monkeypatch) -> URI:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_url)
    return URI.parse(f"gs://{BUCKET}/{uuid.uuid4().hex}/a root")


@pytest.fixture(params=["file", "memory", "gs"])
def any_root(request) -> URI:
    """A fresh root on each backend."""
    return request.getfixturevalue(f"{request.param}_root")
