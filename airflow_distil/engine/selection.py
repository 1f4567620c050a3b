"""Which rows become rows of the output: all of a source, or those of a generator's candidates that it accepts."""

from __future__ import annotations

from abc import ABC, abstractmethod

from airflow_distil.datasets.log import Kind
from airflow_distil.engine.progress import Tally
from airflow_distil.engine.rows import Fate
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.generator import GeneratorTask

__all__ = ["HOPELESS", "Selection", "selection"]

# Nothing out of so many is no bad luck. Of a task that accepts one candidate in ten, one run in 200 is stopped in vain; and it
# is what a task that cannot work costs, or a server that is not there delays, however many rows there are.
HOPELESS = 50


class Selection(ABC):
    """Decides about the rows that were begun, and counts what it decided.

    :param tally: counts rows of the output.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._open = 0

    @property
    def missing(self) -> float:
        """Rows of the output that are still missing; infinite where all rows of the source are wanted."""
        return float("inf")

    def has_room(self, window: int) -> bool:
        """Tell whether another row may begin.

        :param window: most rows that may be begun and not decided about.
        """
        return self._open < min(window, self.missing)

    def begin(self) -> None:
        """Note that the next row of the source has begun."""
        self._open += 1

    @abstractmethod
    def take(self, ordinal: int, fates: list[Fate]) -> list[tuple[int, list[Fate]]]:
        """Take in what became of a row, and return what that makes of the output.

        :param ordinal: number of the row in the source.
        :return: what is decided by this: rows of the output with their `distil_row`, one for each sample; none, or several.
        :raises TooManyFailures: if the dataset must not be published any more.
        """


class _EveryRow(Selection):
    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._heard = False
        self._unheard = 0

    def take(self, ordinal: int, fates: list[Fate]) -> list[tuple[int, list[Fate]]]:
        self._open -= 1
        for fate in fates:
            self.tally.add(ordinal, fate.status, fate.error, transient=fate.transient)
        if not self._heard and fates[0].asked:
            self._listen(fates)
        return [(ordinal, fates)]

    def _listen(self, fates: list[Fate]) -> None:
        """Take in a row that was asked when nothing was heard of the model yet in this attempt."""
        kinds = {exchange.fact.kind for fate in fates for outcome in fate.outcomes for exchange in outcome.trace}
        self._heard = kinds != {Kind.TRANSIENT}
        self._unheard += not self._heard
        # Each was tried for half a minute at least: by the ratio alone, a large source takes hours to fail.
        if self._unheard >= HOPELESS and self.tally.max_failure_ratio < 1:
            raise self.tally.unheard(self._unheard)


class _Accepted(Selection):
    """Accepts candidates in their order, whichever is answered first.

    No more candidates are open than rows are missing, so no candidate is ever paid for that turns out not to be needed.
    """

    def __init__(self, tally: Tally, task: GeneratorTask) -> None:
        super().__init__(tally)
        # A copy for this run: what it remembers of accepted rows must begin anew in the next one.
        self._task = task.fresh()
        self._waiting: dict[int, Fate] = {}
        self._judged = 0

    @property
    def missing(self) -> float:
        return self._task.num_rows - self.tally.done

    def take(self, ordinal: int, fates: list[Fate]) -> list[tuple[int, list[Fate]]]:
        [self._waiting[ordinal]] = fates
        decided = []
        while fate := self._waiting.pop(self._judged, None):
            if self._judge(self._judged, fate):
                decided.append((self.tally.done - 1, [fate]))
            self._judged += 1
            self._open -= 1
        return decided

    def _judge(self, candidate: int, fate: Fate) -> bool:
        if fate.status != "ok":
            self.tally.lose(candidate, fate.status, fate.error, transient=fate.transient)
        elif self._accepts(candidate, fate):
            self.tally.add(candidate, "ok")
            return True
        else:
            self.tally.lose(candidate, "rejected", "not accepted by the task")
        asked = candidate + 1
        if self._task.candidates - asked < self.missing:
            raise self.tally.too_few(f"{self._task.candidates} candidates cannot make {self._task.num_rows} rows")
        if asked >= HOPELESS and not self.tally.done:
            raise self.tally.too_few(f"None of the first {asked} candidates became a row")
        return False

    def _accepts(self, candidate: int, fate: Fate) -> bool:
        try:
            return self._task.accept(dict(fate.columns))
        except Exception as error:
            raise TaskDefinitionError(
                f"accept of task {self._task.name!r} raised over candidate {candidate}: {type(error).__name__}: {error}. "
                "The answers are kept."
            ) from error


def selection(task: Task, tally: Tally) -> Selection:
    """Return the selection of a task, for one run."""
    return _Accepted(tally, task) if isinstance(task, GeneratorTask) else _EveryRow(tally)
