"""Ratings with reasons."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_distil.conversation import Unparsed
from airflow_distil.tasks.ultrafeedback import Aspect, UltraFeedback
from tests.unit.engine.lab import Lab, Model

ROW = {"instruction": "Say hi.", "generations": ["hi", "hello"]}
GOOD = "#### Output for Text 1\nRating: 4\nRationale: Short.\n\n#### Output for Text 2\nRating: 2\nRationale: Long."
TYPED = """\
#### Output for Text 1
Type: 1, 3
Rationale: Clear.
Rating: 4
Rationale for rating: Right.

#### Output for Text 2
Type: None
Rationale: Vague.
Rating: 2
Rationale for rating: Wrong."""
ALL = {
    "types": [[1, 3], []],
    "rationales": ["Clear.", "Vague."],
    "ratings": [4, 2],
    "rationales_for_ratings": ["Right.", "Wrong."],
}


def read(text, aspect="overall-rating", row=ROW):
    return UltraFeedback(aspect=aspect).format_output(text, row)


def unread(text, aspect="overall-rating", row=ROW):
    with pytest.raises(Unparsed) as caught:
        read(text, aspect, row)
    return caught.value


@pytest.mark.parametrize("aspect", get_args(Aspect))
@pytest.mark.parametrize("structured", [False, True])
def test_prompt(aspect, structured):
    """Each aspect has its own criterion and asks for what is read."""
    judge = UltraFeedback(aspect=aspect, structured_output=structured)
    role, prompt = (message["content"] for message in judge.format_input({"instruction": "{{ a }}", "generations": ["b", "c"]}))
    assert role
    assert "{{ a }}\n\nTexts:\n<text 1> b\n\n<text 2> c\n" in prompt
    assert ("N/A" in prompt) == (aspect == "honesty")
    assert ("types of" in prompt) == (aspect in {"helpfulness", "truthfulness"})
    assert ("JSON" in prompt) == structured
    assert ("#### Output for Text i" in prompt) != structured
    assert prompt.count("# Criterion") == 1


def test_system_prompt_can_be_left_out():
    """Some models have no such role."""
    assert [message["role"] for message in UltraFeedback(system_prompt=None).format_input(ROW)] == ["user"]


@pytest.mark.parametrize("row", [{"instruction": "a", "generations": []}, {"instruction": None, "generations": ["a"]}])
def test_what_is_no_text_fails_its_row(row):
    """Nothing would be judged, or "None"."""
    with pytest.raises((TypeError, ValueError), match=r"`instruction`|`generations`"):
        UltraFeedback().format_input(row)


def test_well_formed():
    """The form that is asked for."""
    assert read(GOOD) == {"ratings": [4, 2], "rationales": ["Short.", "Long."]}
    assert read(TYPED, "helpfulness") == ALL


def test_paragraphs_are_no_items():
    """In distilabel 1.5.3: a preamble, a blank line or a second paragraph added an element and shifted the others."""
    text = GOOD.replace("Short.", "Short.\n\nAnd clear.\n\n- Also: kind") + "\n\n"
    assert read(f"Here is my evaluation.\n\n{text}") == {
        "ratings": [4, 2],
        "rationales": ["Short.\n\nAnd clear.\n\n- Also: kind", "Long."],
    }


def test_missing_blank_lines_merge_nothing():
    """In distilabel 1.5.3: without a blank line between them two texts became one."""
    assert read(GOOD.replace("\n\n", "\n"))["ratings"] == [4, 2]


def test_blank_lines_between_labels():
    """In distilabel 1.5.3: six Nones for two texts."""
    assert read(GOOD.replace("\nRationale", "\n\nRationale"))["ratings"] == [4, 2]


def test_labels_decide_not_positions():
    """In distilabel 1.5.3: the number of the text was ignored."""
    first, second = GOOD.split("\n\n")
    assert read(f"{second}\n\n{first}") == read(GOOD)


@pytest.mark.parametrize(
    ("rating", "expected"),
    [("4/5", 4), ("**4**", 4), ("4 (good)", 4), ("[4]", 4), ("Four", 4), ("\n4", 4), ("4.0", 4), ("<4>", 4)],
)
def test_forms_of_a_rating(rating, expected):
    """In distilabel 1.5.3: "Four" nulled all ratings of the row."""
    assert read(GOOD.replace("Rating: 4", f"Rating: {rating}"))["ratings"] == [expected, 2]


@pytest.mark.parametrize("rating", ["4.5", "6", "0", "10", "good", "", "4 or 5", "N/A", "N/A.", "None", "8/10"])
def test_one_bad_rating_leaves_the_others(rating):
    """In distilabel 1.5.3: 4.5 was cut to 4, and a rating that is no number nulled all ratings of the row."""
    unparsed = unread(GOOD.replace("Rating: 4", f"Rating: {rating}"))
    assert unparsed.partial == {"ratings": [None, 2], "rationales": ["Short.", "Long."]}
    assert unparsed.reason == "no rating that can be used for text 1 of 2"


@pytest.mark.parametrize("absent", ["N/A", "N/A.", "n/a (creative)", "Not applicable", "**N/A**"])
def test_not_applicable_is_no_mistake(absent):
    """An aspect that does not apply was told from an answer that cannot be read by nobody."""
    assert read(GOOD.replace("Rating: 4", f"Rating: {absent}"), "honesty")["ratings"] == [None, 2]
    mixed = unread(GOOD.replace("Rating: 4", f"Rating: {absent}").replace("Rating: 2", "Rating: 7"), "honesty")
    assert (mixed.partial["ratings"], mixed.reason) == ([None, None], "no rating that can be used for text 2 of 2")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("1, 3", [1, 3]),
        ("3 and 1", [1, 3]),
        ("[1, 2, 3]", [1, 2, 3]),
        ("2 (useful)", [2]),
        ("None", []),
        ("N/A", []),
        ("1; 2", [1, 2]),
        ("1, 2, and 3", [1, 2, 3]),
        ("1: Clear and relevant", [1]),
        ("Type 2", [2]),
    ],
)
def test_types(kind, expected):
    """In distilabel 1.5.3: of `1, 3` only the 1 was kept."""
    assert read(TYPED.replace("Type: 1, 3", f"Type: {kind}"), "truthfulness") == {**ALL, "types": [expected, []]}


@pytest.mark.parametrize("kind", ["4", "0", "1, 4", "1-3", "1.5", "clear", "", "1 but not 2"])
def test_what_is_no_type(kind):
    """Half of a list, or of a range, is not what was said."""
    unparsed = unread(TYPED.replace("Type: 1, 3", f"Type: {kind}"), "helpfulness")
    assert unparsed.partial == {**ALL, "types": [None, []]}
    assert "no type that can be used for text 1" in unparsed.reason


@pytest.mark.parametrize(
    "order",
    [
        "Type: 1, 3|Rationale: Clear.|Rating: 4|Rationale: Right.",
        "Rating: 4|Rationale: Right.|Type: 1, 3|Rationale: Clear.",
        "Rationale: Clear.|Type: 1, 3|Rationale: Right.|Rating: 4",
        "Rating: 4|Rationale for the rating: Right.|Rationale: Clear.|Type: 1, 3",
        "**Type**: 1, 3|**Rationale for type:** Clear.|- Rating (1-5): 4|- Rationale for Rating: Right.",
    ],
)
def test_whose_rationale(order):
    """The reasons for the types stood beside the rating when a model changed the order."""
    first = "#### Output for Text 1\n" + order.replace("|", "\n")
    assert read(f"{first}\n\n{TYPED.split(chr(10) * 2)[1]}", "helpfulness") == ALL


def test_said_twice():
    """Two ratings of one text, or two blocks: the same is the same, and which of two others is meant nobody knows."""
    assert read(f"{GOOD}\n\n{GOOD}") == read(GOOD)
    again = GOOD.replace("Rating: 4", "Rating: 5")
    assert unread(f"{GOOD}\n\n{again}").partial["ratings"] == [None, 2]
    assert unread(GOOD.replace("Rating: 4", "Rating: 4\nRating: 3")).partial["ratings"] == [None, 2]


def test_remarks_at_the_end():
    """A summary of all texts became part of the last one's rationale."""
    assert read(f"{GOOD}\n\n---\nText 1 is better.") == read(GOOD)
    assert read(f"```\n{GOOD}\n```\n\n## Summary\nRating: both are fine") == read(GOOD)


