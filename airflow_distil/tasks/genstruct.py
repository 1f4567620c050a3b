"""Write a question and its answer from a text, with the model Genstruct-7B (idea: Ada-Instruct, arXiv 2310.04484)."""

from __future__ import annotations

import re
from random import Random
from typing import Self

from pydantic import model_validator

from airflow_distil.conversation import Answer, Chat, ChatType, Complete, Conversation, Row, Unparsed, user
from airflow_distil.tasks import labels, templates
from airflow_distil.tasks.base import Task, ask_again
from airflow_distil.tasks.labels import without_thought

__all__ = ["Genstruct"]

# Markers, their order and the one sentence are what NousResearch/Genstruct-7B was trained on; other words make it worse. It
# goes on after "[[[User]]] ", so the space at the end belongs to it.
DEFAULT_TEMPLATE = templates.packaged("genstruct.jinja2")
# The model may go on with another exchange, or another text: nobody reads those, and they would be paid.
STOP = ["[[[User]]]", "[[[Title]]]"]

_ASSISTANT = re.compile(r"\[\[\[\s*Assistant\s*\]\]\]", re.IGNORECASE)
_MARKER = re.compile(r"\[\[\[\s*(?:User|Assistant|Title|Content)\s*\]\]\]", re.IGNORECASE)


class Genstruct(Task):
    """Write a question about a text and its answer, with the model Genstruct-7B (idea: Ada-Instruct, arXiv 2310.04484).

    Reads `title` (str) and `content` (str). Writes `user` (str, the question) and `assistant` (str, its answer); neither is
    empty if the row is ok. Asks the raw completions endpoint, which many servers end after 16 tokens unless `generation_kwargs`
    has `max_tokens`.

    :param as_chat: True sends the prompt as one message of a chat, for servers without `/v1/completions`. Their chat template
        must then pass it through as it is if the model is Genstruct.
    :param template: Jinja2 prompt; sees `title` and `content`.
    """

    output_types = {"user": str, "assistant": str}

    has_json_form = False

    as_chat: bool = False
    template: str = DEFAULT_TEMPLATE

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        templates.check(self.template, self.inputs, needed=self.inputs)
        return self

    @property
    def inputs(self) -> list[str]:
        return ["title", "content"]

    @property
    def outputs(self) -> list[str]:
        return ["user", "assistant", "model_name"]

    def format_input(self, input: Row) -> ChatType:
        return [user(self._prompt(input))]

    def format_output(self, output: str | None, input: Row) -> Row:  # noqa: ARG002
        head, *tail = _ASSISTANT.split(without_thought(output), maxsplit=1)
        if not tail:
            raise Unparsed("there is no [[[Assistant]]] between a question and its answer")
        # A model that repeats the prompt's markers has put its question behind the last of them.
        question = _MARKER.split(head)[-1].strip()
        answer = _MARKER.split(tail[0])[0].strip()
        if not question or not answer:
            read = {"user": question or None, "assistant": answer or None}
            raise Unparsed(f"the {'answer' if question else 'question'} is empty", partial=read)
        return {"user": question, "assistant": answer}

    def converse(self, input: Row, rng: Random) -> Conversation:  # noqa: ARG002
        request: Chat | Complete = Complete(self._prompt(input), parameters={"stop": STOP})
        if self.as_chat:
            # No stop marker: a model that repeats it at the beginning would say nothing at all.
            request = Chat(self.format_input(input))
        for _ in range(self.max_parse_retries):
            answer: Answer = yield request
            try:
                return self._read(answer, input)
            except Unparsed as unparsed:
                if isinstance(request, Chat):
                    request = ask_again(request, answer, unparsed.reason)
        answer = yield request
        return self._read(answer, input)

    def _read(self, answer: Answer, input: Row) -> Row:
        try:
            return self.read(answer.text, input)
        except Unparsed as unparsed:
            if answer.finish_reason != "length":
                raise
            # Completions end after 16 tokens by default, which no one expects who knows chats only.
            reason = f"{unparsed.reason}: it was cut off. Give generation_kwargs more max_tokens"
            raise Unparsed(reason, unparsed.partial) from None

    def _prompt(self, input: Row) -> str:
        # Some texts have no title; without content there is nothing to ask about.
        return templates.render(self.template, title=labels.text(input, "title"), content=labels.filled(input, "content"))
