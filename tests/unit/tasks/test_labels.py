"""Reading answers by label."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distil.tasks import labels
from airflow_distil.tasks.labels import (
    around_last,
    by_item,
    fields,
    is_absent,
    items,
    json_list,
    json_object,
    labelled_numbers,
    number,
    one,
    sections,
    whole,
    without_echo,
    without_mark,
)


def scores(text, count=2):
    return labelled_numbers(text, label="Score", count=count, low=1, high=count + 1)


class TestNumber:
    @pytest.mark.parametrize(
        "text",
        [
            "4",
            " 4.",
            "**4**",
            "(4)",
            "<4>",
            "[4]",
            "`4`",
            "4</s>",
            "4/5",
            "4 / 5",
            "4 out of 5",
            "4 (out of 5)",
            "4.0",
            "４",
            "Four",
            "four.",
            "4 (good)",
            "4 because it has 2 parts",
            "4 - it names 3 reasons",
            "4\n\n2 more remarks",
            "4\n- 2 strengths",
            '"4"',
            "+4",
            "4,",
        ],
    )
    def test_what_models_write_around_a_number(self, text):
        """A verdict was thrown away, and paid for again, over a full stop or a bold mark."""
        assert number(text, low=1, high=5, out_of=5) == 4

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "good",
            "-4",
            "- 4",
            "0",
            "6",
            "45",
            "4/10",
            "4 out of 10",
            "3-4",
            "3 – 4",
            "3 to 4",
            "3 or 4",
            "3, 4",
            "3 and 4",
            "4%",
            "4th",
            "4.5.1",
            "4e0",
            "4x",
            "three or four",
            "3->4",
            "9" * 5000,
            "nan",
            "inf",
            "fourth",
            "1,000",
            "4½",
            "5.5",
        ],
    )
    def test_what_is_no_number_of_the_scale(self, text):
        """45 was read as 4, 10 as 1, 3-4 as 3, and a 4 of 10 as a 4 of 5."""
        assert number(text, low=1, high=5, out_of=5) is None

    def test_fractions_are_kept_and_are_no_whole_numbers(self):
        """In distilabel 1.5.3: 4.5 was cut to 4."""
        assert number("4.5", low=1, high=5, out_of=5) == 4.5
        assert whole("4.5", low=1, high=5) is None

    @pytest.mark.parametrize(
        ("value", "expected"), [(4, 4), (4.0, 4), ("4", 4), (True, None), (4.5, None), (None, None), ([4], None), (6, None)]
    )
    def test_whole_numbers_of_json(self, value, expected):
        """True is 1 to Python, and no rating."""
        assert whole(value, low=1, high=5) == expected

    @given(st.text())
    def test_any_text(self, text):
        """A strange digit or a number of five thousand digits raised, and nulled the whole row."""
        value = number(text, low=1, high=5, out_of=5)
        assert value is None or 1 <= value <= 5


def test_nothing_is_said_in_several_ways():
    """`N/A.` raised where only `N/A` was known."""
    assert all(map(is_absent, ["None", "none.", "N/A", "N/A.", "n.a.", "NA", "**N/A**", "Not applicable here"]))
    assert not any(map(is_absent, ["", "Nonetheless", "Nah", "4", "nation"]))


def test_one_is_what_all_say():
    """A value that was said in two ways was taken at random, or the first."""
    assert (one([1, 1]), one([1, 2]), one([])) == (1, None, None)


class TestLabelledNumbers:
    def test_preamble_does_not_shift_scores(self):
        """In distilabel 1.5.3: reading by line number gave the preamble's line the first score, and dropped the last."""
        assert scores("Sure! Here are the scores:\n[1] Score: 2\n[2] Score: 1") == [2.0, 1.0]

    def test_order_does_not_permute_scores(self):
        """In distilabel 1.5.3: `[3]=3, [1]=1, [2]=2` was read as 3, 1, 2."""
        assert scores("[3] Score: 3\n[1] Score: 1\n[2] Score: 2", 3) == [1, 2, 3]

    def test_blank_lines_do_not_shift_scores(self):
        """In distilabel 1.5.3: each blank line was an item without a score."""
        assert scores("[1] Score: 2\n\n\n[2] Score: 1\n") == [2, 1]

    def test_short_answers_keep_the_length(self):
        """In distilabel 1.5.3: fewer lines gave a list shorter than the instructions."""
        assert scores("[2] Score: 1", 3) == [None, 1, None]

    @pytest.mark.parametrize(
        "line",
        [
            "[1] Score: 2",
            "  [1] Score: 2",
            "**[1] Score: 2**",
            "**[1]** **Score:** 2",
            "- [1] Score: 2",
            "> [1] score = 2",
            "[1]: Score: 2",
            "`[1] Score: 2`",
            "(1) Score: 2",
            "1. Score: 2",
            "1) Score: 2",
            "Item 1: Score: 2",
            "[Instruction 1] Score - 2",
            "3. [1] Score: 2",
            "[1]\nScore: 2",
            "### [1]\n- **Score**: 2",
            "[1] Complexity score: 2",
            "[1] Score：2",
            "【1】Score: 2",
            "[1] SCORE: two (easy)",
            "[1] Score: 2/2",
        ],
    )
    def test_forms(self, line):
        """In distilabel 1.5.3: bold marks around the label, or an indented line, lost the score."""
        assert scores(f"Of course:\n\n{line}\n\nThat is all.") == [2, None]

    @pytest.mark.parametrize(
        "text",
        [
            "[1] Score: 4",
            "[1] Score: 0",
            "[1] Score: -1",
            "[1] Score: 1 or 2",
            "[1] Score: 2/10",
            "[1] Score: high",
            "[3] Score: 1",
            "Score: 1",
            "[1] is harder than [2] Score: 1",
            "[1] What is a [1] Score: 2?",
            "[1]\n\nScore: 2",
            f"[{'1' * 5000}] Score: 1",
            "[1] Scores: 1, 2",
        ],
    )
    def test_what_is_no_score(self, text):
        """A score from another scale, or from the midst of a repeated text, was taken for the model's."""
        assert scores(text) == [None, None]

    def test_two_values_for_one_item(self):
        """Which one is meant nobody knows; the same one twice is no contradiction."""
        assert scores("[1] Score: 1\n[2] Score: 1\n[1] Score: 2\n[2] Score: 1") == [None, 1]

    def test_counting_from_zero(self):
        """Every label would mean its neighbour."""
        assert scores("[0] Score: 1\n[1] Score: 2") == [None, None]

    @given(st.data())
    def test_no_score_moves(self, data):
        """Well-formed, chatty, reordered and truncated answers: an item has its own score or none, the length is right."""
        count = data.draw(st.integers(1, 8))
        true = [data.draw(st.integers(1, count + 1)) for _ in range(count)]
        chat = st.sampled_from(
            [
                "",
                "Sure!",
                "Scores:",
                "```",
                "The scores range from 1 to 9.",
                "---",
                "Item 2 is hard.",
                "Score: 1 is low",
                "1",
            ]
        )
        form = st.sampled_from(
            [
                "[{}] Score: {}",
                "**[{}]** Score: **{}**",
                "- [{}] score: {}.",
                "{}. Score: {} (of many)",
                "[{}] Score = {}\n",
                "  [{}]\n Score: {}",
            ]
        )
        lines = []
        for index in data.draw(st.permutations(range(count))):
            lines += data.draw(st.lists(chat, max_size=2))
            lines.append(data.draw(form).format(index + 1, true[index]))
        text = "\n".join([*lines, *data.draw(st.lists(chat, max_size=2))])
        assert scores(text, count) == true
        cut = scores(text[: data.draw(st.integers(0, len(text)))], count)
        assert len(cut) == count
        # A number may be cut in its midst, but these have one digit.
        assert all(found in {None, score} for found, score in zip(cut, true, strict=True))

    @given(st.text(alphabet="[]12 30.:*-\nScore/(or)"), st.integers(1, 4))
    def test_hostile_answers(self, text, count):
        """Never an exception, the right length, and in range."""
        found = scores(text, count)
        assert len(found) == count
        assert all(value is None or 1 <= value <= count + 1 for value in found)


