"""The index on disk is a dict, only larger."""

from __future__ import annotations

import os
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from airflow_distil.datasets import diskmap
from airflow_distil.datasets.diskmap import DiskMap

# Few first bytes, so that many keys want one slot; never all zero, which is how an empty slot looks.
keys = st.tuples(st.integers(0, 40) | st.just(2**64 - 1), st.integers(1, 5)).map(
    lambda pair: pair[0].to_bytes(8, "little") + pair[1].to_bytes(8, "big")
)


@given(puts=st.lists(st.tuples(keys, st.binary(min_size=5, max_size=5)), max_size=120))
@settings(max_examples=60, deadline=None)
def test_it_is_a_dict(tmp_path_factory, puts):
    """A key that is not found is asked and paid again; one that is taken for another's answers the wrong row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diskmap, "FIRST_SLOTS", 8)
        path = tmp_path_factory.mktemp("map") / "index"
        table, model = DiskMap(path, 5), {}
        for key, value in puts:
            table.put(key, value)
            model[key] = value
            assert table.get(key) == value
        assert len(table) == len(model)
        assert {key: table.get(key) for key, _ in puts} == model
        assert table.get(b"\x99" * 16) is None
        table.close()
        assert list(path.parent.iterdir()) == []


def test_it_grows_over_many_keys(tmp_path):
    """Growth copies the table; a key lost in it is an answer paid twice."""
    table = DiskMap(tmp_path / "index", 8)
    drawn = random.Random(1)
    model = {drawn.randbytes(16): number.to_bytes(8, "little") for number in range(20_000)}
    for key, value in model.items():
        table.put(key, value)
    assert len(table) == len(model)
    assert all(table.get(key) == value for key, value in model.items())
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert (tmp_path / "index").stat().st_size <= 65_536 * 24
    table.close()


def test_full_disk_while_growing_loses_nothing(tmp_path, monkeypatch):
    """With the new number of slots and the old file, every key would be looked for in the wrong place."""
    monkeypatch.setattr(diskmap, "FIRST_SLOTS", 8)
    table = DiskMap(tmp_path / "index", 1)
    # Their slots differ between the old and the new size.
    known = [bytes([number]) * 16 for number in range(9, 14)]
    for key in known:
        table.put(key, b"x")

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            table.put(b"\x77" * 16, b"x")
    assert [table.get(key) for key in known] == [b"x"] * 5
    assert table.get(b"\x77" * 16) is None
    table.close()


def test_what_is_expected_needs_no_growth(tmp_path, monkeypatch):
    """Growing copies all of the table."""
    table = DiskMap(tmp_path / "index", 8, expected=20_000)
    monkeypatch.setattr(table, "_grow", None)
    drawn = random.Random(1)
    for number in range(20_000):
        table.put(drawn.randbytes(16), number.to_bytes(8, "little"))
    assert len(table) == 20_000
    table.close()
