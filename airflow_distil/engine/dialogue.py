"""One sample of one row: its conversation, told from facts as far as they go.

This is all there is to resuming. A dialogue asks `find` for each of its requests; while the facts are there it goes on, at
the first one missing it stops and says what it wants. Whether a fact came from the network a moment ago or from the log of an
attempt that was killed last night makes no difference, and both passes of the engine use the same code.

A request is known by its *key*: the hash of round, sample, twin, and every request of the conversation up to and including
it. *Twin* is how many earlier rows of the source start with the same request. So a key belongs to one row and one sample, in
every attempt, with no row id and no matching; rows that move keep their answers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any, Literal, Protocol

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from airflow_distil.conversation import (
    Answer,
    Chat,
    Complete,
    Conversation,
    Embed,
    Rank,
    Request,
    Row,
    Unparsed,
    Usage,
    canonical,
    digest,
    resolve,
)
from airflow_distil.datasets.log import Fact, Kind
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.generator import GeneratorTask

__all__ = ["Dialogue", "Outcome", "Speech", "Turn", "answer_of", "check_body", "read_body"]

# As the columns of `distil_metadata` hold it; no call has more tokens.
_Count = Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True, slots=True)
class Turn:
    """A request of a dialogue.

    :param content: its canonical form.
    :param key: what it is known by in the log.
    :param step: its position in the conversation.
    """

    request: Request
    content: bytes
    key: bytes
    step: int

    @property
    def prompt(self) -> str:
        """The canonical form, to be shown."""
        return self.content.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a dialogue ended.

    :param columns: the task's outputs, under the task's names.
    :param error: why it is not ok.
    :param trace: each request with its fact, in order.
    :param transient: True if it failed in a way that the next attempt may not.
    """

    status: Literal["ok", "unparsed", "failed"]
    columns: Mapping[str, Any]
    error: str | None
    trace: list[tuple[Turn, Fact]]
    transient: bool = False


class Finder(Protocol):
    """Looks up the fact of a key; with `own`, only among those of this ask."""

    def __call__(self, key: bytes, *, own: bool) -> Fact | None: ...


@dataclass(frozen=True, slots=True)
class Speech:
    """What all dialogues of a run have in common.

    :param model: name of the model, sent and hashed with each request.
    :param parameters: the LLM's parameters.
    :param round: round of answers; a new one asks everything anew.
    :param ask: 16 bytes; answers of other asks hold, unless they cannot be parsed.
    :param read: checks the output columns' types; raises `Unparsed`.
    """

    task: Task
    model: str
    parameters: Mapping[str, Any]
    round: int
    ask: bytes
    read: Callable[[Row], Row]


