"""Upkeep on every store: times, listings and deletions are theirs."""

from __future__ import annotations

import datetime as dt

from airflow_distil.datasets.files import find_parts
from airflow_distil.datasets.stores import open_store
from airflow_distil.engine.upkeep import Upkeep, find_destinations
from tests.unit.engine.test_upkeep import facts, late, log_of, names, publish


def test_upkeep(any_root):
    """A store whose times have no zone fails here, and not at three in the morning."""
    store = open_store(any_root / "task" / "run")
    orphan = late(store)
    kept = publish(store, "another ask", "other code")
    covered = log_of(store, compacted=facts(2), segments=[facts(2)])
    assert list(find_destinations(open_store(any_root))) == ["task/run"]
    before = names(store)
    assert Upkeep(store).clean().removed == []
    assert names(store) == before
    now = dt.datetime.now(dt.UTC) + dt.timedelta(days=8)
    removed = Upkeep(store, now=now).clean().removed
    assert [finding.folder for finding in removed] == [orphan, covered[0].rpartition("/")[0]]
    assert set(before) - set(names(store)) == {*covered, f"{orphan}/part-00000.parquet"}
    assert Upkeep(store, keep_editions=1, now=now).clean().objects == 1
    [(_, parts)] = find_parts(str(any_root), stores=open_store)
    assert parts == [kept.parts[0].path]
