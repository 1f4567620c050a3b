"""Scores of instructions, relative to each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_distil.conversation import Unparsed
from airflow_distil.tasks.complexity_scorer import ComplexityScorer
from tests.unit.engine.lab import Lab, Model

ROW = {"instructions": ["Say hi.", "Prove it.", "Solve it."]}


def read(text, row=ROW):
    return ComplexityScorer().format_output(text, row)["scores"]


def partial(text, row=ROW):
    with pytest.raises(Unparsed) as caught:
        read(text, row)
    return caught.value.partial["scores"], caught.value.reason


def test_prompt_shows_every_instruction_with_its_number():
    """Without numbers there is nothing to label scores by."""
    prompt = ComplexityScorer().format_input({"instructions": ["a\nb", "{{ 7 * 7 }}"]})[0]["content"]
    assert "[1] a\nb\n[2] {{ 7 * 7 }}\n" in prompt
    assert "[i] Score: k" in prompt


def test_prompt_asks_for_what_is_read():
    """Lines were asked for where JSON was enforced."""
    prompt = ComplexityScorer(structured_output=True).format_input(ROW)[0]["content"]
    assert "[i] Score" not in prompt
    assert "JSON" in prompt


@pytest.mark.parametrize("value", [[], None, "text", ["a", None], [1]])
def test_what_is_no_list_of_texts_fails_its_row(value):
    """An empty list was asked about, and a null was scored as "None"."""
    with pytest.raises((TypeError, ValueError), match="instructions"):
        ComplexityScorer().format_input({"instructions": value})


def test_ties_and_too_complex_are_scores():
    """N + 1 is the scale's own, and two may be equal."""
    assert read("[1] Score: 1\n[2] Score: 4\n[3] Score: 4") == [1, 4, 4]


def test_order_and_preamble():
    """In distilabel 1.5.3: the line number was the item, so a preamble or another order gave scores to the wrong items."""
    assert read("Here you go!\n\n[3] Score: 3\n\n[1] Score: 1\n**[2] Score: 2**\nHope it helps") == [1, 2, 3]


def test_fractions():
    """In distilabel 1.5.3: 1.5 was cut to 1."""
    assert read("[1] Score: 1.5\n[2] Score: 1.5\n[3] Score: 3") == [1.5, 1.5, 3]


def test_missing_scores_are_named_and_the_others_kept():
    """In distilabel 1.5.3: fewer lines gave a shorter list, and nobody was told."""
    assert partial("[3] Score: 3") == (
        [None, None, 3],
        "no single score from 1 to 4, beside the number of its item, for item 1, 2 of 3",
    )
    assert partial(None)[0] == [None, None, None]


@pytest.mark.parametrize(
    "text",
    [
        '{"scores": [{"item": 3, "score": 3}, {"item": 1, "score": 1}, {"item": 2, "score": 2}]}',
        'Sure:\n```json\n{"scores": [{"item": 1, "score": 1}, {"item": 2, "score": 2}, {"item": 3, "score": 3}]}\n```',
        '[{"item": 1, "score": 1}, {"item": 2, "score": 2}, {"item": 3, "score": 3}]',
        '{"scores": [{"item": 1, "score": 1.0}, {"item": "2", "score": "2"}, {"item": 3, "score": "3/3"}]}',
    ],
)
def test_json_is_read_as_json(text):
    """In distilabel 1.5.3: JSON went to the regular expression unless a flag was set."""
    assert read(text) == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"scores": [1, 2]}', [None] * 3),
        ('{"scores": [1, 2, 3, 4]}', [None] * 3),
        ('{"scores": [1, 2, 3]}', [None] * 3),
        ("[1, 2, 3]", [None] * 3),
        ('{"scores": [{"item": 1, "score": 1}, {"item": 2, "score": 9}, {"item": 3, "score": true}]}', [1, None, None]),
        ('{"scores": [{"item": 2, "score": 2}, {"item": 2, "score": 3}, {"item": 9, "score": 1}]}', [None] * 3),
        ('{"scores": [{"item": 2, "score": 2}, {"item": 3}]}', [None, 2, None]),
        ('{"scores": {}}', [None] * 3),
        ('{"scores": []}', [None] * 3),
        ('{"scores": [[1], null, {}]}', [None] * 3),
    ],
)
def test_json_is_checked_as_text_is(text, expected):
    """In distilabel 1.5.3: neither the length of a JSON list nor its values were checked, and it was read by position."""
    assert partial(text)[0] == expected


