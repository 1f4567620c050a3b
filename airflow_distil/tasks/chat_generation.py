"""Generate the next assistant message of a chat."""

from __future__ import annotations

from airflow_distil.conversation import ChatType, Row
from airflow_distil.tasks.base import Task

__all__ = ["ChatGeneration"]


class ChatGeneration(Task):
    """Generate the next assistant message of a chat.

    Reads `messages` (list of `{"role", "content"}` in the OpenAI format; the last one is the user's or a tool's). Writes
    `generation` (str).
    """

    output_types = {"generation": str}

    @property
    def inputs(self) -> list[str]:
        return ["messages"]

    @property
    def outputs(self) -> list[str]:
        return ["generation", "model_name"]

    def format_input(self, input: Row) -> ChatType:
        messages = input["messages"]
        if not isinstance(messages, list) or not all(isinstance(message, dict) and "role" in message for message in messages):
            raise TypeError("`messages` must be a list of dicts with `role` and `content`")
        if not messages or messages[-1]["role"] not in {"user", "tool"}:
            raise ValueError("the last of `messages` must be the user's or a tool's, for the assistant to answer")
        # A column of structs has every field in every message; what a message does not have is null there.
        return [
            {name: value for name, value in message.items() if value is not None or name == "content"} for message in messages
        ]

    def format_output(self, output: str | None, input: Row) -> Row:  # noqa: ARG002
        return {"generation": output}
