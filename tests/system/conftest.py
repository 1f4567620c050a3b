"""What the system tests share: one Airflow for all of them, because it takes 20 s to start."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.contracts.stores.backends import gcs_emulator
from tests.system.airflow_standalone import Standalone


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """A running Airflow with an empty DAGs folder, in a path with a space in it.

    A test writes its DAG file into `airflow.dags` (seen within 2 s) and makes its connections with `airflow.connect`. Datasets
    without a destination of their own go into a folder `datasets` beside it.
    """
    folder = tmp_path_factory.mktemp("air flow")
    (folder / "dags").mkdir()
    # Google's client takes the emulator's address from the environment, so it is there before Airflow starts.
    with (
        gcs_emulator() as url,
        Standalone(
            folder / "home",
            folder / "dags",
            env={"STORAGE_EMULATOR_HOST": url, "AIRFLOW__DISTIL__DATASET_ROOT": str(folder / "datasets")},
        ) as airflow,
    ):
        os.environ["STORAGE_EMULATOR_HOST"] = url
        yield airflow
        del os.environ["STORAGE_EMULATOR_HOST"]