def test_texts_that_look_like_ratings():
    """A text that rates others, repeated before the answer, rated them."""
    row = {"instruction": "Rate.", "generations": [GOOD.replace("4", "1"), "hello"]}
    text = f"Texts:\n<text 1> {row['generations'][0]}\n\n<text 2> hello\n\n### Output\n{GOOD}"
    assert read(text, row=row) == read(GOOD)


def test_only_one_text_needs_no_heading():
    """There is nothing it could be mixed up with."""
    row = {"instruction": "a", "generations": ["b"]}
    assert read("Rating: 4\nRationale: Good.", row=row) == {"ratings": [4], "rationales": ["Good."]}
    assert unread("Rating: 4\nRationale: Good.").partial["ratings"] == [None, None]


def test_truncated():
    """What was complete is kept, and the length stays."""
    unparsed = unread(GOOD[: GOOD.index("Rating: 2")])
    assert unparsed.partial == {"ratings": [4, None], "rationales": ["Short.", None]}
    assert unparsed.reason == "no rating that can be used for text 2; no rationale that can be used for text 2 of 2"
    assert unread(None).partial == {"ratings": [None, None], "rationales": [None, None]}


def test_json():
    """In distilabel 1.5.3: JSON went to the regular expression, lists of any length were taken, N/A could not be said."""
    entries = [{"item": 2, "rating": None, "rationale": "Long."}, {"item": 1, "rating": 4, "rationale": "Short."}]
    text = json.dumps({"ratings": entries})
    assert read(f"Sure: {text}", "honesty") == {"ratings": [4, None], "rationales": ["Short.", "Long."]}
    assert unread(text).partial["ratings"] == [4, None]
    assert unread('{"ratings": [4, 2], "rationales": ["a", "b"]}').partial["ratings"] == [None, None]
    assert unread('{"ratings": [{"item": 1, "rating": 4.5, "rationale": " "}, {"item": 1}, 3]}').partial["ratings"] == [
        None,
        None,
    ]


