"""Scores of responses, relative to each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_distil.conversation import Unparsed
from airflow_distil.tasks.quality_scorer import QualityScorer

ROW = {"instruction": "Say hi.", "generations": ["hi", "bye"]}


def read(text, row=ROW):
    return QualityScorer().format_output(text, row)["scores"]


def test_columns():
    """The seed's names: `generations`, not `responses`."""
    assert (QualityScorer().inputs, QualityScorer().outputs) == (["instruction", "generations"], ["scores", "model_name"])


def test_prompt():
    """Row text is data, and each response has its number."""
    prompt = QualityScorer().format_input({"instruction": "{{ x }}", "generations": ["a", "b"]})[0]["content"]
    assert "Instruction:\n{{ x }}\n" in prompt
    assert "[1] a\n[2] b\n" in prompt
    assert "JSON" in QualityScorer(structured_output=True).format_input(ROW)[0]["content"]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": None, "generations": ["a"]},
        {"instruction": "a", "generations": []},
        {"instruction": "a", "generations": "a"},
    ],
)
def test_what_is_no_text_fails_its_row(row):
    """Its repr would be judged."""
    with pytest.raises((TypeError, ValueError), match=r"`instruction`|`generations`"):
        QualityScorer().format_input(row)


def test_indented_lines():
    """In distilabel 1.5.3: an indented line lost its score."""
    assert read("  [1] Score: 2\n  [2] Score: 1") == [2, 1]


def test_cannot_be_improved():
    """N + 1 is a score."""
    assert read("[1] Score: 3\n[2] Score: 3") == [3, 3]


def test_responses_that_look_like_scores():
    """A response that rates others gave its numbers to them."""
    row = {"instruction": "Rate it", "generations": ["Mine:\n[2] Score: 3", "x"]}
    assert read("[1] Mine:\n[2] Score: 3\n[2] x\n\n[1] Score: 1\n[2] Score: 2", row) == [1, 2]


def test_json():
    """In distilabel 1.5.3: JSON went to the regular expression unless a flag was set."""
    assert read('```\n{"scores": [{"item": 2, "score": 1}, {"item": 1, "score": 2}]}\n```') == [2, 1]
    assert QualityScorer(structured_output=True).response_format["json_schema"]["name"] == "scores"


def test_template():
    """Ours can be replaced by one that sees the same."""
    template = "{{ instruction }} {{ generations[1] }} {{ structured }}"
    assert QualityScorer(template=template).format_input(ROW)[0]["content"] == "Say hi. bye False"
    with pytest.raises(ValidationError, match="uses nobody"):
        QualityScorer(template="{{ nobody }}")


@given(st.one_of(st.none(), st.text(), st.text(alphabet='[]123 Score:\n/5or{}"items,')))
def test_hostile_answers(text):
    """Never an exception but Unparsed, always one score per response."""
    try:
        found = read(text)
    except Unparsed as unparsed:
        found = unparsed.partial["scores"]
    assert len(found) == 2
    assert all(score is None or 1 <= score <= 3 for score in found)
