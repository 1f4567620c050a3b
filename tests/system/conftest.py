"""What the system tests share: one Airflow for all of them, because it takes 20 s to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.airflow_standalone import Standalone


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """A running Airflow with an empty DAGs folder, in a path with a space in it.

    A test writes its DAG file into `airflow.dags` (seen within 2 s) and makes its connections with `airflow.connect`.
    """
    folder = tmp_path_factory.mktemp("air flow")
    (folder / "dags").mkdir()
    with Standalone(folder / "home", folder / "dags") as airflow:
        yield airflow
