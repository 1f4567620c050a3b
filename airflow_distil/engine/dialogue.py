"""One sample of one row: its conversation, told from facts as far as they go.

This is all there is to resuming. A dialogue looks for the fact of each of its requests; while the facts are there it goes on,
at the first one missing it stops and says what it wants. Whether a fact came from the network a moment ago or from the log of
an attempt that was killed last night makes no difference.

A request is known by its *key*: the hash of round, sample, twin, and every request of the conversation up to and including
it. *Twin* is how many earlier rows of the source start with the same request. So a key belongs to one row and one sample, in
every attempt, with no row id and no matching; rows that move keep their answers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypedDict, cast

import msgspec

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

__all__ = ["Dialogue", "Exchange", "Outcome", "Speech", "Turn", "answer_of", "check_body", "read_body"]

# As the columns of `distil_metadata` hold it; no call has more tokens.
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
# Of one answer; what is added up must be a number.
_Dollars = Annotated[float, msgspec.Meta(ge=0, lt=1e15)]


# What every row makes is a tuple with names: a frozen dataclass takes five times as long to make.
class Turn(NamedTuple):
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


class Exchange(NamedTuple):
    """A request and what became of it.

    :param body: what the fact carries, read.
    """

    turn: Turn
    fact: Fact
    body: dict[str, Any]


class Outcome(NamedTuple):
    """How a dialogue ended.

    :param columns: the task's outputs, under the task's names.
    :param error: why it is not ok.
    :param trace: what was asked and answered, in order.
    :param transient: True if it failed in a way that the next attempt may not.
    """

    status: Literal["ok", "unparsed", "failed"]
    columns: Mapping[str, Any]
    error: str | None
    trace: list[Exchange]
    transient: bool = False


class Finder(Protocol):
    """Looks up the fact of a key, for a row and sample; with `own`, only among those of this ask."""

    def __call__(self, key: bytes, ordinal: int, sample: int, *, own: bool) -> Fact | None: ...


# See `Dialogue`.
CountTwin = Callable[[bytes, int, int], int]

_NOTHING = frozenset((type(None),))
_FLAT = frozenset((str, int, float, bool)) | _NOTHING

# `isinstance` of a union makes the union anew each time.
_REQUESTS = (Chat, Complete, Embed, Rank)


class _Draws(Random):
    """The random numbers of a conversation, seeded when the first one of a step is drawn.

    Seeding costs as much as a prompt, and most tasks draw none. All dialogues of a run share one: between two requests nothing
    else runs, and at the next each begins anew.
    """

    def __init__(self) -> None:
        self._due: Dialogue | None = None
        self.gauss_next = None

    def reseed(self, dialogue: Dialogue) -> None:
        """Begin a step of a dialogue."""
        self._due = dialogue
        self.gauss_next = None  # `gauss` makes two numbers at a time, and keeps one

    def seed(self, a: Any = None, version: int = 2) -> None:
        self._due = None
        super().seed(a, version)

    def setstate(self, state: tuple[Any, ...]) -> None:
        self._due = None
        super().setstate(state)

    def random(self) -> float:
        self._begin()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        self._begin()
        return super().getrandbits(k)

    def getstate(self) -> tuple[Any, ...]:
        self._begin()
        return super().getstate()

    def _begin(self) -> None:
        if self._due is not None:
            self.seed(self._due.seed)


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
    outputs: list[str] = field(init=False)
    draws: _Draws = field(init=False, default_factory=_Draws, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A property of the task, asked for often; it does not change within a run.
        object.__setattr__(self, "outputs", self.task.output_names)


class Dialogue:
    """The conversation of one sample of one row.

    :param input: the row, under the task's names.
    :param count_twin: given the hash of the first request, row and sample, returns how many earlier rows start with it.
    """

    # Not a dataclass: there is one for each answer, and what `_open` sets would be set twice.
    __slots__ = (
        "_chain", "_ended", "_listed", "_news", "_own", "_talk", "_trace", "_turns", "_twin",
        "count_twin", "first", "input", "ordinal", "sample", "speech",
    )  # fmt: skip

    first: Turn | None
    _talk: Conversation
    _chain: bytes
    _turns: list[Turn]
    _listed: bool
    _trace: list[Exchange]
    _ended: Outcome | None

    def __init__(self, speech: Speech, input: Row, ordinal: int, sample: int, count_twin: CountTwin) -> None:
        self.speech = speech
        self.input = input
        self.ordinal = ordinal
        self.sample = sample
        self.count_twin = count_twin
        self.first = None
        self._twin: int | None = None
        self._own = False
        self._news: dict[bytes, Fact] = {}
        self._open()

    @property
    def seed(self) -> int:
        """Seed of the random numbers of the next step: what a task draws there cannot depend on how much it drew before."""
        task, row = self.speech.task, self.input
        # A task that names no inputs reads the whole row.
        names = task.input_names or [name for name in row if not name.startswith("distil_")]
        read = json.dumps({name: row.get(name) for name in names}, sort_keys=True, default=str)
        drawn = digest(str(task.seed).encode(), read.encode("utf-8", "surrogatepass"), str(self.sample).encode())
        return int.from_bytes(digest(drawn, str(len(self._trace)).encode()), "little")

    def advance(self, find: Finder) -> Outcome | list[Turn]:
        """Go on as far as the facts reach: return the outcome, or the turns whose facts are missing."""
        while self._ended is None:
            found = [
                self._news.get(turn.key) or find(turn.key, self.ordinal, self.sample, own=self._own) for turn in self._turns
            ]
            if None in found:
                return [turn for turn, fact in zip(self._turns, found, strict=True) if fact is None]
            self._tell(cast("list[Fact]", found))
            self._start_over_if_stale()
        return self._ended

    def learn(self, fact: Fact) -> None:
        """Take in what has just become of a request of this dialogue."""
        self._news[fact.key] = fact

    def is_answered(self, turn: Turn) -> bool:
        """Tell whether a request has just been answered."""
        fact = self._news.get(turn.key)
        return fact is not None and fact.kind is Kind.ANSWER

    def again(self) -> Dialogue:
        """Return the same dialogue, opened anew."""
        twin = self._twin or 0
        return Dialogue(self.speech, self.input, self.ordinal, self.sample, lambda *_: twin)

    def _start_over_if_stale(self) -> None:
        # "Please do it again" means above all the answers that were of no use: they are asked for again, all turns of them.
        ended = self._ended
        if ended is None or ended.status != "unparsed" or self._own:
            return
        if isinstance(self.speech.task, GeneratorTask):
            return  # A candidate is no row that somebody waits for: the next number is as good, and costs no more.
        if any(fact.ask != self.speech.ask for _, fact, _ in ended.trace):
            self._own = True
            self._open()

    def _open(self) -> None:
        self._turns, self._trace, self._ended, self._chain = [], [], None, b""
        self.speech.draws.reseed(self)
        try:
            # A copy: what a task does to its row must not be seen by the next sample, nor when the row is told again.
            self._talk = self.speech.task.converse(_copied(self.input), self.speech.draws)
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
        answers = []
        for turn, fact in zip(self._turns, facts, strict=True):
            body = read_body(fact)
            self._trace.append(Exchange(turn, fact, body))
            if fact.kind is not Kind.ANSWER:
                self._talk.close()
                self._ended = Outcome("failed", {}, body["error"], self._trace, transient=fact.kind is Kind.TRANSIENT)
                return
            answers.append(answer_of(body))
        self.speech.draws.reseed(self)
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
            if not isinstance(request, _REQUESTS):
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
            self._chain = digest(self._chain, content) if self._chain else self._opening(content)
            self._turns.append(Turn(request, content, self._chain, len(self._trace) + len(self._turns)))
        if self.first is None:
            self.first = self._turns[0]

    def _opening(self, content: bytes) -> bytes:
        """Return the key of the first request."""
        key = digest(_root(self.speech.round, self.sample, 0), content)
        if self._twin is None:
            self._twin = self.count_twin(key, self.ordinal, self.sample)
        return digest(_root(self.speech.round, self.sample, self._twin), content) if self._twin else key

    def _end(self, columns: Any) -> None:
        if columns is None:
            self._end_unparsed("the task returned nothing for this answer", {})
            return
        if not isinstance(columns, dict):
            raise TaskDefinitionError(
                f"Task {self.speech.task.name!r} returned {type(columns).__name__}, not a dict of columns."
            )
        names = self.speech.outputs
        row = {name: columns.get(name) for name in names}
        kinds = set(map(type, row.values()))
        if Answer in kinds:
            whole = [name for name, value in row.items() if type(value) is Answer]
            raise TaskDefinitionError(
                f"Task {self.speech.task.name!r} returned a whole Answer as {', '.join(whole)}. What `yield` gives is an "
                "Answer: return its text, answer.text."
            )
        if kinds <= _NOTHING:
            # A misspelt name must not be taken for a bad answer.
            other = sorted(set(columns) - set(names))
            what = f"the task returned {', '.join(other)}, and its outputs are {', '.join(names)}" if other else ""
            self._end_unparsed(what or "no output could be read from the answer", {})
            return
        try:
            self._ended = Outcome("ok", self.speech.read(row), None, self._trace)
        except Unparsed as unparsed:
            self._end_unparsed(unparsed.reason, unparsed.partial)

    def _end_unparsed(self, reason: str, partial: Mapping[str, Any]) -> None:
        try:
            readable = self.speech.read({name: partial.get(name) for name in self.speech.outputs})
        except Unparsed:
            readable = {}
        self._ended = Outcome("unparsed", readable, reason, self._trace)


# Of a few samples and twins; more of them are only hashed again.
@lru_cache(maxsize=1024)
def _root(round: int, sample: int, twin: int) -> bytes:
    return digest(f"{round}/{sample}/{twin}".encode())


def _copied(row: Row) -> Row:
    # Nobody can change a text or a number, and most rows have nothing else.
    return dict(row) if _FLAT.issuperset(map(type, row.values())) else copy.deepcopy(row)


class _Body(TypedDict, total=False):
    """What a fact carries, as `AskPass` writes it."""

    text: str | None
    vector: list[float] | None
    scores: list[float] | None
    finish_reason: str | None
    model: str | None
    usage: tuple[_Count | None, _Count | None]
    cost: _Dollars | None
    latency: float | None
    attempts: _Count | None
    error: str
    prompt: str


_BODY = msgspec.json.Decoder(_Body)


def check_body(fact: Fact) -> dict[str, Any]:
    """Return the body of a fact that others could have written: a replay must not stumble over it at each attempt.

    :raises ValueError: if it is not what an attempt writes. The message quotes nothing of it.
    """
    try:
        body = _BODY.decode(fact.body)
    except msgspec.DecodeError as error:
        raise ValueError(f"fact {fact.number}: {error}") from None
    if fact.kind is not Kind.ANSWER and "error" not in body:
        raise ValueError(f"fact {fact.number} is a failure without an error")
    return cast("dict[str, Any]", body)


def read_body(fact: Fact) -> dict[str, Any]:
    """Return the JSON that a fact carries."""
    body: dict[str, Any] = msgspec.json.decode(fact.body)
    return body


def answer_of(body: Mapping[str, Any]) -> Answer:
    """Return the answer that is the body of a fact."""
    return Answer(
        text=body.get("text"),
        vector=body.get("vector"),
        scores=body.get("scores"),
        finish_reason=body.get("finish_reason"),
        model=body.get("model"),
        usage=Usage(*body.get("usage", ())),
        latency=body.get("latency"),
    )
