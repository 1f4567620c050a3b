"""A few faults on the Celery stack at their fixed points; all of them are `python -m tests.chaos`."""

from __future__ import annotations

from tests.chaos.celery_faults import FAULTS, run_all
from tests.chaos.verdict import table

# One of each kind: an orphan, a user, a zombie with old code, a service.
CHOSEN = ("supervisor killed", "cleared while running", "paused until new code has published", "API server killed")
SEED = 20261124


def test_promises_hold_on_the_stack(capsys):
    """A retry on another worker, an orphan or a zombie that lost, doubled or paid for rows would show in its verdict."""
    verdicts = list(run_all(len(CHOSEN), SEED, [each for each in FAULTS if each.name in CHOSEN]))
    with capsys.disabled():
        print(f"\n{table(verdicts)}")
    assert len(verdicts) == len(CHOSEN)
    assert [str(verdict) for verdict in verdicts if not verdict.kept] == []
