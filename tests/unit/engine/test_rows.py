"""Twins are counted alike, whatever is known of an earlier pass."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given, settings

from airflow_distil.conversation import digest
from airflow_distil.engine.rows import Twins

# None is a row that asks nothing.
sources = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=6)


def openings(source: list[str | None]) -> dict[int, bytes]:
    """Return the key of the first request of each row."""
    seen: Counter[str] = Counter()
    found = {}
    for ordinal, text in enumerate(source):
        if text is not None:
            found[ordinal] = digest(text.encode(), f"{seen[text]}".encode())
            seen[text] += 1
    return found


@given(earlier=sources, source=sources, again=st.booleans())
@settings(max_examples=300, deadline=None)
def test_count_is_that_of_the_rows_before(tmp_path_factory, earlier, source, again):
    """Two rows with one number share one answer; a number that depends on the log is another key each night."""
    known = openings([*source, *earlier] if again else earlier)
    folder = tmp_path_factory.mktemp("twins")
    twins = Twins(folder / "twins", len(source), lambda key, ordinal, sample: sample == 0 and known.get(ordinal) == key)
    seen: Counter[str] = Counter()
    for ordinal, text in enumerate(source):
        if text is not None:
            assert twins.count(digest(text.encode(), b"0"), ordinal, 0) == seen[text]
            seen[text] += 1
    twins.close()
    assert list(folder.iterdir()) == []


def test_replay_of_what_is_known_counts_nothing(tmp_path):
    """It is what a replay of a million rows would spend most of its time on."""
    twins = Twins(tmp_path / "twins", 9, lambda *_: True)
    assert [twins.count(bytes([number]) * 16, number, 0) for number in range(9)] == [0] * 9
    assert len(twins._map) == 0
    twins.close()
