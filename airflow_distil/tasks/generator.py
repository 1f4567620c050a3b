"""The contract of a task that needs no source: it makes rows out of numbered candidates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Self

from pydantic import PositiveInt

from airflow_distil.conversation import Row
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks.base import Task

__all__ = ["GeneratorTask"]

# Half of all candidates lost is a bad night, nine in ten is a task that does not work; it should not go on for ever.
CANDIDATES_PER_ROW = 10


class GeneratorTask(Task):
    """A task without a source. It is asked for candidates 0, 1, 2… until `num_rows` of them were accepted.

    A subclass has the properties `outputs` and `num_rows` and implements `converse` (or `format_input` and `format_output`),
    which see `candidate` (int), the candidate's number, as their only input. What differs from one candidate to the next comes
    from it and from `rng`, which is seeded with it. Candidates that failed, could not be read or were not accepted are no rows:
    they are outside `max_failure_ratio`, and the manifest counts them as `lost`. If none of the first 50 becomes a row, the
    task gives up.

    :param max_candidates: most candidates that are asked for; by default 10 times the rows.
    """

    max_candidates: PositiveInt | None = None

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows to make: exactly so many are published."""

    def accept(self, row: Row) -> bool:  # noqa: ARG002 - for tasks that choose
        """Tell whether a candidate becomes a row.

        Called in the order of the candidates, whichever was answered first, and on a fresh copy of the task in each pass: it
        may remember what it accepted before (in a pydantic private attribute), to leave out duplicates.

        :param row: the output columns of a candidate that is ok.
        """
        return True

    @property
    def inputs(self) -> list[str]:
        return ["candidate"]

    @property
    def candidates(self) -> int:
        """Most candidates that are asked for."""
        return self.max_candidates or CANDIDATES_PER_ROW * self.num_rows

    def fresh(self) -> Self:
        """Return a copy that has accepted nothing yet."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields if name != "llm"})

    def check(self) -> None:
        super().check()
        if self.num_generations > 1 or self.group_generations:
            raise TaskDefinitionError(
                f"Task {self.name!r} makes one row of each candidate: leave out num_generations and group_generations, and ask "
                f"for more rows instead of {self.num_rows}."
            )
        if self.input_mappings:
            raise TaskDefinitionError(f"Task {self.name!r} reads no source, so input_mappings has nothing to map.")
        if self.candidates < self.num_rows:
            raise TaskDefinitionError(
                f"Task {self.name!r} is to make {self.num_rows} rows of at most max_candidates={self.candidates} candidates."
            )

    def process(self, inputs: list[Row] | None = None) -> Iterator[list[Row]]:
        """Run the task, without Airflow; also from inside a running event loop.

        :param inputs: none; a generator reads no rows.
        :return: an iterator over one list: the rows, each with its output columns and `model_name`.
        :raises TaskDefinitionError: if it is given rows.
        :raises TooManyFailures: if `max_candidates` did not give enough rows.
        :raises Fatal: if the model cannot be used at all.
        """
        if inputs:
            raise TaskDefinitionError(f"Task {self.name!r} makes its rows itself; it was given {len(inputs)}.")
        yield from super().process([])