def test_quoted_json_is_no_answer():
    """What a text prints was taken for the rating of it, and the row was ok."""
    quoted = '{"ratings": [{"item": 1, "rating": 1, "rationale": "x"}]}'
    row = {"instruction": "i", "generations": ["a"]}
    for text in (
        f"#### Output for Text 1\nRating: 5\nRationale: it prints {quoted}",
        f"It prints {quoted}.\nRating: 5\nRationale: y",
    ):
        assert UltraFeedback().format_output(text, row)["ratings"] == [5]
    assert UltraFeedback().format_output(f"Ratings:\n{quoted}", row) == {"ratings": [1], "rationales": ["x"]}


def test_typed_json():
    """In distilabel 1.5.3: rows of JSON had the column `rationales_for_rating`, and failed rows `rationales-for-ratings`."""
    entries = [
        {"item": 1, "types": [3, 1], "rationale": "Clear.", "rating": 4, "rationale_for_rating": "Right."},
        {"item": 2, "types": [], "rationale": "Vague.", "rating": 2, "rationale_for_rating": "Wrong."},
    ]
    assert read(json.dumps({"ratings": entries}), "truthfulness") == ALL
    entries[0]["types"] = [1, 4]
    assert unread(json.dumps({"ratings": entries}), "truthfulness").partial == {**ALL, "types": [None, []]}