def test_keys_of_an_answer_do_not_reach_the_row():
    """In distilabel 1.5.3: other keys of a JSON answer overwrote input columns."""
    text = '{"scores": [{"item": 1, "score": 1}], "instructions": ["x"]}'
    assert ComplexityScorer().format_output(text, {"instructions": ["a"]}) == {"scores": [1]}


@pytest.mark.parametrize(
    "quoted",
    [
        'Item 1 wants {"scores": [1, 2]}.',
        'Item 1 wants\n```json\n{"scores": [{"item": 1, "score": 1}, {"item": 2, "score": 2}]}\n```',
    ],
)
def test_quoted_json_is_no_answer(quoted):
    """What an item asks for was taken for the scores of all of them, and the row was ok."""
    assert read(f"{quoted}\n[1] Score: 2\n[2] Score: 1", {"instructions": ["a", "b"]}) == [2, 1]


def test_instructions_that_look_like_scores():
    """The line was in the prompt, and repeated in the answer it was taken for the model's."""
    row = {"instructions": ["Say\n[2] Score: 3", "What?"]}
    assert read("[1] Say\n[2] Score: 3\n[2] What?\n---\n[1] Score: 2\n[2] Score: 1", row) == [2, 1]


def test_engine(tmp_path):
    """The reason reaches the model, the second answer counts, and types do not depend on the data."""
    lab = Lab(tmp_path)
    try:
        model = Model(lambda prompt, time: "[2] Score: 1\n[1] Score: 2" if "cannot be used" in prompt else "[1] Score: 2")
        (row,) = lab.run([{"instructions": ["a", "b"]}], model, ComplexityScorer())
        assert (row["scores"], row["distil_status"], len(row["distil_metadata"])) == ([2, 1], "ok", 2)
        assert "for item 2 of 2" in model.asked[1]
        assert str(lab.table(lab.manifest()).schema.field("scores").type) == "list<element: double>"
    finally:
        lab.close()


def test_structured_output(tmp_path):
    """An answer that does not fit the schema is asked for again; a partial one keeps what it has."""
    lab = Lab(tmp_path)
    try:
        said = json.dumps({"scores": [{"item": 2, "score": 1}]})
        task = ComplexityScorer(structured_output=True)
        rows = lab.run([{"instructions": ["a", "b"]}, {"instructions": []}], Model(lambda *_: said), task)
        assert [(row["scores"], row["distil_status"]) for row in rows] == [([None, 1], "unparsed"), (None, "failed")]
        assert "`instructions` is empty" in rows[1]["distil_error"]
    finally:
        lab.close()


def test_template():
    """Ours can be replaced by one that sees the same."""
    prompt = ComplexityScorer(template="{{ instructions | length }} {{ structured }}").format_input(ROW)[0]["content"]
    assert prompt == "3 False"
    with pytest.raises(ValidationError, match="uses nobody"):
        ComplexityScorer(template="{{ nobody }}")


@given(st.lists(st.text(alphabet="[]12 Score:\n", max_size=20), min_size=1, max_size=4), st.data())
def test_no_score_moves_whatever_the_instructions_say(instructions, data):
    """Items that look like answers, repeated before the scores or not: each item has its own score, or none."""
    true = [data.draw(st.integers(1, len(instructions) + 1)) for _ in instructions]
    lines = [f"[{i}] Score: {score}" for i, score in enumerate(true, start=1)]
    echo = "".join(f"[{i}] {text}\n" for i, text in enumerate(instructions, start=1)) if data.draw(st.booleans()) else ""
    text = echo + "\n" + "\n".join(data.draw(st.permutations(lines)))
    try:
        found = read(text, {"instructions": instructions})
    except Unparsed as unparsed:
        found = unparsed.partial["scores"]
    assert len(found) == len(true)
    assert all(score in {None, own} for score, own in zip(found, true, strict=True))
