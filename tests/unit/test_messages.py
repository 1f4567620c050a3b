"""What errors and logs may quote, and how."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distil import exceptions
from airflow_distil.exceptions import DistilError, one_line

EVERY = [getattr(exceptions, name) for name in exceptions.__all__]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n[2026-01-01] ERROR forged", r"a\n[2026-01-01] ERROR forged"),
        ("a\r::group::b", r"a\r::group::b"),
        ("\x1b[2J\x9b31m", r"\x1b[2J\x9b31m"),
        ("a\u2028b\u0085c", r"a\u2028b\x85c"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("half \ud83d", "half \ufffd"),
        ("naïve 🙂 👩‍👩‍👧 %s {0} {{ x }} <b>", "naïve 🙂 👩‍👩‍👧 %s {0} {{ x }} <b>"),
        ("cannot open https://me:hunter2@host/x", "cannot open https://***@host/x"),
        ("GET https://b/x?a=1&X-Amz-Signature=hunter2&b=2", "GET https://b/x?a=1&X-Amz-Signature=***&b=2"),
        ("http://127.0.0.1:8000/v1 for a@b", "http://127.0.0.1:8000/v1 for a@b"),
    ],
)
@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.__name__)
def test_what_they_quote_is_one_printable_line(error, text, shown):
    """A row, an answer, a file's name or a library's message went into the log as it was, and could pass for lines of it."""
    assert str(error(text)) == one_line(text) == shown


def test_the_end_of_a_long_message_is_kept():
    """Arrow quotes the cell that it cannot read; behind fifty megabytes of it nobody found what to do."""
    message = str(DistilError("cell " + "x" * 1_000_000 + " Next: declare its type."))
    assert len(message) < 10_000
    assert message.startswith("cell x")
    assert message.endswith("Next: declare its type.")


@given(st.text())
def test_one_line_is_one_line(text):
    """A line end that one of the many readers of a log knows and we do not; and errors that are sent on are made twice."""
    assert len(one_line(text).splitlines()) <= 1
    assert one_line(one_line(text)) == one_line(text)
