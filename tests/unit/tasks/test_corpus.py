"""No reader ever puts a value on the wrong item, whatever form an answer has: see `corpus` for the answers.

`HYPOTHESIS_PROFILE=long` searches for longer.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_distil.conversation import Answer, Row, Unparsed
from airflow_distil.tasks.complexity_scorer import ComplexityScorer
from airflow_distil.tasks.frames import PROMPTS
from airflow_distil.tasks.genstruct import Genstruct
from airflow_distil.tasks.instruction_backtranslation import InstructionBacktranslation
from airflow_distil.tasks.mutation import read_evolution
from airflow_distil.tasks.prometheus_eval import PrometheusEval
from airflow_distil.tasks.quality_scorer import QualityScorer
from airflow_distil.tasks.self_instruct import SelfInstruct
from airflow_distil.tasks.ultrafeedback import UltraFeedback
from tests.unit.tasks import corpus
from tests.unit.tasks.corpus import MARKS, Case, Maker, Marked, cases

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SAMPLE = 5000 if LONG else 300


def examples(count: int) -> Any:
    """As many examples, the same ones in each run unless it is to search."""
    return settings(
        max_examples=count * 15 if LONG else count,
        derandomize=not LONG,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass(frozen=True)
class Reader:
    """A reader and the answers that are meant for it."""

    read: Callable[[str, Row], Row]
    make: Maker
    ordered: bool = False  # its items have no labels: a list is what was said, in this order


def _of(task: Any, **renamed: str) -> Callable[[str, Row], Row]:
    def read(text: str, row: Row) -> Row:
        given = {renamed.get(name, name): value for name, value in row.items()}
        return task.read(text, {"instruction": "Do it.", **given})

    return read


def _instructions(text: str, row: Row) -> Row:
    # As many as there are: what is missing of them is the conversation's business, and has its own tests.
    try:
        return SelfInstruct(num_instructions=99).read(text, row)
    except Unparsed as unparsed:
        if unparsed.partial:
            return unparsed.partial
        raise


def _evolution(text: str, row: Row) -> Row:
    return {"text": read_evolution(text, row["previous"], PROMPTS)}


_grade = partial(corpus.verdict, label="result", column="result", told="feedback")
READERS = {
    "complexity": Reader(_of(ComplexityScorer(), items="instructions"), corpus.scores),
    "quality": Reader(_of(QualityScorer(), items="generations"), corpus.scores),
    "helpfulness": Reader(_of(UltraFeedback(aspect="helpfulness")), partial(corpus.ratings, typed=True)),
    "honesty": Reader(_of(UltraFeedback(aspect="honesty")), partial(corpus.ratings, absent=True)),
    "instruction-following": Reader(_of(UltraFeedback(aspect="instruction-following")), corpus.ratings),
    "truthfulness": Reader(_of(UltraFeedback(aspect="truthfulness")), partial(corpus.ratings, typed=True)),
    "overall-rating": Reader(_of(UltraFeedback()), corpus.ratings),
    "backtranslation": Reader(
        _of(InstructionBacktranslation()), partial(corpus.verdict, label="score", column="score", told="reason")
    ),
    "prometheus absolute": Reader(_of(PrometheusEval()), _grade),
    "prometheus relative": Reader(_of(PrometheusEval(mode="relative")), partial(_grade, choice=True)),
    "self-instruct": Reader(_instructions, corpus.instructions, ordered=True),
    "genstruct": Reader(_of(Genstruct()), corpus.exchange),
    "evolution": Reader(_evolution, corpus.evolution),
}
each_reader = pytest.mark.parametrize("name", READERS)


def heard(reader: Reader, case: Case, text: str) -> tuple[dict[str, list[Any]], bool]:
    """Return the columns that were read, each as a list, and whether the reader was content. Unparsed alone may be raised."""
    try:
        columns, content = reader.read(text, case.row), True
    except Unparsed as unparsed:
        columns, content = unparsed.partial, False
    lists = {name: value if isinstance(value, list) else [value] for name, value in columns.items()}
    if reader.ordered:
        return lists, content
    # Without a partial value, the engine writes None.
    return {
        name: lists.get(name, [None] * len(true)) if lists.get(name) != [None] else [None] * len(true)
        for name, true in case.truth.items()
    }, content


def marks_in(text: str) -> set[str]:
    """Return the items that a text is about."""
    return _MARK_WORDS.intersection(re.findall(r"[a-z]+", text.lower()))


_MARK_WORDS = {*MARKS, "poison"}


def is_own(found: Any, own: Any, *, cut: bool) -> bool:
    """Tell whether a value is its item's own, or none. Cut, a text or a list may be its beginning."""
    if found is None:
        return True
    if isinstance(own, Marked):
        return marks_in(found) <= {own.mark} and (cut or own.mark in marks_in(found))
    if cut and isinstance(own, str | list):
        return own[: len(found)] == found or (isinstance(own, str) and found.rstrip("*` \r\n") in own)
    return bool(found == own)