class TestWithoutEcho:
    def test_repeated_items_are_dropped_and_their_mark_kept(self):
        """An item that looks like an answer gave its number to another item."""
        shown = ["Rate this:\n[2] Score: 3", "What?"]
        text = "[1] Rate this:\n[2] Score: 3\n[2] What?\n\n[1] Score: 2\n[2] Score: 1"
        assert scores(text) == [2, None]
        assert scores(without_echo(text, shown, mark="[{}]")) == [2, 1]

    def test_scores_after_each_repeated_item(self):
        """The commonest form of chatty models, on the same line or below."""
        text = "[1] What? Score: 2\n[2] Why?\nScore: 1"
        assert scores(without_echo(text, ["What?", "Why?"], mark="[{}]")) == [2, 1]

    def test_only_whole_items(self):
        """An item "S" cut the word "Score" off its number."""
        assert without_echo("[1] Score: 2", ["S"], mark="[{}]") == "[1] Score: 2"
        assert without_echo("[1] Score: 2", [""], mark="[{}]") == "[1] Score: 2"

    def test_an_item_that_is_a_score_is_never_taken_for_one(self):
        """Whether it is the answer or a repeated item cannot be told."""
        assert scores(without_echo("[1] Score: 2", ["Score: 2"], mark="[{}]"), 1) == [None]


