"""Question and answer in the format of Genstruct-7B."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_distil.conversation import Answer, Chat, Complete, Unparsed, resolve
from airflow_distil.tasks.genstruct import Genstruct

ROW = {"title": " Tides ", "content": "The moon pulls the sea.\n"}
PROMPT = (
    "[[[Title]]] Tides\n"
    "[[[Content]]] The moon pulls the sea.\n"
    "\n"
    "The following is an interaction between a user and an AI assistant that is related to the above text.\n"
    "\n"
    "[[[User]]] "
)


def read(text):
    return Genstruct().format_output(text, ROW)


class TestRequest:
    def test_wire_format(self):
        """The model was trained on these very bytes, the space at the end among them."""
        request = next(Genstruct().converse(ROW, Random(0)))
        assert request == Complete(PROMPT, parameters={"stop": ["[[[User]]]", "[[[Title]]]"]})

    def test_sent_raw(self):
        """Distilabel 1.5.3: the prompt went out as a chat message, and the model's chat template wrapped it once more."""
        assert isinstance(next(Genstruct().converse(ROW, Random(0))), Complete)

    def test_its_stop_markers_win_over_those_of_the_connection(self):
        """With others, the model would go on with texts that nobody reads."""
        request = resolve(next(Genstruct().converse(ROW, Random(0))), "m", {"stop": ["###"], "max_tokens": 300})
        assert request.parameters == {"stop": ["[[[User]]]", "[[[Title]]]"], "max_tokens": 300}

    def test_as_chat(self):
        """For servers that have no raw completions."""
        assert next(Genstruct(as_chat=True).converse(ROW, Random(0))) == Chat([{"role": "user", "content": PROMPT}])

    @pytest.mark.parametrize(
        "change", [{"title": None}, {"title": ["t"]}, {"content": None}, {"content": []}, {"content": " "}]
    )
    def test_what_is_no_text_fails_its_row(self, change):
        """A question about the word None was paid for."""
        (column,) = change
        with pytest.raises((TypeError, ValueError), match=f"`{column}` "):
            next(Genstruct().converse(ROW | change, Random(0)))

    def test_a_title_may_be_empty(self):
        """Not every text has one."""
        assert Genstruct().format_input(ROW | {"title": ""})

    def test_row_text_is_no_template(self):
        """Braces in a passage would be rendered."""
        request = next(Genstruct().converse({"title": "t", "content": "{{ 7 * 7 }}"}, Random(0)))
        assert "{{ 7 * 7 }}" in request.prompt

    def test_template_is_checked(self):
        """In the DAG file."""
        with pytest.raises(ValidationError, match="uses text"):
            Genstruct(template="{{ text }}")


class TestReader:
    @pytest.mark.parametrize(
        "answer",
        [
            "Why?\n[[[Assistant]]] Because.",
            " Why? [[[Assistant]]]Because.\n\n",
            "[[[User]]] Why?\n[[[Assistant]]] Because.",
            f"{PROMPT}Why?\n[[[Assistant]]] Because.",
            "Why?\n[[[ assistant ]]]\nBecause.",
            "Why?\n[[[Assistant]]] Because.\n[[[User]]] And then?\n[[[Assistant]]] Nothing.",
            "Why?\n[[[Assistant]]] Because.\n[[[Title]]] Another",
            "Sure, here it is:\n[[[User]]] Why?\n[[[Assistant]]] Because.",
        ],
    )
    def test_one_question_and_its_answer(self, answer):
        """Distilabel 1.5.3: a later `[[[User]]]` turn stayed inside `assistant`."""
        assert read(answer) == {"user": "Why?", "assistant": "Because."}

    def test_lines_are_kept(self):
        """Worked solutions have several."""
        assert read("a\nb\n[[[Assistant]]] c\n\nd") == {"user": "a\nb", "assistant": "c\n\nd"}

    @pytest.mark.parametrize("answer", [None, "", "Why? Because.", "[[[User]]] Why?", "Assistant: Because."])
    def test_without_the_marker_it_is_unparsed(self, answer):
        """Nobody can tell where the question ends."""
        with pytest.raises(Unparsed, match="no \\[\\[\\[Assistant") as caught:
            read(answer)
        assert caught.value.partial == {}

    @pytest.mark.parametrize(
        ("answer", "partial"),
        [
            ("Why?[[[Assistant]]] \n", {"user": "Why?", "assistant": None}),
            ("Why?[[[Assistant]]] [[[User]]] more", {"user": "Why?", "assistant": None}),
            ("[[[Assistant]]] Because.", {"user": None, "assistant": "Because."}),
            ("Q [[[User]]][[[Assistant]]] Because.", {"user": None, "assistant": "Because."}),
        ],
    )
    def test_an_empty_half_is_unparsed(self, answer, partial):
        """Distilabel 1.5.3: an empty answer was "", and its row was good."""
        with pytest.raises(Unparsed, match="is empty") as caught:
            read(answer)
        assert caught.value.partial == partial

    def test_markers_never_end_up_in_a_column(self):
        """The question of one exchange beside the answer of another."""
        assert read("one [[[User]]] two [[[Assistant]]] 2") == {"user": "two", "assistant": "2"}


def talk(task, *answers):
    conversation = task.converse(ROW, Random(0))
    asked = [next(conversation)]
    for answer in answers:
        try:
            asked.append(conversation.send(answer))
        except StopIteration as end:
            return end.value, asked
    raise AssertionError("the conversation did not end")


class TestConversation:
    def test_the_same_is_asked_again(self):
        """A reason appended to a raw prompt would be continued, not read."""
        columns, asked = talk(Genstruct(), Answer(text="Why?"), Answer(text="Why? [[[Assistant]]] Because."))
        assert columns == {"user": "Why?", "assistant": "Because."}
        assert asked[0] == asked[1]

    def test_a_chat_hears_the_reason(self):
        """A model that chats can mend its answer."""
        _, asked = talk(Genstruct(as_chat=True), Answer(text="Why?"), Answer(text="Why? [[[Assistant]]] Because."))
        assert "no [[[Assistant]]]" in asked[1].messages[-1]["content"]

    def test_cut_off_says_what_to_do(self):
        """Raw completions end after 16 tokens on many servers: every row is unparsed, and nothing says why."""
        with pytest.raises(Unparsed, match=r"cut off.*max_tokens"):
            talk(Genstruct(max_parse_retries=0), Answer(text="Why do", finish_reason="length"))


TEXTS = st.text(st.characters(exclude_characters="[]"), min_size=1).filter(str.strip)


@given(TEXTS, TEXTS, st.sampled_from(["", "[[[User]]] ", PROMPT]), st.sampled_from(["", "\n[[[User]]] x", "[[[Assistant]]] y"]))
def test_question_and_answer_never_change_places(question, answer, before, after):
    """Whatever is around them."""
    wanted = {"user": question.strip(), "assistant": answer.strip()}
    assert read(f"{before}{question}\n[[[Assistant]]] {answer}{after}") == wanted


@given(st.lists(st.sampled_from(["[[[User]]]", "[[[Assistant]]]", "[[[Title]]]", "[[[", "]]]", "a", " ", "\n"])).map("".join))
@example("[[[Assistant]]]" * 3)
def test_hostile_answers_give_whole_texts_without_markers_or_unparsed(answer):
    """Another exception, a marker in a column, or half a row that passes for a whole one."""
    try:
        columns = read(answer)
    except Unparsed as unparsed:
        columns = unparsed.partial
        assert None in columns.values() or not columns
    for text in columns.values():
        assert text is None or (text.strip() == text != "" and not {"[[[User]]]", "[[[Assistant]]]"} & {text})
