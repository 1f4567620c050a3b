"""A task made of one generator function; what `@task.distil` builds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from random import Random
from typing import Any

from pydantic import Field

from airflow_distil.conversation import Answer, Chat, Complete, Conversation, Embed, Rank, Request, Row, user
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks.base import Task

__all__ = ["Function"]


class Function(Task):
    """A conversation written as a generator function over one row.

    The function yields a prompt (text or messages) and receives the answer's text, or yields a request and receives the whole
    `Answer`; a list is asked at once and answered by a list. It returns the output columns. It asks again by itself what it
    cannot read: `max_parse_retries` is for tasks that are not functions.

    :param function: `def f(row): text = yield prompt; return {...}`. A second parameter receives seeded random numbers.
    :param columns: output column → Python type.
    :param reads: columns that must be there; the function sees the whole row in any case.
    """

    # Not in the repr, which has to be the same in each process: a function shows its address there.
    function: Callable[..., Generator[Any, Any, Row]] = Field(exclude=True, repr=False)
    columns: dict[str, Any]
    reads: list[str] = []

    @property
    def output_types(self) -> dict[str, Any]:  # type: ignore[override]
        return self.columns

    @property
    def inputs(self) -> list[str]:
        return self.reads

    @property
    def outputs(self) -> list[str]:
        return [*self.columns, "model_name"]

    def check(self) -> None:
        super().check()
        if not inspect.isgeneratorfunction(self.function):
            raise TaskDefinitionError(
                f"{self.function.__name__} must be a generator function: `text = yield prompt`, then `return {{...}}` with "
                f"{', '.join(self.columns)}."
            )

    def converse(self, input: Row, rng: Random) -> Conversation:
        takes_rng = len(inspect.signature(self.function).parameters) > 1
        talk = self.function(input, rng) if takes_rng else self.function(input)
        try:
            said = next(talk)
            while True:
                if isinstance(said, list) and not _is_chat(said):
                    answers = yield [self._request(one) for one in said]
                    said = talk.send([self._reply(one, answer) for one, answer in zip(said, answers, strict=True)])
                else:
                    answer = yield self._request(said)
                    said = talk.send(self._reply(said, answer))
        except StopIteration as end:
            columns: Row = end.value
            return columns

    def _request(self, said: Any) -> Request:
        if isinstance(said, Chat | Complete | Embed | Rank):
            return said
        if isinstance(said, str):
            return Chat([user(said)], response_format=self.response_format)
        if _is_chat(said):
            return Chat(said, response_format=self.response_format)
        raise TaskDefinitionError(f"{self.function.__name__} must yield text, messages or requests, not {type(said).__name__}")

    def _reply(self, said: Any, answer: Answer) -> Any:
        if isinstance(said, Chat | Complete | Embed | Rank):
            return answer
        self._check_structure(answer.text)
        return answer.text


def _is_chat(said: Any) -> bool:
    return isinstance(said, list) and bool(said) and all(isinstance(message, dict) for message in said)
