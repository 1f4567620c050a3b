"""What a task and a model say to each other: requests, answers, and the two protocols they meet in.

A task *yields* requests and is *sent* answers; it never learns whether an answer came from the network, from the log of
an earlier attempt, or from a file. This module is the vocabulary of that exchange. It imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec
from msgspec import Struct, field, structs

__all__ = [
    "LLM",
    "Allowance",
    "Answer",
    "Chat",
    "ChatType",
    "Complete",
    "Conversation",
    "Embed",
    "Quota",
    "Rank",
    "Request",
    "Row",
    "Unparsed",
    "Usage",
    "Vector",
    "canonical",
    "digest",
    "resolve",
    "system",
    "user",
]

ChatType: TypeAlias = list[dict[str, Any]]
"""Messages in the OpenAI chat format: dicts with `role` and `content` (text, or a list of content parts)."""

Row: TypeAlias = dict[str, Any]
"""One row of a dataset: column name to value."""

Vector: TypeAlias = Annotated[list[float], "vector"]
"""Type of an output column of embeddings: 32-bit floats, in lists of fixed size if all rows have one, and of one size."""


def user(content: Any) -> dict[str, Any]:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def system(content: str) -> dict[str, Any]:
    """Return a system message."""
    return {"role": "system", "content": content}


# What each row makes several of are structs of msgspec: a frozen dataclass takes five times as long to make.
class _Asked(Struct, frozen=True, kw_only=True):
    """What every request carries beside its own content. `msgspec.structs.replace(request, …)` makes another of it.

    :param parameters: OpenAI wire parameters of this request (`temperature`, `stop`, …). They win over the LLM's own.
    :param model: model to ask; None until the engine resolves it to the LLM's.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None


class Chat(_Asked, frozen=True):
    """A chat completion.

    :param messages: the conversation so far; the model writes the next assistant message.
    :param response_format: OpenAI `response_format` (a JSON schema), or None for free text.
    """

    kind: ClassVar[str] = "chat"
    messages: ChatType
    response_format: Mapping[str, Any] | None = None


class Complete(_Asked, frozen=True):
    """A raw text completion, without a chat template."""

    kind: ClassVar[str] = "complete"
    prompt: str


class Embed(_Asked, frozen=True):
    """The embedding of a text, or of a chat."""

    kind: ClassVar[str] = "embed"
    input: str | ChatType


class Rank(_Asked, frozen=True):
    """A ranking of candidate answers to one input."""

    kind: ClassVar[str] = "rank"
    input: str
    candidates: Sequence[str]


Request: TypeAlias = Chat | Complete | Embed | Rank
# Both sort alike, but spell some floats differently: what is told must always be of the first.
_FAST = msgspec.json.Encoder(order="sorted")
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_R = TypeVar("_R", bound=_Asked)


def resolve(request: _R, model: str, parameters: Mapping[str, Any]) -> _R:
    """Return the request as it is sent: with the model's name, and the LLM's parameters under its own."""
    return structs.replace(request, model=request.model or model, parameters={**parameters, **request.parameters})


def canonical(request: Request) -> bytes:
    """Return the one JSON form of a request: equal requests have equal bytes, in every process and version of Python.

    :raises TypeError: if it holds what JSON cannot say, and no endpoint could be sent.
    :raises ValueError: if it holds a number that is not finite.
    """
    content = {"kind": request.kind, **structs.asdict(request)}
    try:
        encoded = _FAST.encode(content)
        # It writes NaN as null and bytes as text. What comes back as it was is JSON; the rest is left to the other.
        if msgspec.json.decode(encoded) == content:
            return encoded
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    text = _JSON.encode(content)
    try:
        return _FAST.encode(json.loads(text))
    except (UnicodeEncodeError, OverflowError, msgspec.MsgspecError):
        # A lone surrogate is valid in a Python string and not in UTF-8, and an integer may have any length; neither must stop a
        # row from having a name.
        return text.encode("utf-8", "surrogatepass")


