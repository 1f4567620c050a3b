"""The next message of a chat."""

from __future__ import annotations

import pytest

from airflow_distil.tasks import ChatGeneration

USER = {"role": "user", "content": "hi"}


def test_messages_are_sent_as_they_are():
    """With tool calls, names and parts."""
    messages = [
        {"role": "system", "content": "s"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    assert ChatGeneration().format_input({"messages": messages}) == messages


def test_nulls_of_a_column_of_structs_are_left_out():
    """Every message has every field there; endpoints refuse `"name": null`. A null content is the API's own."""
    messages = [{"role": "user", "content": "hi", "name": None, "tool_calls": None}]
    assert ChatGeneration().format_input({"messages": messages}) == [USER]


@pytest.mark.parametrize("messages", [None, "hi", [], [1], [{"content": "x"}], [USER, {"role": "assistant", "content": "x"}]])
def test_what_is_no_question_fails_its_row(messages):
    """Distilabel 1.5.3: an empty list was an IndexError; and a chat that ends with the assistant is answered by nobody."""
    with pytest.raises((TypeError, ValueError), match="messages"):
        ChatGeneration().format_input({"messages": messages})


def test_columns():
    """What the operator checks by."""
    assert (ChatGeneration().inputs, ChatGeneration().outputs) == (["messages"], ["generation", "model_name"])
    assert ChatGeneration().format_output("x", {}) == {"generation": "x"}
