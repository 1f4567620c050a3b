from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from airflow_distil.datasets.uri import URI
from tests.contracts.stores.backends import BUCKET, gcs_emulator, s3_emulator


@pytest.fixture(scope="session")
def gcs_url() -> Iterator[str]:
    with gcs_emulator() as url:
        yield url


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with s3_emulator() as url:
        yield url


@pytest.fixture
def s3_environment(s3_url, monkeypatch) -> None:
    """What a worker's environment says; nothing else of it, whatever the machine has."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")


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


@pytest.fixture
def s3_root(s3_environment) -> URI:
    return URI.parse(f"s3://{BUCKET}/{uuid.uuid4().hex}/a root")


@pytest.fixture(params=["file", "memory", "gs", "s3"])
def any_root(request) -> URI:
    """A fresh root on each backend."""
    return request.getfixturevalue(f"{request.param}_root")