def digest(*parts: bytes) -> bytes:
    """Return a 16-byte hash of the parts, each delimited by its length, so that no two lists of parts can run together."""
    # 128 bits: at 10^9 facts the odds of one collision are 10^-21, and a key still fits a narrow index.
    delimited = b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "little"), part)])
    return hashlib.blake2b(delimited, digest_size=16).digest()


class Usage(Struct, frozen=True):
    """Tokens of one answer, as the endpoint counted them; None where it did not say.

    An answer that shares its call with others (`n`, batched embeddings) carries its share; the shares add up to the call.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    """Of the input, what the provider had in its prompt cache."""
    cache_write_tokens: int = 0
    """Of the input, what the provider put into its prompt cache, where that has a price of its own."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What an endpoint said in one reply about one limit of its own.

    :param limit: units (requests, or tokens) that it allows in a window.
    :param remaining: units that are left.
    :param reset: seconds until the limit is whole again.
    :param window: seconds of the window, if it was named; most endpoints do not name it and mean a minute.
    """

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None
    window: float | None = None


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an endpoint said in one reply about its limits; the engine alone acts upon it."""

    requests: Quota | None = None
    tokens: Quota | None = None


class Answer(Struct, frozen=True, eq=False):
    """What a model answered to one request.

    :param text: generated text; None if the model gave none.
    :param vector: embedding, for an `Embed`.
    :param scores: one score per candidate, for a `Rank`.
    :param finish_reason: `stop`, `length`, `content_filter`, …, in the endpoint's words.
    :param model: model name that the endpoint reported; it may be more exact than the one asked for.
    :param usage: tokens.
    :param latency: seconds from sending to the last byte.
    :param allowance: what the endpoint said about its limits; answers of one call share the object. Answers that differ in it
        alone are equal.
    """

    text: str | None = None
    vector: Sequence[float] | None = None
    scores: Sequence[float] | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = Usage()
    latency: float | None = None
    allowance: Allowance | None = None

    def __eq__(self, other: object) -> bool:
        return self._answered == other._answered if isinstance(other, Answer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._answered)

    def __repr__(self) -> str:
        return super().__repr__() if self.allowance is None else repr(structs.replace(self, allowance=None))

    @property
    def _answered(self) -> tuple[Any, ...]:
        return structs.astuple(self)[:-1]


class Unparsed(Exception):
    """Raised by a task for an answer that it cannot read.

    :param reason: what was wrong with the answer, in words that also help the model when it is asked again.
    :param partial: the columns that could be read; the others become None.
    """

    def __init__(self, reason: str, partial: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.partial = dict(partial or {})


Conversation: TypeAlias = Generator["Request | list[Request]", Any, Row]
"""What `Task.converse` returns: yields a request (or a list of independent ones), is sent an `Answer` (or a list in the
same order), and returns the output columns."""


@runtime_checkable
class LLM(Protocol):
    """A model that can be asked.

    An LLM never retries and never waits for a rate limit: the engine does, in one place for every backend. It raises
    `airflow_distil.exceptions.LLMError` of one of four kinds (`RateLimited`, `Transient`, `BadRow`, `Fatal`); anything else
    is taken for a bug and ends the run. One that a provider is paid for may also have `endpoint`, the URL that it is reached
    at: list prices are found by it, and without it there are none.
    """

    model: str
    """Name that is sent with each request and written to `model_name`."""
    parameters: Mapping[str, Any]
    """OpenAI wire parameters of every request."""
    max_concurrency: int | None
    """Most requests in flight; None leaves it to the engine."""
    requests_per_minute: float | None
    tokens_per_minute: float | None
    input_price: float | None
    """US dollars per million input tokens; None leaves it to the price list, by `endpoint`."""
    output_price: float | None

    async def answer(self, request: Request, n: int = 1) -> list[Answer]:
        """Ask once, for `n` independent answers to the same request.

        :return: at most `n` answers, at least one. An endpoint that does not honour `n` gives fewer; the engine asks again.
        """

    async def aclose(self) -> None:
        """Release connections; the LLM can be used again afterwards, from another event loop too."""
