"""What the tasks have in common that evolve a text of each row, step by step."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, ClassVar, Self

from pydantic import PositiveInt, model_validator

from airflow_distil.conversation import Answer, Chat, Row, Unparsed
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.frames import Frame
from airflow_distil.tasks.labels import filled
from airflow_distil.tasks.mutation import ask_for_text, check_mutations, choose, read_evolution

__all__ = ["Evolution", "History"]


@dataclass(slots=True)
class History:
    """How a text evolved.

    :param original: the text that it started from.
    :param texts: text after each evolution; after one that failed, the text before it.
    :param mutations: kind that was chosen for each.
    :param errors: why each failed, or None.
    """

    original: str
    texts: list[str] = field(default_factory=list)
    mutations: list[str] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)

    @property
    def columns(self) -> Row:
        """The columns that tell how it went."""
        return {"mutations": self.mutations, "mutation_errors": self.errors}


class Evolution(Task):
    """Evolves one column of each row.

    A request that the model's provider refuses (`BadRow`, for example a content filter) fails the whole row.

    :param num_evolutions: evolutions, one after the other, of each row.
    :param store_evolutions: True writes the text after each evolution, not only the last.
    :param mutation_templates: kind of mutation → Jinja2 prompt; each evolution chooses one of them at random.
    """

    has_json_form = False
    history_types: ClassVar[dict[str, Any]] = {"mutations": list[str], "mutation_errors": list[str | None]}
    evolves: ClassVar[str]
    """The column that evolves; among the `inputs`."""
    frame: ClassVar[Frame]
    seen_as: ClassVar[dict[str, str]]
    """Input → its name in the templates."""

    num_evolutions: PositiveInt
    store_evolutions: bool = False
    mutation_templates: dict[str, str]

    @model_validator(mode="after")
    def _check_templates(self) -> Self:
        check_mutations(self.mutation_templates, list(self.seen_as.values()))
        return self

    @property
    def inputs(self) -> list[str]:
        return list(self.seen_as)

    @property
    def outputs(self) -> list[str]:
        return [*self.output_types, "model_name"]

    def evolve(self, input: Row, rng: Random) -> Generator[Chat, Answer, History]:
        """Evolve the text of a row.

        :raises Unparsed: if no evolution succeeded.
        """
        values = {name: filled(input, column) for column, name in self.seen_as.items()}
        evolving = self.seen_as[self.evolves]
        beside = "\n".join(value for name, value in values.items() if name != evolving)
        history = History(values[evolving])
        for _ in range(self.num_evolutions):
            kind = choose(self.mutation_templates, rng)
            text, error = values[evolving], None
            try:
                prompt = templates.render(self.mutation_templates[kind], **values)
                read = partial(read_evolution, previous=text, frame=self.frame, beside=beside)
                text = yield from ask_for_text(prompt, read, self.max_parse_retries)
            except Unparsed as unparsed:
                error = unparsed.reason
            values[evolving] = text
            history.texts.append(text)
            history.mutations.append(kind)
            history.errors.append(error)
        if None not in history.errors:
            # What did not evolve is no evolution, however often it was tried: only the trying is kept.
            raise Unparsed(f"no evolution succeeded; the last: {history.errors[-1]}", partial=history.columns)
        return history

    def told(self, history: History, *, include_original: bool) -> str | list[str]:
        """Return what is written of the texts: the last one, or a list, oldest first."""
        texts = history.texts if self.store_evolutions else history.texts[-1:]
        if include_original:
            return [history.original, *texts]
        return texts if self.store_evolutions else texts[0]
