"""A flag that is set from a signal handler."""

from __future__ import annotations

import pytest

from airflow_distil.engine.stop import Stop
from airflow_distil.exceptions import Stopped


def test_listener_is_called_once_the_stop_is_requested():
    """Polling would lose seconds of the five that there are."""
    stop, heard = Stop(), []
    stop.listen(lambda: heard.append(1))
    assert heard == []
    stop.request("SIGTERM")
    stop.request("again")
    assert heard == [1]
    assert "SIGTERM" in str(stop.error)


def test_listener_that_comes_late_is_called_at_once():
    """The signal can come before the run begins."""
    stop, heard = Stop(), []
    stop.request("SIGTERM")
    stop.listen(lambda: heard.append(1))
    assert heard == [1]


def test_run_that_ends_in_the_same_moment_is_no_error():
    """In a signal handler, an exception would be raised in the middle of somebody else's code."""
    stop = Stop()

    class Ending:
        """What a second thread does between two reads of the listener."""

        def __bool__(self):
            stop.listen(None)
            return True

        def __call__(self):
            pass

    stop.listen(Ending())
    stop.request("SIGTERM")


def test_check_raises_once_it_is_set():
    """The write pass has no event loop to be told in."""
    stop = Stop()
    stop.check()
    stop.request("SIGTERM")
    with pytest.raises(Stopped, match="answers so far are kept"):
        stop.check()
