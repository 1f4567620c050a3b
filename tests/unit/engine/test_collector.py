"""What a job does to Python's collector, and undoes."""

from __future__ import annotations

import gc

from airflow_distil.engine.collector import collecting_seldom


def test_the_last_one_out_restores_it():
    """Of two jobs in one process, the second took the first one's setting for the usual one, and restored that for good."""
    usual = gc.get_threshold()
    first, second = collecting_seldom(), collecting_seldom()
    first.__enter__()
    second.__enter__()
    assert gc.get_threshold()[0] > usual[0]
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] > usual[0]
    second.__exit__(None, None, None)
    assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, 0)


def test_who_has_turned_it_off_finds_it_off():
    """A threshold of zero means never."""
    usual = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with collecting_seldom():
            assert gc.get_threshold()[0] == 0
        assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*usual)
