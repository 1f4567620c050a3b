"""An Airflow home for this run of the tests, chosen before anything imports Airflow."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Airflow reads its home when it is imported, so a fixture would be too late; and a developer's own home must not be touched.
HOME = Path(tempfile.mkdtemp(prefix="airflow-distil-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW_"))]:
    del os.environ[name]
os.environ.update(
    {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(HOME / "logs"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"])),
    }
)
(HOME / "dags").mkdir()

# What Airflow 3.2 meets in libraries that are younger than it; nothing here is raised by, or because of, our code.
OTHERS_WARNINGS = [
    "ignore:Cadwyn's changelog feature is deprecated:DeprecationWarning",
]


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, except these."""
    for each in OTHERS_WARNINGS:
        config.addinivalue_line("filterwarnings", each)


@pytest.fixture(scope="session")
def airflow_db() -> Path:
    """Airflow's metadata database, migrated once per session for the tests that run a DAG; gives AIRFLOW_HOME.

    A DAG file under test goes into the `dags` folder of it.
    """
    from airflow.utils.db import initdb

    initdb()
    return HOME