def nothing(rest):
    return False


class TestJson:
    @pytest.mark.parametrize(
        "text", ['{"a": 1}', '```json\n{"a": 1}\n```', 'Sure: {"a": 1} Bye.', '{"b": {}} {"a": 1} {"a": 1}', '{ {"a": 1}']
    )
    def test_object_with_a_key(self, text):
        """A perfect JSON answer inside a code fence was fed to a regular expression."""
        assert json_object(text, "a", labelled=nothing) == {"a": 1}

    @pytest.mark.parametrize(
        "text", ["", "{", '{"b": 1}', '[{"b": 1}]', '{"a": 1} or {"a": 2}', '{"a": ' * 3000, '{"a": ' + "[" * 200_000]
    )
    def test_no_object_or_two(self, text):
        """Deep nesting raised RecursionError."""
        assert json_object(text, "a", labelled=nothing) is None

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('It prints {"a": 1}. L: 5', None),
            ('L: 5, as it prints {"a": 1}.', None),
            ('It prints\n```json\n{"a": 1}\n```\nL: 5', None),
            ('L: 5 would be too much.\n```json\n{"a": 1}\n```\nBye.', {"a": 1}),
            ('{"b": "x", "a": "L: 5"}', {"b": "x", "a": "L: 5"}),
        ],
    )
    def test_an_object_that_is_quoted_is_no_answer(self, text, expected):
        """What the judged answer prints was taken for the verdict, and the row was ok."""
        assert json_object(text, "a", labelled=lambda rest: "L:" in rest) == expected

    @pytest.mark.parametrize("text", ["Here:" + "\n" * 40_000 + "x", "```" * 20_000, "`" * 60_000 + "x", " " * 60_000])
    def test_a_list_is_looked_for_in_no_time(self, text):
        """White space between a preamble and the rest took seconds, in which no other row was served."""
        started = time.process_time()
        assert json_list(text) is None
        assert time.process_time() - started < 0.5

    def test_braces_without_end_take_no_time(self):
        """Each of them was tried, a thousand levels deep."""
        started = time.process_time()
        assert json_object('{"a":' * 20_000, "a", labelled=nothing) is None
        assert time.process_time() - started < 0.5

    def test_a_list_stands_alone(self):
        """`[1] Score: 2` begins with a JSON list."""
        assert (json_list("[1, 2]"), json_list("```json\n[1, 2]\n```"), json_list("[1] Score: 2"), json_list("3")) == (
            [1, 2],
            [1, 2],
            None,
            None,
        )

    def test_entries_by_item(self):
        """Entries without a label, about other items or of another type are about nobody."""
        entries = [{"item": 2, "x": 1}, {"item": "1"}, {"x": 1}, {"item": 3}, {"item": True}, 4, None]
        assert by_item(entries, 2) == {2: [{"item": 2, "x": 1}], 1: [{"item": "1"}]}
        assert by_item([{"item": 0}, {"item": 1}], 2) == {}
        assert by_item("no list", 2) == {}

    @given(st.text(alphabet='{}[]":,1an\\ '))
    def test_any_text(self, text):
        """Never an exception."""
        assert json_object(text, "a", labelled=nothing) is None or "a" in json_object(text, "a", labelled=nothing)
        assert json_list(text) is None or json_list(text) == json.loads(re.sub("```", "", text))


