"""Every operator in a DAG. `make tasks` does it over a thousand rows each, and on a real model."""

from __future__ import annotations

import pytest

from tests.system.every_task import fake, run, table
from tests.tiny_models import pair_ranker

ROWS = 200


@pytest.fixture(scope="module")
def manifests(airflow_db, tmp_path_factory):
    folder = tmp_path_factory.mktemp("every task")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ROWS", "SOURCE", "PAIR_RM"):
            patch.delenv(f"DISTIL_TEST_{name}", raising=False)
        patch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", "set below")
        patch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", "set below")
        return run(folder, ROWS, fake, pair_ranker(folder / "pair rm"))


def test_every_row_of_every_task_is_ok(manifests):
    """A task that works on three rows of its unit tests fails on some of many, or in a DAG."""
    print(table(manifests))
    bad = {
        task: manifest["reasons"] for task, manifest in manifests.items() if manifest["ok"] != ROWS or manifest["rows"] != ROWS
    }
    assert bad == {}


def test_the_types_of_all_columns_are_declared(manifests):
    """A column whose type is learnt from the rows is another one on the night when all of them fail."""
    assert "string" not in {manifests[task]["columns"][name] for task, name in NUMERIC}


NUMERIC = [
    ("complexity_scorer", "scores"),
    ("generate_embeddings", "embedding"),
    ("instruction_backtranslation", "score"),
    ("pair_rm", "ranks"),
    ("prometheus_absolute", "result"),
    ("quality_scorer_json", "scores"),
    ("ultrafeedback", "ratings"),
]
