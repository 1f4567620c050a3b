"""Instructions about a text: how they are read, completed and counted."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_distil.conversation import Answer, Chat, Unparsed
from airflow_distil.tasks.self_instruct import SelfInstruct, distinct, read_instructions
from tests.unit.engine.lab import Model

ROW = {"input": "the tides of the North Sea"}


def talk(task: SelfInstruct, *answers: Answer | str | None) -> tuple[object, list[Chat]]:
    """Hold a conversation; return its columns (or the `Unparsed` that it raised) and the requests."""
    asked: list[Chat] = []
    conversation = task.converse(ROW, Random(0))
    asked.append(next(conversation))
    for answer in answers:
        try:
            asked.append(conversation.send(answer if isinstance(answer, Answer) else Answer(text=answer)))
        except StopIteration as end:
            return end.value, asked
        except Unparsed as unparsed:
            return unparsed, asked
    raise AssertionError("the conversation did not end")


def read(text: str | None, count: int = 2) -> list[str]:
    columns = SelfInstruct(num_instructions=count).format_output(text, ROW)
    return columns["instructions"]


class TestPrompt:
    def test_says_what_was_given(self):
        """A parameter that does not reach the model."""
        task = SelfInstruct(
            num_instructions=7, criteria_for_query_generation="Short.", application_description="A quiz", max_parse_retries=0
        )
        [message] = task.format_input(ROW)
        for part in ("exactly 7", "\nShort.\n", "A quiz", ROW["input"], "line"):
            assert part in message["content"]
        assert "JSON" not in message["content"]

    def test_asks_for_json_only_where_it_is_wanted(self):
        """A prompt that asks for lines beside a schema that asks for JSON: models mix the two."""
        [message] = SelfInstruct(structured_output=True).format_input(ROW)
        assert '{"instructions": [' in message["content"]
        assert "line of its own" not in message["content"]

    def test_own_template(self):
        """Replaceable, and checked when the task is made."""
        assert (
            SelfInstruct(template="{{ num_instructions }} on {{ input }}").format_input(ROW)[0]["content"].startswith("5 on ")
        )
        with pytest.raises(ValidationError, match="uses topic"):
            SelfInstruct(template="{{ topic }}")

    @pytest.mark.parametrize("value", [None, [], ["tides"], "", " \n", 3])
    def test_what_is_no_text_fails_its_row(self, value):
        """Queries about the word None were paid for."""
        with pytest.raises((TypeError, ValueError), match="`input` "):
            SelfInstruct().format_input({"input": value})

    def test_row_text_is_no_template(self):
        """Braces in a passage would be rendered."""
        assert "{{ 7 * 7 }}" in SelfInstruct().format_input({"input": "{{ 7 * 7 }}"})[0]["content"]


class TestReader:
    @pytest.mark.parametrize(
        "answer",
        [
            "What is a neap tide?\nName the highest tide.",
            "\n\n  What is a neap tide?  \n   \n\t\nName the highest tide.\n\n",
            "1. What is a neap tide?\n2. Name the highest tide.",
            "1) What is a neap tide?\n\n2) Name the highest tide.",
            "- What is a neap tide?\n- Name the highest tide.",
            "* What is a neap tide?\n* Name the highest tide.",
            "• What is a neap tide?\n•Name the highest tide.",
            "**1. What is a neap tide?**\n**2.** Name the highest tide.",
            "Query 1: What is a neap tide?\n**Query 2:** Name the highest tide.",
            "[1] What is a neap tide?\n[2] Name the highest tide.",
            '"What is a neap tide?"\n“Name the highest tide.”',
            '1. "What is a neap tide?"\n2. **"Name the highest tide."**',
            "Sure! Here are two queries:\n\nWhat is a neap tide?\nName the highest tide.",
            "Certainly, two queries about tides.\nWhat is a neap tide?\nName the highest tide.",
            "## Queries\n1. What is a neap tide?\n2. Name the highest tide.\n\nLet me know if you need more!",
            "What is a neap tide?\nName the highest tide.\nI hope these help.",
            "```\nWhat is a neap tide?\nName the highest tide.\n```",
            "1. What is a neap tide?\n---\n2. Name the highest tide.",
            '{"instructions": ["What is a neap tide?", "Name the highest tide."]}',
            'Here:\n```json\n{"instructions": ["1. What is a neap tide?", "Name the highest tide."]}\n```\nEnjoy!',
            '["What is a neap tide?", "Name the highest tide."]',
            'Sure!\n{"instructions": ["What is a neap tide?", "Name the highest tide."]}\n- I hope this helps.',
            'I read it.\nThen I wrote these.\n{"instructions": ["What is a neap tide?", "Name the highest tide."]}\nEnjoy!',
            "Here are two queries about tides.\nWhat is a neap tide?\nName the highest tide.",
        ],
    )
    def test_what_models_add_is_taken_off(self, answer):
        """Distilabel 1.5.3: preamble, numbers, bullets and lines of blanks became instructions."""
        assert read(answer) == ["What is a neap tide?", "Name the highest tide."]

    @pytest.mark.parametrize(
        "instruction",
        [
            "3 apples cost 2 euros, what do 7 cost?",
            "2024 was a leap year: explain why.",
            "Question 2 of the exam asks for a proof; write it.",
            'Sort ["b", "a"] by name.',
            "What does **bold** mean in Markdown?",
            '"Ebb" or "flood": which comes first?',
            "3.14 is close to which constant?",
            "-5 degrees Celsius is how much in Fahrenheit?",
            "Here is what I know: tides turn twice a day. Is that right?",
            "Great Britain has tides: explain them.",
            "Here is a poem about tides; continue it.",
            "Instructions for sailing at low tide, please.",
            "Sure signs of a spring tide: name two.",
            "These questions are about tides; sort them.",
        ],
    )
    def test_an_instruction_is_left_as_it_is(self, instruction):
        """Taking off too much changes what is asked."""
        assert read(f"{instruction}\nName the highest tide.") == [instruction, "Name the highest tide."]
        assert read(f"1. {instruction}\n2. Name the highest tide.") == [instruction, "Name the highest tide."]

    @pytest.mark.parametrize("last", ["Let me know how ebb differs from flood.", "Would you like to live by the sea? Say why."])
    def test_a_last_line_is_left_as_it_is(self, last):
        """What sounds like a farewell may be asked for."""
        assert read(f"Name the highest tide.\n{last}") == ["Name the highest tide.", last]

    @pytest.mark.parametrize(
        "answer",
        [
            '1. What does {"instructions": ["a b", "c d"]} mean?\n2. Name the highest tide.',
            'What does {"instructions": ["a b", "c d"]} mean?\nName the highest tide.',
        ],
    )
    def test_quoted_json_is_no_answer(self, answer):
        """The strings of an example in one of the queries were all that was read."""
        assert read(answer) == ['What does {"instructions": ["a b", "c d"]} mean?', "Name the highest tide."]

    def test_the_number_is_kept_to(self):
        """Distilabel 1.5.3: any number of lines was returned, whatever `num_instructions` was."""
        assert read("one a\ntwo b\nthree c") == ["one a", "two b"]
        with pytest.raises(Unparsed, match="1 of 2 different instructions are missing") as caught:
            read("one a")
        assert caught.value.partial == {"instructions": ["one a"]}

    @pytest.mark.parametrize("answer", [None, "", "  \n", "---", "[[[[" * 3000, '{"instructions": ["a", "b'])
    def test_nothing_to_read_is_unparsed(self, answer):
        """Distilabel 1.5.3: a failed call was an empty list, which looks like an answer."""
        with pytest.raises(Unparsed) as caught:
            read(answer)
        assert caught.value.partial == {}

    def test_duplicates_count_once(self):
        """The same question in other clothes would be paid for again in every later step."""
        with pytest.raises(Unparsed) as caught:
            read("1. What is C?\n2. what  is c\n3. WHAT IS C?", count=3)
        assert caught.value.partial == {"instructions": ["What is C?"]}
        assert distinct(["What is C?", "What is C++?", "What is C#?"]) == ["What is C?", "What is C++?", "What is C#?"]

    def test_json_is_read_whether_or_not_it_was_asked_for(self):
        """Distilabel 1.5.3: JSON went to the reader of lines when the flag was off."""
        answer = json.dumps({"instructions": ["a b", "c d"]}, indent=2)
        assert read(answer) == SelfInstruct(num_instructions=2, structured_output=True).read(answer, ROW)["instructions"]


class TestConversation:
    def test_the_missing_ones_are_asked_for_once(self):
        """Asking for all of them again would throw away what was paid for."""
        columns, asked = talk(SelfInstruct(num_instructions=3), "1. one a\n2. ONE A.", "one a\ntwo b\nthree c\nfour d")
        assert columns == {"instructions": ["one a", "two b", "three c"]}
        assert [message["role"] for message in asked[1].messages] == ["user", "assistant", "user"]
        assert "one a" in asked[1].messages[-1]["content"]
        assert "Exactly 2 more" in asked[1].messages[-1]["content"]

    def test_too_few_are_unparsed_and_kept(self):
        """They must not be lost, nor pass for a full list; and a model that cannot is not asked for ever."""
        unparsed, asked = talk(SelfInstruct(num_instructions=4, max_parse_retries=2), "one a", "one a", "two b")
        assert isinstance(unparsed, Unparsed)
        assert unparsed.partial == {"instructions": ["one a", "two b"]}
        assert len(asked) == 3

    def test_without_retries_it_asks_once(self):
        """`max_parse_retries=0` is for those who pay by the call."""
        unparsed, asked = talk(SelfInstruct(max_parse_retries=0), "one a")
        assert isinstance(unparsed, Unparsed)
        assert len(asked) == 1

    def test_nothing_readable_is_asked_again_with_the_reason(self):
        """There is no list to add to."""
        columns, asked = talk(SelfInstruct(num_instructions=1), '{"instructions": [', "one a")
        assert columns == {"instructions": ["one a"]}
        assert "cannot be used" in asked[1].messages[-1]["content"]
        _, asked = talk(SelfInstruct(num_instructions=1), None, "one a")
        assert asked[0] == asked[1]

    def test_a_line_that_was_cut_off_is_not_an_instruction(self):
        """Half a question looks like a whole one, and nobody would see it in the dataset."""
        cut = Answer(text="one a\ntwo b\nthree c becau", finish_reason="length")
        columns, _ = talk(SelfInstruct(num_instructions=3), cut, "three c because of d")
        assert columns == {"instructions": ["one a", "two b", "three c because of d"]}

    def test_schema_tells_the_server_how_many(self):
        """A server that decodes by the schema would write two or twenty; but a short list must not be lost by the check."""
        task = SelfInstruct(num_instructions=3, structured_output=True)
        columns, asked = talk(task, '{"instructions": ["one a"]}', '{"instructions": ["two b", "three c"]}')
        assert columns == {"instructions": ["one a", "two b", "three c"]}
        counts = [request.response_format["json_schema"]["schema"]["properties"]["instructions"] for request in asked]
        assert [(each["minItems"], each["maxItems"]) for each in counts] == [(3, 3), (2, 2)]
        task.check()

    def test_answer_that_breaks_the_schema_is_asked_again(self):
        """Checked on the way back, as servers that ignore the schema say what they like."""
        task = SelfInstruct(num_instructions=1, structured_output=True)
        columns, asked = talk(task, '{"queries": ["one a"]}', '{"instructions": ["one a"]}')
        assert columns == {"instructions": ["one a"]}
        assert "does not fit the JSON schema" in asked[1].messages[-1]["content"]

    def test_runs_by_itself(self):
        """Types, fate and partial lists as they arrive in rows."""
        model = Model(lambda prompt, _: "1. one a\n2. two b" if "moon" in prompt else "one a")
        task = SelfInstruct(num_instructions=2, llm=model, max_parse_retries=0)
        [rows] = task.process([{"input": "the moon"}, {"input": "the sun"}])
        assert [row["instructions"] for row in rows] == [["one a", "two b"], ["one a"]]
        assert rows[1]["distil_status"] == "unparsed"


# Sentences as models write them, which begin with a word.
WORDS = st.text("abcdefghijklmnopqrstuvwxyzäßж日0123456789", min_size=1, max_size=8)
SENTENCES = st.builds(
    lambda first, rest, end: " ".join([f"Tell{first}", *rest]) + end,
    WORDS,
    st.lists(WORDS | st.sampled_from(["*x*", "(1)", "a: b", '"q"', "-", "2."]), max_size=6),
    st.sampled_from(["?", ".", "!", ""]),
)
LISTS = st.lists(SENTENCES, min_size=1, max_size=8, unique_by=lambda text: distinct([text.casefold().rstrip(".?! ")])[0])
DRESSES = [
    lambda n, text: text, lambda n, text: f"{n}. {text}", lambda n, text: f"{n}) {text}", lambda n, text: f"- {text}",
    lambda n, text: f"**{n}.** {text}", lambda n, text: f"Query {n}: {text}", lambda n, text: f"  • {text}  ",
    lambda n, text: f"({n}) {text}",
]  # fmt: skip
PREAMBLES = ["", "Sure! Here they are:\n\n", "Here are the queries you asked for:\n", "# Output\n", "```\n"]
CLOSINGS = ["", "\n\nLet me know if you need more!", "\n\nI hope this helps", "\n```"]


@given(
    LISTS,
    st.sampled_from(DRESSES),
    st.sampled_from(PREAMBLES),
    st.sampled_from(CLOSINGS),
    st.sampled_from(["\n", "\n\n", "\n \n"]),
)
def test_every_dress_gives_the_same_instructions(wanted, dress, preamble, closing, gap):
    """A remark or a mark that one reader of lines knows and the next does not."""
    answer = preamble + gap.join(dress(n, text) for n, text in enumerate(wanted, 1)) + closing
    assert distinct(read_instructions(answer)) == distinct(wanted)


@given(LISTS, st.data())
def test_a_truncated_list_gives_no_instruction_that_was_not_written(wanted, data):
    """Cut anywhere: what is read are the first ones, the last perhaps cut off, none twice, never more than asked."""
    answer = "\n".join(f"{n}. {text}" for n, text in enumerate(wanted, 1))
    found = read_instructions(answer[: data.draw(st.integers(0, len(answer)))])
    assert found[:-1] == wanted[: max(len(found) - 1, 0)]
    assert not found or wanted[len(found) - 1].startswith(found[-1].removesuffix("*").rstrip())


@given(st.text(max_size=300) | st.none(), st.integers(1, 4), st.booleans())
def test_hostile_answers_end_in_exactly_n_or_unparsed(answer, count, structured):
    """A reader that raises anything else, or returns another number, breaks the promise of the column."""
    task = SelfInstruct(num_instructions=count, structured_output=structured)
    try:
        found = task.read(answer, ROW)["instructions"]
    except Unparsed as unparsed:
        found = unparsed.partial.get("instructions", [])
        assert len(found) < count
    else:
        assert len(found) == count
    assert all(any(map(str.isalnum, each)) for each in found)
    assert distinct(found) == found
