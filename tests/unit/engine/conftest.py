from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_distil.engine import asking, limits
from tests.unit.engine.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "scratch")
    yield lab
    lab.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody learns anything from real back-off."""
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(asking, "LONGEST_WAIT", 0.0)
    monkeypatch.setattr(limits, "COOL_DOWN", 0.0)