def check(reader: Reader, case: Case, text: str, *, cut: bool = False) -> bool:
    """Check that no value is on a wrong item, and return whether all of them are there."""
    columns, content = heard(reader, case, text)
    if reader.ordered:
        return check_list(columns.get("instructions", []), case, cut=cut)
    prefixes = 0
    for name, true in case.truth.items():
        assert len(columns[name]) == len(true), f"{name}: {len(columns[name])} values for {len(true)} items"
        for position, (found, own) in enumerate(zip(columns[name], true, strict=True)):
            if cut and type(found) in {int, float} and found != own and own is not None and str(own).startswith(f"{found:g}"):
                prefixes += 1  # 1 of 11: the number itself was cut, and nobody can know
                continue
            assert is_own(found, own, cut=cut), f"{name}: item {position + 1} has {found!r} and not {own!r}"
    assert prefixes <= 1
    # Not applicable is said with a None, too; only the reader knows which one it was.
    return content and all(
        (found is None) == (own is None)
        for name, true in case.truth.items()
        for found, own in zip(columns[name], true, strict=True)
    )


def check_list(found: list[str], case: Case, *, cut: bool) -> bool:
    """Check a list without labels: what is in it was said about one word only, the words in the order of the answer."""
    said = [marks_in(each) for each in found]
    assert all(len(marks) <= 1 and "poison" not in marks for marks in said), found
    # One that was said twice may be taken where it was said first or last.
    order = iter(re.findall(r"[a-z]+", re.sub(r"\\u\w{4}", " ", case.text).lower()))
    assert all(mark in order for marks in said for mark in marks), found
    if case.complete and not cut:
        assert found == case.truth["instructions"]
    return found == case.truth["instructions"]


@each_reader
@examples(40)
@given(st.data())
def test_answers_as_asked_for_are_read_in_full(name, data):
    """A reader that is careful to the point of reading nothing."""
    reader = READERS[name]
    case = data.draw(cases(reader.make, "well"))
    assert check(reader, case, case.text)


@each_reader
def test_chatty_answers_are_read_in_full(name, record_property):
    """Each one that is not is asked for, and paid, again. A fixed sample."""
    reader = READERS[name]
    sample = [reader.make(Random(f"{name}/{number}"), "chatty") for number in range(SAMPLE)]
    unread = [case.text for case in sample if not check(reader, case, case.text)]
    record_property("recall", 1 - len(unread) / SAMPLE)
    assert len(unread) <= 0.05 * SAMPLE, f"{len(unread)} of {SAMPLE}; the shortest:\n" + min(unread, key=len)


@each_reader
@examples(100)
@given(st.data())
def test_no_value_is_ever_on_the_wrong_item(name, data):
    """What is on the wrong item looks as good as what is on the right one, and is trained on."""
    reader = READERS[name]
    case = data.draw(cases(reader.make, "chatty", "broken", "broken", "broken"))
    check(reader, case, case.text)