@dataclass(slots=True)
class Dialogue:
    """The conversation of one sample of one row.

    :param input: the row, under the task's names.
    :param count_twin: given the hash of the first request, returns how many earlier rows start with it.
    """

    speech: Speech
    input: Row
    ordinal: int
    sample: int
    count_twin: Callable[[bytes], int]
    first: Turn | None = field(default=None, init=False)
    _talk: Conversation = field(init=False)
    _rng: Random = field(init=False)
    _seed: bytes = field(init=False)
    _twin: int | None = field(init=False, default=None)
    _chain: bytes = field(init=False, default=b"")
    _turns: list[Turn] = field(init=False, default_factory=list)
    _listed: bool = field(init=False, default=False)
    _trace: list[tuple[Turn, Fact]] = field(init=False, default_factory=list)
    _own: bool = field(init=False, default=False)
    _ended: Outcome | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # A task that names no inputs reads the whole row.
        names = self.speech.task.input_names or [name for name in self.input if not name.startswith("distil_")]
        read = json.dumps({name: self.input.get(name) for name in names}, sort_keys=True, default=str)
        self._seed = digest(
            str(self.speech.task.seed).encode(), read.encode("utf-8", "surrogatepass"), str(self.sample).encode()
        )
        self._open()

    def advance(self, find: Finder) -> Outcome | list[Turn]:
        """Go on as far as the facts reach: return the outcome, or the turns whose facts are missing."""
        while self._ended is None:
            found = [find(turn.key, own=self._own) for turn in self._turns]
            facts = [fact for fact in found if fact is not None]
            if len(facts) < len(found):
                return [turn for turn, fact in zip(self._turns, found, strict=True) if fact is None]
            self._tell(facts)
            self._start_over_if_stale()
        return self._ended

    def again(self) -> Dialogue:
        """Return the same dialogue, opened anew."""
        twin = self._twin or 0
        return Dialogue(self.speech, self.input, self.ordinal, self.sample, lambda _: twin)

    def _start_over_if_stale(self) -> None:
        # "Please do it again" means above all the answers that were of no use: they are asked for again, all turns of them.
        ended = self._ended
        if ended is None or ended.status != "unparsed" or self._own:
            return
        if isinstance(self.speech.task, GeneratorTask):
            return  # A candidate is no row that somebody waits for: the next number is as good, and costs no more.
        if any(fact.ask != self.speech.ask for _, fact in ended.trace):
            self._own = True
            self._open()

    def _open(self) -> None:
        self._trace, self._ended, self._chain = [], None, b""
        self._rng = Random()
        self._reseed()
        try:
            # A copy: what a task does to its row must not be seen by the next sample, nor when the row is told again.
            self._talk = self.speech.task.converse(copy.deepcopy(self.input), self._rng)
            requests = self._requests(next(self._talk))
        except StopIteration as end:
            self._end(end.value)
        except TaskDefinitionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a task raises over a row is that row's fate
            self._ended = Outcome("failed", {}, f"the row cannot be asked about: {type(error).__name__}: {error}", [])
        else:
            self._hear(requests)

    def _tell(self, facts: list[Fact]) -> None:
        for turn, fact in zip(self._turns, facts, strict=True):
            self._trace.append((turn, fact))
            if fact.kind is not Kind.ANSWER:
                self._talk.close()
                self._ended = Outcome(
                    "failed", {}, read_body(fact)["error"], self._trace, transient=fact.kind is Kind.TRANSIENT
                )
                return
        answers = [answer_of(fact) for fact in facts]
        self._reseed()
        try:
            requests = self._requests(self._talk.send(answers if self._listed else answers[0]))
        except StopIteration as end:
            self._end(end.value)
        except Unparsed as unparsed:
            self._end_unparsed(unparsed.reason, unparsed.partial)
        except TaskDefinitionError:
            raise
        except Exception as error:  # noqa: BLE001 - as above; it had an answer to read
            self._end_unparsed(f"{type(error).__name__}: {error}", {})
        else:
            self._hear(requests)

    def _requests(self, said: Any) -> list[tuple[Request, bytes]]:
        """Return what the task yielded, as it is sent and as it is hashed."""
        self._listed = isinstance(said, list)
        requests: list[tuple[Request, bytes]] = []
        for request in said if self._listed else [said]:
            if not isinstance(request, Chat | Complete | Embed | Rank):
                raise TaskDefinitionError(
                    f"Task {self.speech.task.name!r} yielded {type(request).__name__}; converse yields requests: "
                    "Chat(messages), Complete(prompt), Embed(input) or Rank(input, candidates)."
                )
            resolved = resolve(request, self.speech.model, self.speech.parameters)
            requests.append((resolved, canonical(resolved)))
        if not requests:
            raise TaskDefinitionError(f"Task {self.speech.task.name!r} yielded an empty list of requests.")
        return requests

    def _hear(self, requests: list[tuple[Request, bytes]]) -> None:
        self._turns = []
        for request, content in requests:
            if not self._chain:
                self._chain = self._root(content)
            self._chain = digest(self._chain, content)
            self._turns.append(Turn(request, content, self._chain, len(self._trace) + len(self._turns)))
        if self.first is None:
            self.first = self._turns[0]

    def _root(self, content: bytes) -> bytes:
        if self._twin is None:
            self._twin = self.count_twin(digest(str(self.sample).encode(), content))
        return digest(f"{self.speech.round}/{self.sample}/{self._twin}".encode())

    def _end(self, columns: Any) -> None:
        if columns is None:
            self._end_unparsed("the task returned nothing for this answer", {})
            return
        if not isinstance(columns, dict):
            raise TaskDefinitionError(
                f"Task {self.speech.task.name!r} returned {type(columns).__name__}, not a dict of columns."
            )
        names = self.speech.task.output_names
        if whole := [name for name in names if isinstance(columns.get(name), Answer)]:
            raise TaskDefinitionError(
                f"Task {self.speech.task.name!r} returned a whole Answer as {', '.join(whole)}. What `yield` gives is an "
                "Answer: return its text, answer.text."
            )
        if all(columns.get(name) is None for name in names):
            # A misspelt name must not be taken for a bad answer.
            other = sorted(set(columns) - set(names))
            what = f"the task returned {', '.join(other)}, and its outputs are {', '.join(names)}" if other else ""
            self._end_unparsed(what or "no output could be read from the answer", {})
            return
        try:
            self._ended = Outcome("ok", self.speech.read({name: columns.get(name) for name in names}), None, self._trace)
        except Unparsed as unparsed:
            self._end_unparsed(unparsed.reason, unparsed.partial)

    def _end_unparsed(self, reason: str, partial: Mapping[str, Any]) -> None:
        try:
            readable = self.speech.read({name: partial.get(name) for name in self.speech.task.output_names})
        except Unparsed:
            readable = {}
        self._ended = Outcome("unparsed", readable, reason, self._trace)

    def _reseed(self) -> None:
        # Per step, so that what a task draws at one step cannot depend on how much it drew before.
        self._rng.seed(int.from_bytes(digest(self._seed, str(len(self._trace)).encode()), "little"))


class _Body(TypedDict, total=False):
    """What a fact carries, as `AskPass` writes it."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    text: str | None
    vector: list[float] | None
    scores: list[float] | None
    finish_reason: str | None
    model: str | None
    usage: tuple[_Count | None, _Count | None]
    cost: float | None
    latency: float | None
    attempts: _Count | None
    error: str
    prompt: str


_BODY = TypeAdapter(_Body)


def check_body(fact: Fact) -> None:
    """Check the body of a fact that others could have written: a replay must not stumble over it at each attempt.

    :raises ValueError: if it is not what an attempt writes. The message quotes nothing of it.
    """
    try:
        body = _BODY.validate_json(fact.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"fact {fact.number}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if fact.kind is not Kind.ANSWER and "error" not in body:
        raise ValueError(f"fact {fact.number} is a failure without an error")


def read_body(fact: Fact) -> dict[str, Any]:
    """Return the JSON that a fact carries."""
    body: dict[str, Any] = json.loads(fact.body)
    return body


def answer_of(fact: Fact) -> Answer:
    """Return the answer that a fact carries."""
    body = read_body(fact)
    return Answer(
        text=body.get("text"),
        vector=body.get("vector"),
        scores=body.get("scores"),
        finish_reason=body.get("finish_reason"),
        model=body.get("model"),
        usage=Usage(*body.get("usage", ())),
        latency=body.get("latency"),
    )
