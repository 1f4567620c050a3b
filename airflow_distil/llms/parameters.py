"""Which `generation_kwargs` a request takes: OpenAI's wire names, minus those that this package sets itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

from airflow_distil.exceptions import TaskDefinitionError

__all__ = ["RESERVED", "Kind", "check_generation_kwargs", "known_parameters"]

Kind: TypeAlias = Literal["chat", "complete", "embed"]

RESERVED: Mapping[str, str] = {
    "n": "use `num_generations`, the number of samples of each row",
    "model": "use `model`",
    "messages": "the task writes the messages",
    "prompt": "the task writes the prompt",
    "input": "the task writes the input",
    "stream": "answers are read whole; leave it out",
    "stream_options": "answers are read whole; leave it out",
    "response_format": "use `structured_output`",
    "encoding_format": "vectors are read as floats; leave it out",
}
"""Wire names that are set elsewhere, and where."""

_ELSEWHERE: Mapping[str, str] = {
    "extra_headers": "put headers into the connection (`headers`)",
    "extra_query": "not supported",
    "timeout": "set the timeout of the connection",
    "max_retries": "retries are the engine's; leave it out",
}
"""Arguments of the SDK's methods that people expect here and that are not part of the request's body."""


@cache
def known_parameters(kind: Kind = "chat") -> frozenset[str]:
    """Return the wire names that OpenAI documents for one kind of request, as the installed SDK declares them.

    The first call imports `openai`.
    """
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params

    declared: dict[str, Iterable[str]] = {
        "chat": chat_create_params.CompletionCreateParamsNonStreaming.__annotations__,
        "complete": completion_create_params.CompletionCreateParamsNonStreaming.__annotations__,
        "embed": embedding_create_params.EmbeddingCreateParams.__annotations__,
    }
    return frozenset(declared[kind]) - RESERVED.keys()


def check_generation_kwargs(kwargs: Mapping[str, Any] | None, kind: Kind | None = "chat") -> dict[str, Any]:
    """Return the parameters as they go into the body of each request, `extra_body` merged in; make no call.

    :param kwargs: OpenAI wire names (`temperature`, `max_completion_tokens`, …). What only your server knows (`top_k`,
        `min_p`, …) goes into `extra_body={…}`, unchecked.
    :param kind: kind of request that they are for; None for any kind.
    :raises TaskDefinitionError: a name is set elsewhere, or is not one of OpenAI's.
    """
    wire = dict(kwargs or {})
    extra = wire.pop("extra_body", None) or {}
    if not isinstance(extra, Mapping):
        raise TaskDefinitionError(
            f"generation_kwargs['extra_body'] must be a dict of wire parameters, not {type(extra).__name__}."
        )
    for name in [*wire, *extra]:
        if advice := RESERVED.get(name) or _ELSEWHERE.get(name):
            raise TaskDefinitionError(f"generation_kwargs: {name!r} cannot be set here: {advice}.")
    if twice := sorted(wire.keys() & extra.keys()):
        raise TaskDefinitionError(f"generation_kwargs: {', '.join(twice)} stand both beside and inside `extra_body`; keep one.")
    if wire:
        kinds = [kind] if kind else get_args(Kind)
        _check_names(wire, frozenset[str]().union(*map(known_parameters, kinds)))
    return {**wire, **extra}


def _check_names(names: Iterable[str], known: frozenset[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise TaskDefinitionError(
                f"generation_kwargs: {name!r} is not a parameter of OpenAI's API.{meant} If your server knows it, "
                f"pass it as extra_body={{{name!r}: …}}."
            )
