"""A model behind an endpoint that speaks OpenAI's protocol: OpenAI, Azure, vLLM, llama.cpp, Ollama, TGI, routers."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import ssl
import time
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast
from urllib.parse import urlsplit, urlunsplit

import httpx2
import msgspec
import openai
from msgspec import structs
from pydantic import SecretStr

from airflow_distil.conversation import Allowance, Answer, Chat, Complete, Embed, Request, Usage, canonical, resolve
from airflow_distil.exceptions import BadRow, Fatal, LLMError, TaskDefinitionError, Transient
from airflow_distil.llms.allowance import allowance_in
from airflow_distil.llms.failures import ADVICE, LONGEST, kind_of, masked, retry_after, secrets_in, words_of
from airflow_distil.llms.gathering import Gathering, divided
from airflow_distil.llms.parameters import RESERVED, check_generation_kwargs
from airflow_distil.llms.wire import Reply, Target, TooLong, Unusable, Wire

__all__ = ["OpenAILLM"]

# Where the SDK goes by itself.
OPENAI = "https://api.openai.com/v1"

# Local servers take any key, the SDK insists on one.
NO_KEY = "not-needed"

# Texts of one embeddings call. OpenAI takes 2048, but Text Embeddings Inference, as it is installed, 32; and with the usual
# 128 requests in flight, fewer and larger calls would leave nothing to do in parallel.
TEXTS = 32
# OpenAI also refuses calls of more than 300,000 tokens. A token has at least one byte.
BYTES = 300_000

EMBEDDINGS = "/embeddings"

# Of one call: there is no context of a billion tokens.
MOST_TOKENS = 2**30

_log = logging.getLogger("httpx2")
if _log.level == logging.NOTSET:
    # It writes an INFO line for each request that it drafts, as if it had been sent.
    _log.setLevel(logging.WARNING)


class OpenAILLM:
    """A model behind an OpenAI-compatible endpoint.

    :param model: model name (with `azure`, the deployment's).
    :param base_url: root of the API, up to and with its version (`http://127.0.0.1:8000/v1`); with `azure`, the resource's
        endpoint. By default what `OPENAI_BASE_URL` (`AZURE_OPENAI_ENDPOINT`) says, else OpenAI's.
    :param api_key: by default `OPENAI_API_KEY` (`AZURE_OPENAI_API_KEY`); none is needed if `base_url` is given.
    :param generation_kwargs: OpenAI wire parameters of every request (`temperature`, …), no default; what only your server
        knows goes into `extra_body={…}`.
    :param timeout: seconds for one call, from sending it to the last byte of its answer.
    :param max_concurrency: most requests in flight; None leaves it to the engine.
    :param requests_per_minute: as the provider allows; None leaves it to what its replies say. The engine paces texts, not the
        calls that they share: for embeddings leave it out, or texts go one by one, and each takes a call's place in the minute.
    :param tokens_per_minute: as the provider allows; None leaves it to what its replies say.
    :param input_price: US dollars per million input tokens; by default the list price, if the URL is a provider's.
    :param output_price: US dollars per million output tokens; by default as for `input_price`.
    :param headers: sent with each request.
    :param backend: `openai` (and all that speak like it) or `azure`.
    :param api_version: of Azure's API; by default `OPENAI_API_VERSION`.
    :raises TaskDefinitionError: a parameter of `generation_kwargs`, the base URL or the backend is not valid.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        generation_kwargs: Mapping[str, Any] | None = None,
        timeout: float = 120.0,
        max_concurrency: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
        headers: Mapping[str, str] | None = None,
        backend: Literal["openai", "azure"] = "openai",
        api_version: str | None = None,
    ) -> None:
        if backend not in ("openai", "azure"):
            raise TaskDefinitionError(f"Unknown backend {backend!r} for model {model!r}: use 'openai' or 'azure'.")
        environment = "OPENAI_BASE_URL" if backend == "openai" else "AZURE_OPENAI_ENDPOINT"
        self.base_url: str | None = (base_url or os.environ.get(environment) or "").strip() or None
        if self.base_url:
            _check_url(self.base_url)
        self.model = model
        self.parameters: Mapping[str, Any] = check_generation_kwargs(generation_kwargs, kind=None)
        self.timeout = timeout
        self.max_concurrency = max_concurrency
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.input_price = input_price
        self.output_price = output_price
        self.backend = backend
        self.api_version = api_version
        # Keys pasted into forms and files end with a newline surprisingly often, which no header may.
        key = api_key or os.environ.get("OPENAI_API_KEY" if backend == "openai" else "AZURE_OPENAI_API_KEY")
        self._key = SecretStr((key or "").strip())
        self._headers = {name: SecretStr(value) for name, value in (headers or {}).items()}
        self._wire: Wire | None = None
        self._targets: dict[tuple[str, str, str | None], Target] = {}
        self._embeddings = Gathering(self._embed, room=BYTES, size=_room_of)

    @property
    def endpoint(self) -> str | None:
        """URL that it is reached at, by which list prices are found."""
        return self.base_url or (OPENAI if self.backend == "openai" else None)

    def __repr__(self) -> str:
        where = f", base_url={_shown(self.base_url)!r}" if self.base_url else ""
        return f"OpenAILLM({self.model!r}{where})"

    async def answer(self, request: Request, n: int = 1) -> list[Answer]:
        """Ask once, for `n` independent answers.

        Embeddings with equal parameters that are asked for at the same time share calls.

        :raises TaskDefinitionError: this endpoint cannot answer such a request.
        :raises LLMError: of the kind that says what the engine has to do.
        """
        if request.model is None:
            request = resolve(request, self.model, self.parameters)
        path, body = _worded(request, n)
        if isinstance(request, Embed):
            return [await self._embeddings.ask(request, canonical(structs.replace(request, input="")))]
        began = time.perf_counter()
        reply, allowance = await self._send("POST", path, body)
        return self._read(reply, request, n, time.perf_counter() - began, allowance)

    async def models(self) -> list[str]:
        """Return the names of the models that the endpoint offers.

        :raises LLMError: as `answer` does.
        """
        reply, _ = await self._send("GET", "/models", None)
        return [str(model["id"]) for model in reply.get("data") or []]

    async def aclose(self) -> None:
        """Close the connections; the next `answer` opens new ones, in the event loop it runs in."""
        await self._embeddings.aclose()
        wire, self._wire = self._wire, None
        if wire and wire.runs_here:
            await wire.aclose()

    async def _embed(self, requests: Sequence[Embed]) -> list[Answer | LLMError]:
        """Ask for the vectors of texts, with the same model and parameters, in one call."""
        path, body = _worded(requests[0], 1)
        if len(requests) > 1:
            body["input"] = [request.input for request in requests]
        began = time.perf_counter()
        # No word of limits: they are of calls, which the engine would spread one text at a time, and nothing would be shared.
        reply, _ = await self._send("POST", path, body)
        latency = time.perf_counter() - began
        vectors = _vectors(reply, len(requests))
        if vectors is None:
            # Some servers take a list and embed its first text, or the list as one text.
            kind = BadRow if len(requests) > 1 else Transient
            raise kind(f"{self._place}: status 200, but the reply does not hold one vector for each of {len(requests)} texts.")
        usage, model = reply.get("usage"), str(reply.get("model") or requests[0].model)
        (total,) = _shares(usage, "prompt_tokens", 1)
        shares = [None] * len(requests) if total is None else divided(total, [len(str(r.input)) for r in requests])
        return [
            Answer(vector=vector, model=model, usage=Usage(share, None if share is None else 0), latency=latency)
            if all(map(math.isfinite, array("f", vector)))  # as float32, which is what datasets hold
            else BadRow(f"{self._place}: the vector of this text holds numbers that are not finite, or not within float32.")
            for vector, share in zip(vectors, shares, strict=True)
        ]

    async def _send(
        self, method: Literal["GET", "POST"], path: str, body: dict[str, Any] | None
    ) -> tuple[dict[str, Any], Allowance | None]:
        model = None if body is None else body["model"]
        target = self._targets.get((method, path, model)) or await self._draft(method, path, model)
        failure: LLMError
        try:
            content = b"" if body is None else _encoded(body)
            response = await self._connected().send(target, content, self.timeout)
        except TimeoutError:
            failure = Transient(f"{self._place}: no answer within {self.timeout:g} s.")
        except TooLong as error:
            failure = BadRow(f"{self._place}: {error}.")
        except OSError as error:
            failure = self._unreachable(error)
        else:
            if response.status < 300:
                return self._parsed(response, model), allowance_in(response.raw.items())
            # No names for parts of the reply: it may repeat the key, and frames of tracebacks are shown by some tools.
            failure = self._refused(response.status, _error_of(response.content), model, retry_after(response.headers))
            failure.allowance = None if path == EMBEDDINGS else allowance_in(response.raw.items())
        try:
            # Outside of `except`, so that no traceback leads to what failed below, where the key is.
            raise failure
        finally:
            # A frame that holds its own error is garbage that waits for the collector, with the prompt and the reply in it.
            del failure

    def _parsed(self, response: Reply, model: str | None) -> dict[str, Any]:
        try:
            reply = _decoded(response.content)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            beginning = self._clean(words_of(response.content.decode("utf-8", "replace")))[:100] or "nothing"
            raise Transient(f"{self._place}: status 200, but the body is not a JSON object; it begins with: {beginning}")
        if (error := reply.get("error")) and not reply.get("choices") and not reply.get("data"):
            # Routers that have sent "200" before the model behind them failed put its status into the body.
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 502
            raise self._refused(status, error, model, retry_after(response.headers))
        return reply

    def _read(
        self, reply: dict[str, Any], request: Request, n: int, latency: float, allowance: Allowance | None
    ) -> list[Answer]:
        said, problem = [], "an empty list"
        try:
            said = _said(reply, request, n)
        except (LookupError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
        if not said:
            raise Transient(f"{self._place}: status 200, but the reply holds no answer ({problem}).")
        model = str(reply.get("model") or request.model)
        usages = _usages(reply.get("usage"), len(said))
        if all(reason == "content_filter" and not text for text, reason in said):
            raise BadRow(f"{self._place}: the provider's content filter withheld the answer.", usages=usages)
        return [
            Answer(text, finish_reason=reason, model=model, usage=usage, latency=latency, allowance=allowance)
            for (text, reason), usage in zip(said, usages, strict=True)
        ]

    def _connected(self) -> Wire:
        # Connections belong to an event loop. One that is gone (a notebook's earlier asyncio.run) took its own with it.
        wire = self._wire
        if wire is None or not wire.runs_here:
            wire = self._wire = Wire(httpx2.create_ssl_context)
        return wire

    async def _draft(self, method: Literal["GET", "POST"], path: str, model: str | None) -> Target:
        """Let the SDK say what it would send: URL, authentication and headers, for OpenAI and for Azure."""
        kind = openai.AsyncAzureOpenAI if self.backend == "azure" else openai.AsyncOpenAI
        try:
            async with kind(**self._given(), http_client=httpx2.AsyncClient(transport=_Drafts(), trust_env=False)) as client:
                if method == "POST":
                    drafted = await client.post(path, body={"model": model}, cast_to=httpx2.Response)
                else:
                    drafted = await client.get(path, cast_to=httpx2.Response)
            target = Target.of(method, str(drafted.request.url), drafted.request.headers.raw)
        except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            advice = "give the key (and for Azure endpoint and API version) in the connection"
            if isinstance(error, ValueError):
                advice = "check the base URL, the headers and the proxy that the environment names"
            failure = Fatal(f"{self!r} cannot be set up: {self._clean(str(error))} Next: {advice}.")
        else:
            return self._targets.setdefault((method, path, model), target)
        try:
            raise failure
        finally:
            del failure

    def _given(self) -> dict[str, Any]:
        """Return the client's arguments, keys and all; apart, so that no frame of a traceback holds them."""
        given: dict[str, Any] = {
            "api_key": self._key.get_secret_value() or (NO_KEY if self.base_url else None),
            "max_retries": 0,  # only the engine retries: it gives the slot back while it waits
            "default_headers": {name: value.get_secret_value() for name, value in self._headers.items()},
        }
        if self.backend != "azure":
            return given | {"base_url": self.base_url}
        given |= {"azure_endpoint": self.base_url} if self.base_url else {}
        return given | ({"api_version": self.api_version} if self.api_version else {})

    def _refused(self, status: int, error: Any, model: str | None, wait: float | None) -> LLMError:
        kind = kind_of(status, error)
        code = error.get("code") if isinstance(error, Mapping) else None
        named = f" ({code})" if code and str(code) != str(status) else ""
        message = f"{self._place}: status {status}{named} for model {model!r}: {self._clean(words_of(error)) or 'no message'}"
        if issubclass(kind, Fatal):
            message += f" Next: {ADVICE.get(status, 'check the base URL, the model and the key')}; then run again."
        return kind(message, wait)

    def _unreachable(self, error: OSError) -> LLMError:
        message = f"{self._place}: {type(error).__name__}: {self._clean(words_of(str(error)))}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return Fatal(f"{message} Next: check the base URL and the certificates that this machine trusts.")
        if isinstance(error, Unusable):
            return Fatal(f"{message} Next: check the base URL, and the proxy and gateways on the way; then run again.")
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            # It may be starting, so it is tried again; but mostly it is not there at all.
            message += ". Next: see that the server runs, and that the connection's host (or the proxy) is right."
        return Transient(message)

    @property
    def _place(self) -> str:
        return _shown(self.base_url) if self.base_url else "the provider's API"

    def _clean(self, text: str) -> str:
        key = self._key.get_secret_value()
        secrets = {key, f"Bearer {key}"}.union(*(secrets_in(header.get_secret_value()) for header in self._headers.values()))
        if key in ("", NO_KEY):
            secrets -= {key, f"Bearer {key}"}
        # Shortened last: half a key would not be recognised.
        text = masked(text, secrets)
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _encoded(body: dict[str, Any]) -> bytes:
    """Return JSON; half a surrogate pair as it is, for the endpoint to refuse."""
    try:
        return msgspec.json.encode(body)
    except (UnicodeEncodeError, TypeError):
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def _decoded(content: bytes) -> Any:
    """Return JSON; also what is not quite JSON, but which Python reads: NaN, half a surrogate pair."""
    try:
        return msgspec.json.decode(content)  # five times as fast
    except msgspec.DecodeError:
        return json.loads(content)


class _Drafts(httpx2.AsyncBaseTransport):
    """Sends nothing: a request is done when it is written."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={}, request=request)


def _worded(request: Request, n: int) -> tuple[str, dict[str, Any]]:
    parameters = dict(request.parameters)
    parameters.update(parameters.pop("extra_body", None) or {})
    if taken := parameters.keys() & RESERVED.keys():
        name = min(taken)
        raise TaskDefinitionError(f"A request's parameter {name!r} cannot be set by a task: {RESERVED[name]}.")
    body = {**parameters, "model": request.model}
    if n > 1 and not isinstance(request, Embed):  # a text has one vector, however often it is asked for
        body["n"] = n
    if isinstance(request, Chat):
        body["messages"] = request.messages
        if request.response_format is not None:
            body["response_format"] = request.response_format
        return "/chat/completions", body
    if isinstance(request, Complete):
        return "/completions", body | {"prompt": request.prompt}
    if isinstance(request, Embed):
        if not isinstance(request.input, str):
            raise BadRow(
                "An OpenAI-compatible endpoint embeds texts, and this is a chat. Give the task a text column, or a connection "
                "with the backend 'transformers', which applies the chat template of a local model."
            )
        return EMBEDDINGS, body | {"input": request.input}
    raise TaskDefinitionError("An OpenAI-compatible endpoint cannot rank: use airflow_distil.llms.PairRanker instead.")


def _said(reply: dict[str, Any], request: Request, n: int) -> list[tuple[str | None, str | None]]:
    """Return text and finish reason of each answer."""
    text = _message_text if isinstance(request, Chat) else _completion_text
    return [(text(choice), _word(choice.get("finish_reason"))) for choice in reply["choices"][:n]]


def _vectors(reply: dict[str, Any], count: int) -> list[list[float]] | None:
    """Return the vectors of a reply in the order of the texts; None if it does not hold one for each."""
    try:
        data = reply["data"]
        if count == 1 and len(data) == 1:
            return [[float(number) for number in data[0]["embedding"]]]
        found = {each["index"]: [float(number) for number in each["embedding"]] for each in data}
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return [found[index] for index in range(count)] if found.keys() == set(range(count)) == set(range(len(data))) else None


def _message_text(choice: dict[str, Any]) -> str | None:
    message = choice["message"]
    content = message.get("content")
    if isinstance(content, list):
        # Models that think aloud answer in parts; the thinking is of another type.
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    # A refusal under structured output comes beside the content. It is what the model said: the row shows it, unparsed.
    return _text(content if content is not None else message.get("refusal"))


def _completion_text(choice: dict[str, Any]) -> str | None:
    return _text(choice["text"])


def _text(value: Any) -> str | None:
    # What the model said was paid for: a server that sends it in another form must not stop the run, nor be paid twice.
    return value if isinstance(value, str | None) else json.dumps(value)


def _word(value: Any) -> str | None:
    return None if value is None else str(value)


def _room_of(request: Embed) -> int:
    return max(len(str(request.input).encode("utf-8", "surrogatepass")), BYTES // TEXTS)


def _shares(usage: Any, name: str, count: int) -> Sequence[int | None]:
    """Divide tokens so that the shares differ by at most one and add up."""
    total = usage.get(name) if isinstance(usage, Mapping) else None
    # What no call can have cost is not a count: added up, it would not fit its column.
    if not isinstance(total, int) or isinstance(total, bool) or not 0 <= total < MOST_TOKENS:
        return [None] * count
    if count == 1:
        return (total,)
    share, rest = divmod(total, count)
    return [share + (i < rest) for i in range(count)]


def _usages(usage: Any, count: int) -> list[Usage]:
    """Divide the tokens of a call among its answers, also those of them that have prices of their own."""
    inputs, outputs = (_shares(usage, name, count) for name in ("prompt_tokens", "completion_tokens"))
    details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
    if not details:
        return list(map(Usage, inputs, outputs))
    cached, written = (_shares(details, name, count) for name in ("cached_tokens", "cache_write_tokens"))
    return [Usage(*each[:2], each[2] or 0, each[3] or 0) for each in zip(inputs, outputs, cached, written, strict=True)]


def _error_of(content: bytes) -> Any:
    """Return the error object of a reply's body, or the body itself if it has none."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")
    if isinstance(body, list) and body:
        body = body[0]
    return cast("Any", body.get("error", body) if isinstance(body, Mapping) else body)


def _check_url(url: str) -> None:
    """Refuse a base URL that cannot work, or that holds a secret: what is no password is not masked."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # A password with a slash looks like this, as the host ends there; so nothing of it is shown.
        raise TaskDefinitionError("The base URL is none: its port is no number. Write https://host:port/v1.") from None
    if parts.scheme not in ("http", "https"):
        raise TaskDefinitionError(f"The base URL {_shown(url)!r} must start with http:// or https://.")
    if "@" in parts.netloc:
        # HTTP has one Authorization header, and the key is in it.
        raise TaskDefinitionError(f"The base URL {_shown(url)!r} must not hold a user and password; use `headers`.")
    if parts.query or parts.fragment:
        # The client appends the path of each call to it.
        raise TaskDefinitionError(
            f"The base URL {_shown(url)!r} must end before the '?'. A key belongs into the connection's password or `headers`, "
            "Azure's api-version into `api_version`."
        )


def _shown(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url.partition("?")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
