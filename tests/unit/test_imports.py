"""What an import loads: DAG files are parsed again and again, and each parse pays for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Each takes longer to import than all of ours together, or is only of use while a task runs.
HEAVY = {
    "aiohttp",
    "duckdb",
    "genai_prices",
    "google.api_core",
    "google.auth",
    "google.cloud",
    "httpx2",
    "numpy",
    "openai",
    "pandas",
    "pyarrow",
    "airflow_distil.datasets",
    "airflow_distil.engine",
    "airflow_distil.hooks",
    "airflow_distil.llms",
    "airflow_distil.operators.attempt",
    "airflow_distil.operators.preview",
    "airflow_distil.plugins",
    "airflow_distil.testing",
}
# Airflow loads these itself, so what counts is what is loaded after it.
LOADED_BY_AIRFLOW = {"httpx", "jsonschema", "sqlalchemy"}

PROBE = """
import json, sys
exec(sys.argv[1])
before = {*sys.modules}
exec(sys.argv[2])
print(json.dumps([sorted(before), sorted({*sys.modules} - before)]))
"""


def loaded(before: str, ours: str) -> tuple[set[str], set[str]]:
    """Return the modules that are there after a statement, and those that the next one adds, in a fresh process."""
    command = [sys.executable, "-c", PROBE, before, ours]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    first, added = json.loads(output.splitlines()[-1])
    return set(first), set(added)


@pytest.mark.parametrize(
    "statement", ["import airflow_distil.operators.decorator", "import airflow_distil.operators", "import airflow_distil.tasks"]
)
def test_dag_files_load_nothing_heavy(statement: str):
    """One import at the top of a module instead of in a function, and every parse of every DAG file takes a second longer."""
    before, added = loaded("from airflow.sdk import DAG, BaseOperator, task", statement)
    assert statement.split()[1] in added
    assert added & (HEAVY | LOADED_BY_AIRFLOW) == set()
    assert before & HEAVY == set(), "Airflow itself loads it now: it cannot be told from ours"


def test_the_package_alone_loads_nothing():
    """`import airflow_distil` stands in every DAG file with a plain task; it must not even load Airflow."""
    _, added = loaded("pass", "import airflow_distil")
    assert {name for name in added if name.partition(".")[0] in {"airflow", "pydantic", "jinja2"}} == set()
    assert {name for name in added if name.startswith("airflow_distil")} == {"airflow_distil"}


def test_provider_info_loads_nothing():
    """Airflow reads it in each of its processes, at the start."""
    _, added = loaded("pass", "import airflow_distil.get_provider_info")
    assert {name for name in added if name.startswith("airflow")} == {"airflow_distil", "airflow_distil.get_provider_info"}
    assert added & HEAVY == set()