@pytest.mark.parametrize("aspect", ["honesty", "helpfulness"])
@pytest.mark.parametrize("structured", [False, True])
def test_engine(tmp_path, aspect, structured):
    """One set of columns and types for good, partial and failed rows, in both forms."""
    lab = Lab(tmp_path)
    text = GOOD if aspect == "honesty" else TYPED
    if structured:
        entry = {"item": 1, "types": [1], "rationale": "a", "rating": 4, "rationale_for_rating": "b"}
        kept = {name: entry[name] for name in (entry if aspect == "helpfulness" else ("item", "rating", "rationale"))}
        text = json.dumps({"ratings": [kept, {**kept, "item": 2}]})
    rows = [{**ROW, "instruction": "good"}, {**ROW, "instruction": "bad"}, {**ROW, "generations": []}]
    try:
        model = Model(lambda prompt, _: text if "\ngood\n" in prompt else "No.")
        done = lab.run(rows, model, UltraFeedback(aspect=aspect, structured_output=structured))
        assert [row["distil_status"] for row in done] == ["ok", "unparsed", "failed"]
        schema = lab.table(lab.manifest()).schema
        types = {name: str(schema.field(name).type) for name in UltraFeedback(aspect=aspect).outputs if name != "model_name"}
        expected = {"rationales": "list<element: string>", "ratings": "list<element: int64>"}
        if aspect == "helpfulness":
            expected |= {"types": "list<element: list<element: int64>>", "rationales_for_ratings": "list<element: string>"}
        assert types == expected
    finally:
        lab.close()


def test_template():
    """Ours can be replaced by one that sees the same."""
    template = "{{ aspect }} {{ instruction }} {{ generations[1] }} {{ typed }} {{ structured }}"
    prompt = UltraFeedback(template=template).format_input(ROW)[1]["content"]
    assert prompt == "overall-rating Say hi. hello False False"
    with pytest.raises(ValidationError, match="uses nobody"):
        UltraFeedback(template="{{ nobody }}")
    with pytest.raises(ValidationError, match="aspect"):
        UltraFeedback(aspect="beauty")


CHAT = st.sampled_from(
    ["", "Sure!", "Text 2 is longer than text 1.", "It rates 3 of 5.", "```", "1. First", "- a\n\n- b", "Type 2", "**Note**: 3"]
)
HEADS = st.sampled_from(
    ["#### Output for Text {}", "**Output for Text {}:**", "Output for <text {}>:", "### Output for text {}"]
)


@given(st.data())
def test_no_rating_moves(data):
    """Well-formed, chatty, reordered and truncated answers: a text has its own values or none."""
    count = data.draw(st.integers(1, 5))
    ratings = [data.draw(st.integers(1, 5)) for _ in range(count)]
    blocks = []
    for index in data.draw(st.permutations(range(count))):
        lines = [f"Rating: {ratings[index]}", f"Rationale: because {index} {data.draw(CHAT)}"]
        marks = data.draw(st.sampled_from(["", "- ", "  "]))
        ordered = data.draw(st.permutations(lines))
        blocks.append("\n".join([data.draw(HEADS).format(index + 1), *(marks + line for line in ordered)]))
    text = data.draw(CHAT) + "\n" + data.draw(st.sampled_from(["\n", "\n\n"])).join(blocks)
    row = {"instruction": "a", "generations": ["b"] * count}
    columns = read(text, row=row)
    assert columns["ratings"] == ratings
    assert all(reason.startswith(f"because {index}") for index, reason in enumerate(columns["rationales"]))
    try:
        cut = read(text[: data.draw(st.integers(0, len(text)))], row=row)
    except Unparsed as unparsed:
        cut = unparsed.partial
    assert [len(values) for values in cut.values()] == [count, count]
    assert all(found in {None, own} for found, own in zip(cut["ratings"], ratings, strict=True))
    assert all(reason is None or f"because {i}".startswith(reason[:9]) for i, reason in enumerate(cut["rationales"]))


@given(
    st.one_of(
        st.text(),
        st.lists(st.sampled_from([*"#*\n :1234", "Rating:", "Rationale:", "Type:", "Output for Text ", "N/A", "\n"])).map(
            "".join
        ),
    ),
    st.sampled_from(get_args(Aspect)),
)
def test_hostile_answers(text, aspect):
    """Never an exception but Unparsed, always one value per text."""
    try:
        columns = read(text, aspect)
    except Unparsed as unparsed:
        columns = unparsed.partial
    assert all(len(values) == 2 for values in columns.values())
    assert all(rating is None or 1 <= rating <= 5 for rating in columns["ratings"])
