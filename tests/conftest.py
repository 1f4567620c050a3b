"""An Airflow home for this run of the tests, chosen before anything imports Airflow."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that does other things as well takes longer; how long is what benchmarks are for.
settings.register_profile("default", deadline=None)
settings.load_profile("default")

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

# Warnings are errors, except what libraries say about each other or about Python's age; none is about our code.
OTHERS_WARNINGS: list[tuple[str, type[Warning]]] = [
    ("Cadwyn's changelog feature is deprecated", DeprecationWarning),
    ("You are using a Python version .* which Google will stop supporting", FutureWarning),
]
for message, category in OTHERS_WARNINGS:
    warnings.filterwarnings("ignore", message, category)  # while pytest loads the other conftests


def pytest_configure(config: pytest.Config) -> None:
    """Ignore them during collection and tests, too."""
    for message, category in OTHERS_WARNINGS:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:{category.__name__}")


@pytest.fixture(scope="session")
def airflow_db() -> Path:
    """Airflow's metadata database, migrated once per session for the tests that run a DAG; gives AIRFLOW_HOME.

    A DAG file under test goes into the `dags` folder of it.
    """
    from airflow.utils.db import initdb

    initdb()
    return HOME
