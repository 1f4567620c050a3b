"""Who asks, and whether it is the same request to do it as before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_distil.datasets.manifest import Identity
from airflow_distil.hooks.identity import ask_of, identity_of


def context(*, started="monday", **ti):
    known = {"dag_id": "d", "task_id": "t", "run_id": "r", "map_index": -1, "try_number": 1, "max_tries": 2}
    return {"ti": SimpleNamespace(**{**known, **ti}), "dag_run": SimpleNamespace(start_date=started)}


def test_identity_is_the_task_instance():
    """A field that is left out lets two task instances share answers that they must not share."""
    assert identity_of(context(map_index=3)) == Identity(dag_id="d", task_id="t", run_id="r", map_index=3)
    assert identity_of(context(map_index=None)).map_index == -1


def test_a_retry_asks_for_the_same():
    """The try number in the identity would make a retry pay again for unparsed rows."""
    assert ask_of(context(try_number=2)) == ask_of(context())
    assert identity_of(context(try_number=2)).key == identity_of(context()).key


@pytest.mark.parametrize(
    "changed", [{"max_tries": 3}, {"started": "tuesday"}, {"dag_id": "x"}, {"task_id": "x"}, {"run_id": "x"}, {"map_index": 0}]
)
def test_a_clear_and_another_instance_ask_anew(changed):
    """A clear in the UI did nothing, because it looked like a retry."""
    assert ask_of(context(**changed)) != ask_of(context())
