"""The array on disk is a list of zeros until something is set."""

from __future__ import annotations

import os
from struct import Struct

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from airflow_distil.datasets import diskarray
from airflow_distil.datasets.diskarray import DiskArray

RECORD = Struct("<QB")


@pytest.fixture(autouse=True, scope="module")
def small():
    """So that pages come and go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diskarray, "PAGE", 4)
        patch.setattr(diskarray, "PAGES", 2)
        yield


@given(puts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2**64 - 1), st.integers(0, 255)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_it_is_a_list(tmp_path_factory, puts):
    """A place that is lost is a row that is lost, and one of another row is an answer to another question."""
    folder = tmp_path_factory.mktemp("array")
    array, model = DiskArray(folder / "array", RECORD), {}
    for number, *values in puts:
        array[number] = tuple(values)
        model[number] = tuple(values)
        assert array[number] == model[number]
    assert [array[number] for number in range(60)] == [model.get(number, (0, 0)) for number in range(60)]
    array.close()
    assert list(folder.iterdir()) == []


def test_full_disk_is_an_error(tmp_path, monkeypatch):
    """Half a page would be rows that were never there."""
    array = DiskArray(tmp_path / "array", RECORD)
    for number in (0, 4):
        array[number] = (1, 1)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:5], at))
    with pytest.raises(OSError, match="disk full"):
        array[8] = (1, 1)
    array.close()