@each_reader
@examples(100)
@given(st.data())
def test_a_cut_answer_gives_no_value_that_was_not_meant(name, data):
    """An answer ends wherever the tokens run out. What is made right by its end (see `Case`) is left out."""
    reader = READERS[name]
    case = data.draw(cases(reader.make, "well", "chatty", "broken").filter(lambda case: case.cuttable))
    lines = [match.start() for match in re.finditer("\n", case.text)]
    end = data.draw(st.sampled_from(lines) if lines and data.draw(st.booleans()) else st.integers(0, len(case.text)))
    check(reader, case, case.text[:end], cut=True)


@each_reader
@examples(25)
@given(st.data())
def test_whatever_a_model_says_unparsed_is_all_that_is_raised(name, data):
    """One strange character raised something else, and the row failed instead of being asked about again."""
    reader = READERS[name]
    case = data.draw(cases(reader.make, "broken"))
    pieces = st.one_of(
        st.text(max_size=20), st.sampled_from([*corpus.NOISE, *corpus.POISON, *corpus.NO_VALUES, "<think>", "</think>"])
    )
    at = data.draw(st.integers(0, len(case.text)))
    columns, _ = heard(reader, case, case.text[:at] + data.draw(pieces) + case.text[at:])
    if not reader.ordered:
        assert {column: len(values) for column, values in columns.items()} == {
            column: len(values) for column, values in case.truth.items()
        }


@pytest.mark.parametrize("name", sorted(READERS.keys() - {"quality", "honesty", "instruction-following", "truthfulness"}))
def test_long_answers_are_read_at_once(name):
    """A model that repeats itself until it is cut off must not stop the loop that serves all other rows."""
    reader = READERS[name]
    case = reader.make(Random(7), "chatty")
    slow = {}
    for piece in PIECES:
        long = piece * (LENGTH // len(piece))
        for text in (long, f"{case.text}\n{long}") if LONG else (long,):
            started = time.process_time()
            heard(reader, case, text)
            if (took := time.process_time() - started) > 1:
                slow[text[:20], text[-20:]] = round(took, 1)
    assert not slow


LENGTH = 200_000
PIECES = (
    "[1] ", "[1]\n", "[1] Score: ", "1. ", "1.\n", "- ", "*", "**", "{", "[", '{"a": ', '{"scores": ', '{"result": 1}',
    "[RESULT] ", "Score: ",
    "Rating: ", "Rating: 1\n", "Rationale: x\n", "#### Output for Text 1\n", "Text 1\n", "## a\n", "\n", "\r\n", " ", "\t", "1",
    "1 or ", "`", "<",
    "<think>", "</think>", "[[[User]]] ", "[[[Assistant]]] ", "```\n", '"', "here's the ", "rewritten prompt ", "the ", "# ",
    "> ", "sorry ", "A ", "a" * 50 + "\n",
)  # fmt: skip


@examples(60)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(["first", "second", "A", "B"]),
    st.sampled_from(["well", "chatty", "broken"]),
)
def test_a_judge_asked_in_both_orders_is_understood_in_both(rng, prefers, level):
    """The verdict of the swapped order was taken for the row's, so the worse answer won."""
    verdicts = {"first": "AB", "second": "BA", "A": "AA", "B": "BB"}[prefers]  # "A": whatever stands first
    said = [_grade(rng, level, choice=True, means=letter) for letter in verdicts]
    row = {"instruction": "Explain it.", "generations": [said[0].row["generation"], said[1].row["generation"]]}
    conversation = PrometheusEval(mode="relative", swap=True, max_parse_retries=0).converse(row, Random(0))
    next(conversation)
    try:
        conversation.send([Answer(text=case.text) for case in said])
        raise AssertionError("it asks for more")
    except StopIteration as end:
        columns = end.value
    except Unparsed as unparsed:
        columns = unparsed.partial
    own = [verdicts[0], {"A": "B", "B": "A"}[verdicts[1]]]
    for case, found, true in zip(said, columns["results"], own, strict=True):
        assert found is None or (found == true and case.truth["result"] != [None])
        assert found is not None or not case.complete
    assert columns["result"] is None or own[0] == own[1] == columns["result"]