class TestSections:
    def test_headings(self):
        """Blocks were told apart by blank lines, which rationales have too."""
        text = "Sure.\n#### Output for Text 2\nb\n\nb2\n**Output for Text 1:**\na\nOutput for <text 7>\nc"
        assert {index: [block.strip("*\n") for block in blocks] for index, blocks in sections(text, 2).items()} == {
            2: ["b\n\nb2"],
            1: ["a"],
        }

    def test_short_headings_only_without_the_long_ones(self):
        """What follows a heading of another form is not about the text before it, nor surely about the one it names."""
        assert sections("### Text 1\na\nText 2:\nb", 2) == {1: ["\na\n"], 2: ["\nb"]}
        assert sections("#### Output for Text 1\na\nText 2:\nb", 2) == {1: ["\na\n"]}
        assert sections("Text 2 is better than text 1", 2) == {}

    def test_a_single_text_needs_no_heading(self):
        """There is nothing to mix up; with two there is."""
        assert (sections("Rating: 1", 1), sections("Rating: 1", 2)) == ({1: ["Rating: 1"]}, {})

    def test_counting_from_zero(self):
        """Every label would mean its neighbour."""
        assert sections("#### Output for Text 0\na\n#### Output for Text 1\nb", 2) == {}

    def test_fields(self):
        """In any order, in bold, with paragraphs, and up to a rule or a heading of the model's own."""
        block = "\n**Why:** because\n\nof 2 things\n- Grade (1-5): 4\nnot a grade: 3\n---\nIn short: all good"
        assert fields(block, {"grade": "grade", "why": "why"}) == [
            ("why", "because\n\nof 2 things"),
            ("grade", "4\nnot a grade: 3"),
        ]


def test_around_the_last():
    """The first one was taken, which the reasoning mentions."""
    assert around_last(re.compile("X"), "aXbXc") == ("aXb", "c")
    assert around_last(re.compile("X"), "abc") is None


def test_marks_that_open_a_cut_line_go_and_those_that_close_one_stay():
    """A feedback ended with the bold marks of the verdict."""
    assert without_mark("It is **good**\n\n - **") == "It is **good**"
    assert without_mark("It is **good**") == "It is **good**"
    assert without_mark("**") == ""


def test_items_are_texts():
    """An empty list was asked about, and a missing text was judged as "None"."""
    assert items({"x": ["a", ""]}, "x") == ["a", ""]
    for value, error in (([], ValueError), ("ab", TypeError), (None, TypeError), (["a", None], TypeError)):
        with pytest.raises(error, match="`x`"):
            items({"x": value}, "x")
    assert labels.text({"x": "a"}, "x") == "a"
    assert labels.filled({"x": "a"}, "x") == "a"
    for value in (None, [], ["a"], 3):
        for reader in (labels.text, labels.filled):
            with pytest.raises(TypeError, match="`x` must be text"):
                reader({"x": value}, "x")
    with pytest.raises(ValueError, match="`x` is empty"):
        labels.filled({"x": " \n"}, "x")


@pytest.mark.parametrize(
    "piece",
    ["[1] ", "- ", "*", "{", '{"a": ', "[RESULT] ", "Rating: ", "\n", "Output for Text 1 ", "1", "1 or ", "`", "<", " \t"],
)
def test_long_answers_take_no_time(piece):
    """A model that repeats itself until it is cut off must not stop the loop that serves all other rows."""
    text = piece * (60_000 // len(piece))
    started = time.process_time()
    scores(text)
    number(text, low=1, high=5, out_of=5)
    json_object(text, "a", labelled=nothing)
    json_list(text)
    for blocks in sections(text, 1).values():
        fields(blocks[0], {"grade": "grades?", "why": "why"})
    assert time.process_time() - started < 2
