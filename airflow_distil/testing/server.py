"""A language model that is none: an OpenAI-compatible server whose answers, delays and failures a test decides."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from aiohttp import web

from airflow_distil.testing.faults import Fault, error_body
from airflow_distil.testing.gate import Gate
from airflow_distil.testing.voice import Messages, Say, Speaker, Voice, messages_of, request_digest

__all__ = ["Answered", "FakeLLM"]

# A test that opens thousands of connections at once must not meet the default backlog of 128: the kernel would drop the
# rest for a second each.
BACKLOG = 4096

# What is in flight at the end is held or hangs by order: waiting for it is waiting in vain. (0 means for ever.)
SHUTDOWN_TIMEOUT = 0.01


class Strikes(Protocol):
    """One fault, as in `airflow_distil.testing.faults`."""

    @property
    def times(self) -> int | None: ...
    @property
    def when(self) -> Callable[[Messages], bool] | None: ...
    def strike(self, request: web.BaseRequest, reply: bytes, /) -> Coroutine[Any, Any, web.StreamResponse]: ...


@dataclass(frozen=True, slots=True)
class _Complete:
    content: bytes
    digest: str
    choices: int


@dataclass
class Answered:
    """Complete answers of status 200.

    :param calls: replies written to the end.
    :param choices: answers in them; more than calls where one asked for `n`.
    """

    calls: int = 0
    choices: int = 0


class FakeLLM:
    """An OpenAI-compatible server on 127.0.0.1, in a thread, for the time of a `with` block.

    Serves `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/models`, and Azure's paths for the same.

    :param answer: what the model says: a text, or a function of the messages, or of the messages and the body of the request,
        that returns a text or a dict (sent as JSON text); `sensible` is one. It runs in the server's thread, once per answer.
        By default the answer quotes the request, and is the same for the same request. If it raises, the reply is status 400
        with the exception's text.
    :param latency: seconds before each reply, or a function of a `random.Random` that draws them.
    :param faults: what goes wrong, and when; the first that applies strikes. See `Fault`, `Hang`, `Drop`, `Malformed`,
        `HalfBody`.
    :param api_key: the only key that is let in; None lets everyone in.
    :param models: the only models that exist; None has all.
    :param honours_n: False gives one answer whatever `n` asks for, as some servers do.
    :param dimensions: length of embeddings.
    :param keep: how many of the latest request bodies `requests` remembers.
    :param journal: file that gets one JSON line per complete answer of status 200: `request` (digest), `n`, `time`.
    :param port: 0 takes a free one.
    :param host: address to listen at; `0.0.0.0` lets other containers and machines in.
    """

    def __init__(
        self,
        answer: Say | Speaker | None = None,
        *,
        latency: float | Callable[[random.Random], float] = 0.0,
        faults: Iterable[Strikes] = (),
        api_key: str | None = None,
        models: Iterable[str] | None = None,
        honours_n: bool = True,
        dimensions: int = 8,
        keep: int = 10_000,
        journal: str | os.PathLike[str] | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self._voice = Voice(answer, dimensions)
        self._latency = latency
        self._api_key = api_key
        self._models = None if models is None else sorted(models)
        self._honours_n = honours_n
        self._journal_path = journal
        self._journal = -1
        self._port = port
        self._host = host
        self._random = random.Random(0)
        self._gate = Gate()
        self._faults: list[list[Any]] = [[fault, fault.times] for fault in faults]
        self._requests: deque[dict[str, Any]] = deque(maxlen=keep)
        self._arrived = threading.Condition()
        self._arrivals = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.calls: Counter[str] = Counter()
        """How often each request came, by `request_digest`; failed and refused ones included."""
        self.answered = Answered()
        """Complete answers of status 200."""
        self.in_flight = 0
        """Requests received and not yet replied to."""
        self.peak_in_flight = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"FakeLLM({self.base_url if self._thread else 'stopped'}, {self._arrivals} calls)"

    def start(self) -> Self:
        """Listen. `with` does this."""
        ready: list[BaseException | None] = []
        listening = threading.Event()

        def run() -> None:
            try:
                asyncio.run(self._serve(listening))
            except BaseException as error:  # noqa: BLE001  told to the thread that waits
                ready.append(error)
                listening.set()

        if self._journal_path is not None:
            self._journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._thread = threading.Thread(target=run, name="FakeLLM", daemon=True)
        self._thread.start()
        listening.wait()
        if ready and ready[0] is not None:
            self._thread.join()
            raise ready[0]
        return self

    def stop(self) -> None:
        """Break off what is in flight and free the port. `with` does this."""
        if self._loop and self._stop and self._thread and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._thread = None
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    @property
    def url(self) -> str:
        """Root of the server: the endpoint of an Azure resource."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """Root of the API, for an OpenAI client."""
        return f"{self.url}/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Bodies of the latest requests, oldest first."""
        return list(self._requests)

    def fail_next(self, fault: Strikes | int = 500, times: int = 1, **reply: Any) -> None:
        """Let the next requests fail, before any other fault strikes.

        :param fault: a fault, or a status for one.
        :param times: how many requests fail.
        :param reply: `headers`, `body`, `when` of the `Fault`, if a status is given.
        """
        striking = Fault(status=fault, **reply) if isinstance(fault, int) else fault
        self._faults.insert(0, [striking, times])

    def hold(self) -> None:
        """Receive requests, but let no reply out until `release`."""
        self._call(self._gate.hold)

    def release(self, count: int | None = None) -> None:
        """Let `count` replies out, in the order of arrival; None lets out all, and those to come."""
        self._call(self._gate.release, count)

    def wait_for(self, calls: int, timeout: float = 10.0) -> None:
        """Block until that many requests have arrived since the start; in a coroutine, use `asyncio.to_thread`.

        :raises TimeoutError: fewer arrived in `timeout` seconds.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._arrivals >= calls, timeout):
                raise TimeoutError(f"{self._arrivals} of {calls} requests arrived in {timeout:g} s.")

    @contextmanager
    def as_connection(self, conn_id: str = "distil_llm_default", *, model: str = "fake", **extra: Any) -> Iterator[Self]:
        """Make this server an Airflow connection for the time of a `with` block, in this process and its children.

        :param conn_id: id of the connection.
        :param model: its default model.
        :param extra: its other fields: `timeout`, `max_concurrency`, `input_price`, …
        """
        variable = f"AIRFLOW_CONN_{conn_id.upper()}"
        before = os.environ.get(variable)
        os.environ[variable] = json.dumps(
            {
                "conn_type": "distil_llm",
                "host": self.base_url,
                "password": self._api_key or "",
                "extra": {"model": model, **extra},
            }
        )
        try:
            yield self
        finally:
            if before is None:
                del os.environ[variable]
            else:
                os.environ[variable] = before

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        """Call in the server's loop, and return when it is done: a test relies on the order."""
        if self._loop is None or self._thread is None:
            raise RuntimeError("The FakeLLM is not running: use it in a `with` block.")
        done = threading.Event()

        def run() -> None:
            function(*args)
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()

    async def _serve(self, listening: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # No router and no access log: a fake that is slower than the client measures itself. A handler ends with its
        # client, so that hanging requests do not outlive the test.
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, backlog=BACKLOG)
        await site.start()
        self._port = int(runner.addresses[0][1])
        listening.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            reply = await self._reply(request)
        finally:
            # Before the first byte leaves: a test that has all its answers must find nothing in flight.
            self.in_flight -= 1
        return await self._send(request, reply) if isinstance(reply, _Complete) else reply

    async def _reply(self, request: web.BaseRequest) -> web.StreamResponse | _Complete:
        asked, deployment = _route(request.path)
        if asked is None:
            return _refusal(404, f"Unknown request URL: {request.method} {request.path}.", type="invalid_request_error")
        key = request.headers.get("api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._api_key is not None and key != self._api_key:
            # Some servers do repeat the key. Ours must never reach a log from there.
            return _refusal(401, f"Incorrect API key provided: {key}.", code="invalid_api_key")
        if asked == "models":
            listed = [{"id": model, "object": "model"} for model in self._models or ["fake"]]
            return web.json_response({"object": "list", "data": listed})
        return await self._generate(request, asked, deployment)

    async def _generate(self, request: web.BaseRequest, asked: str, deployment: str | None) -> web.StreamResponse | _Complete:
        try:
            body = json.loads(await request.read())
            messages = messages_of(asked, body)
        except (ValueError, KeyError, TypeError):
            return _refusal(400, "The body is not a JSON object of such a request.", type="invalid_request_error")
        digest = self._arrive(body)
        await self._gate.passed()
        if seconds := self._latency(self._random) if callable(self._latency) else self._latency:
            await asyncio.sleep(seconds)
        model = deployment or body.get("model")
        if self._models is not None and model not in self._models:
            return _refusal(404, f"The model {model!r} does not exist.", code="model_not_found")
        fault = self._struck(messages)
        try:
            count = (body.get("n") or 1) if self._honours_n else 1
            content, choices = self._voice.reply(asked, body | {"model": model}, messages, count)
        except Exception as error:  # noqa: BLE001  of the test's own function: shown where the test looks
            return _refusal(400, f"The answer function raised {type(error).__name__}: {error}", code="answer_raised")
        return await fault.strike(request, content) if fault else _Complete(content, digest, choices)

    def _arrive(self, body: dict[str, Any]) -> str:
        digest = request_digest(body)
        self.calls[digest] += 1
        self._requests.append(body)
        with self._arrived:
            self._arrivals += 1
            self._arrived.notify_all()
        return digest

    async def _send(self, request: web.BaseRequest, reply: _Complete) -> web.StreamResponse:
        # Counted before the first byte leaves, for the same reason, and taken back if the client has gone.
        self.answered.calls += 1
        self.answered.choices += reply.choices
        response = web.Response(body=reply.content, content_type="application/json")
        try:
            await response.prepare(request)
            await response.write_eof()
        except BaseException:
            self.answered.calls -= 1
            self.answered.choices -= reply.choices
            raise
        if self._journal >= 0:
            line = json.dumps({"request": reply.digest, "n": reply.choices, "time": time.time()}) + "\n"
            os.write(self._journal, line.encode())
        return response

    def _struck(self, messages: Messages) -> Strikes | None:
        for entry in list(self._faults):
            fault, left = entry
            if fault.when is None or fault.when(messages):
                if left is not None:
                    entry[1] = left - 1
                    if left <= 1:
                        self._faults.remove(entry)
                if left is None or left > 0:
                    return fault  # type: ignore[no-any-return]
        return None


def _route(path: str) -> tuple[str | None, str | None]:
    """Return what is asked for, and the deployment if the path is Azure's."""
    known = {"chat/completions", "completions", "embeddings", "models"}
    if path.startswith("/v1/") and path[4:] in known:
        return path[4:], None
    if path.startswith("/openai/deployments/"):
        deployment, _, rest = path.removeprefix("/openai/deployments/").partition("/")
        return (rest, deployment) if rest in known else (None, None)
    return ("models", None) if path == "/openai/models" else (None, None)


def _refusal(status: int, message: str, *, code: str | None = None, type: str = "error") -> web.Response:
    return web.json_response(error_body(message, code=code, type=type), status=status)
