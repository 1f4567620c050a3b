"""A rating of an answer as an example."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_distil.conversation import Unparsed
from airflow_distil.tasks.instruction_backtranslation import InstructionBacktranslation
from tests.unit.engine.lab import Lab, Model

ROW = {"instruction": "Say hi.", "generation": "hi"}


def read(text):
    columns = InstructionBacktranslation().format_output(text, ROW)
    return columns["score"], columns["reason"]


def unread(text):
    with pytest.raises(Unparsed, match="from 1 to 5") as caught:
        read(text)
    return caught.value.partial


def test_prompt_delimits_instruction_and_answer():
    """In distilabel 1.5.3: there was nothing between the two, so nobody could tell where the answer began."""
    prompt = InstructionBacktranslation().format_input({"instruction": "{{ a }}", "generation": "b"})[0]["content"]
    assert "<instruction>\n{{ a }}\n</instruction>\n\n<answer>\nb\n</answer>" in prompt
    assert prompt.endswith("Score: k")
    assert "JSON" in InstructionBacktranslation(structured_output=True).format_input(ROW)[0]["content"]


@pytest.mark.parametrize("row", [{"instruction": None, "generation": "b"}, {"instruction": "a", "generation": 1}])
def test_what_is_no_text_fails_its_row(row):
    """Its repr would be judged."""
    with pytest.raises(TypeError, match="must be text"):
        InstructionBacktranslation().format_input(row)


def test_last_verdict_counts():
    """In distilabel 1.5.3: a score mentioned in the reasoning beat the final one, and cut the reason off."""
    text = "It could be a Score: 2, were it shorter.\nBut it is good.\n\nScore: 5"
    assert read(text) == (5, "It could be a Score: 2, were it shorter.\nBut it is good.")


@pytest.mark.parametrize(
    "text", ["Score: 10", "Score: 0", "Score: 6", "Score: 9", "Score: 4.5", "Score: 3 or 4", "Score: 8/10", "Score: -4"]
)
def test_what_is_no_verdict(text):
    """In distilabel 1.5.3: 10 was read as 1, and 0 and 6 to 9 were taken; nor does an earlier mention stand in for them."""
    assert unread(f"Why not Score: 2?\n{text}")["reason"]


@pytest.mark.parametrize("text", ["", None, "Good.", "Score: <rating>", "Score: k", "It scored 4: good", "underscore: 4"])
def test_no_verdict(text):
    """What there is of a reason is kept."""
    assert unread(text) == {"reason": text or None}


@pytest.mark.parametrize(
    "line",
    [
        "Score: 4",
        "**Score:** 4",
        "**Score: 4**",
        "**Score**: 4",
        "score: 4",
        "SCORE: 4",
        "Score: <4>",
        "Score: 4/5",
        "Score: 4 out of 5",
        "Score:4",
        "Score: **4**",
        "### Score: 4",
        "- Score: 4.",
        "Final score: 4",
        "My overall score: 4",
        "Score: four",
        "Score = 4",
        "Score：4",
        "Score: (4)",
    ],
)
def test_forms(line):
    """In distilabel 1.5.3: bold, lower case and brackets raised an IndexError, and everything was lost."""
    assert read(f"It is **good**\n\n{line}") == (4, "It is **good**")


def test_verdict_in_the_midst_of_a_line():
    """Its bold marks were left in the reason."""
    assert read("It is **good**. **Score:** 4") == (4, "It is **good**.")


@pytest.mark.parametrize("piece", ["the ", "Score: ", "*", "- ", "final score", "Score: 4 "])
def test_long_answers_take_no_time(piece):
    """A model that repeats itself until it is cut off must not stop the loop that serves all other rows."""
    started = time.process_time()
    with contextlib.suppress(Unparsed):
        read(piece * (60_000 // len(piece)))
    assert time.process_time() - started < 2


def test_answer_that_begins_with_the_verdict():
    """In distilabel 1.5.3: an IndexError."""
    assert read("Score: 4") == (4, None)
    assert read("Score: 4\n\nIt is good.") == (4, "It is good.")


def test_json():
    """The same answer in the other form."""
    assert read('```json\n{"reason": "Score: 2 or so", "score": 4}\n```') == (4, "Score: 2 or so")
    assert unread('{"reason": "good", "score": 6}') == {"reason": "good"}
    assert unread('{"reason": ["good"], "score": true}') == {"reason": None}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('The answer prints {"score": 2}.\n\nScore: 5', 5),
        ('The answer prints\n```json\n{"score": 2}\n```\nScore: 5', 5),
        ('Score: 5\nIt prints {"score": 2}.', 5),
        ('Score: 1 would be unfair.\n```json\n{"reason": "Good.", "score": 5}\n```', 5),
        ('A low score: 1 or 2? No.\n{"reason": "Good.", "score": 5}\nBye.', 5),
    ],
)
def test_quoted_json_is_no_verdict(text, score):
    """The score that the judged answer prints was taken, and the row was ok."""
    assert read(text)[0] == score


@pytest.mark.parametrize(
    "text",
    [
        "Good. Score: 5\nA score: 4 would be unfair",
        "Good.\n**Score:** 5\n\nA score: 4 would be unfair.",
        "Good. **Score:** 5\nNo lower score: 4 is for less.",
        "很好。Score: 5\nwhile a score: 4 would do",
        "Score: 2\nOn reflection, no. Score: 5",
        "I give it the score: 5",
    ],
)
def test_a_verdict_begins_its_line_or_sentence(text):
    """A score that is mentioned after the verdict took its place."""
    assert read(text)[0] == 5


def test_engine(tmp_path):
    """Scores are integers in Parquet, also where no row has one."""
    lab = Lab(tmp_path)
    try:
        (row,) = lab.run([ROW], Model(lambda *_: "Good."), InstructionBacktranslation())
        assert (row["score"], row["reason"], row["distil_status"]) == (None, "Good.", "unparsed")
        assert str(lab.table(lab.manifest()).schema.field("score").type) == "int64"
    finally:
        lab.close()


def test_template():
    """Ours can be replaced by one that sees the same."""
    template = "{{ instruction }} {{ generation }} {{ structured }}"
    assert InstructionBacktranslation(template=template).format_input(ROW)[0]["content"] == "Say hi. hi False"
    with pytest.raises(ValidationError, match="uses nobody"):
        InstructionBacktranslation(template="{{ nobody }}")


PROSE = st.lists(
    st.sampled_from(["Good.", "A Score: 2 is low.", "It had **Score:** 3 before", "10/10", "1. Clear", "```", ""]), max_size=5
)


@given(PROSE, st.integers(0, 12), st.sampled_from(["Score: {}", "**Score:** {}", "score: <{}>", "Final Score: {}."]))
def test_the_last_one_or_none(prose, score, form):
    """Whatever was said before, another score than the last is never taken."""
    text = "\n".join([*prose, form.format(score)])
    if 1 <= score <= 5:
        assert read(text)[0] == score
    else:
        unread(text)


@given(st.one_of(st.text(), st.text(alphabet='Score:*<>(123 45/6\n{}"')))
def test_hostile_answers(text):
    """Never an exception but Unparsed."""
    try:
        score, reason = read(text)
    except Unparsed as unparsed:
        score, reason = 1, unparsed.partial["reason"]
    assert score in range(1, 6)
    assert reason is None or reason.strip() == reason
