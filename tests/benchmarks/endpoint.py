"""A model's endpoint that is never what a benchmark waits for: `python -m tests.benchmarks.endpoint` tells its limit.

`airflow_distil.testing.FakeLLM` is made to fail in many ways; this one is made to be fast: a process of its own, uvloop, and as
little HTTP as clients send. It answers POST …/chat/completions with part of the prompt, after the latency that it is told, and
writes down ten times a second what it did.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

# So often the timeline is written on; a steady part of a few seconds has enough of its points.
TICK = 0.1
# Stragglers and errors are dealt out like cards, so many in each deck: by chance alone, 1 % of 2,000 rows would be 20 ± 9, and
# with 20 s each that moves the mean latency, which the figures are a share of, by more than the targets leave.
DECK = 100
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
REPLY = (
    b'{"id":"chatcmpl-%d","object":"chat.completion","created":1760000000,"model":%s,"choices":[{"index":0,"message":'
    b'{"role":"assistant","content":%s},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,'
    b'"completion_tokens":%d,"total_tokens":%d}}'
)
REFUSAL = b'{"error":{"message":"The server is overloaded.","type":"server_error","code":null}}'
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """How it answers.

    :param latency: seconds before each answer.
    :param spread: seconds at most on top, uniformly distributed.
    :param stragglers: of a hundred requests, those that take `straggler_seconds`.
    :param straggler_seconds: instead of latency and spread.
    :param errors: of a hundred requests, those that are answered with 503.
    :param characters: of the prompt that come back.
    :param seed: for what is random.
    """

    latency: float = 0.0
    spread: float = 0.0
    stragglers: int = 0
    straggler_seconds: float = 20.0
    errors: int = 0
    characters: int = 200
    seed: int = 7


class State:
    """What is counted, since it was last set."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.begun = self.answered = self.refused = self.in_flight = self.peak = 0
        self.first = self.last = 0.0
        self._cpu = time.process_time()
        # The integral of the requests in flight over time: with it, their mean between two points is exact.
        self._area = 0.0
        self._changed = time.monotonic()
        self._points: list[tuple[float, int, int, int, float]] = []
        # Seconds that those requests took which began after each point. Among those that ended there, the slow ones are late.
        self._latencies = [0.0]
        self._chance = random.Random(settings.seed)
        self._deck: Iterator[tuple[bool, bool]] = iter(())

    def draw(self) -> tuple[float, bool]:
        """Return the latency of the next request, and whether it is refused."""
        settings = self.settings
        straggles, refused = False, False
        if settings.stragglers or settings.errors:
            card = next(self._deck, None)
            if card is None:
                late = set(self._chance.sample(range(DECK), settings.stragglers))
                wrong = set(self._chance.sample(range(DECK), settings.errors))
                self._deck = iter([(place in late, place in wrong) for place in range(DECK)])
                card = next(self._deck)
            straggles, refused = card
        if straggles:
            return settings.straggler_seconds, refused
        return settings.latency + (self._chance.uniform(0, settings.spread) if settings.spread else 0.0), refused

    def begin(self) -> tuple[float, int]:
        """Count a request; return when it began, and after which point of the timeline."""
        now = self._move()
        self.first = self.first or now
        self.begun += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        return now, len(self._points)

    def end(self, began: float, point: int) -> None:
        """Count its end, whatever that was."""
        self.last = now = self._move()
        self.in_flight -= 1
        self._latencies[point] += now - began

    def note(self) -> None:
        """Write the timeline on, if anything has happened since."""
        if not self._points or self._points[-1][1:4] != (self.answered, self.refused, self.begun):
            now = self._move()
            self._points.append((now, self.answered, self.refused, self.begun, self._area))
            self._latencies.append(0.0)

    def report(self) -> dict[str, Any]:
        """Return all of it, with the seconds of CPU that the server took.

        Each point of the timeline has time, answered, refused, begun, the latency of those begun, and the integral.
        """
        self.note()
        latencies = accumulate(self._latencies)
        timeline = [(*point[:4], latency, point[4]) for point, latency in zip(self._points, latencies, strict=False)]
        counted = {name: getattr(self, name) for name in ("begun", "answered", "refused", "in_flight", "peak", "first", "last")}
        return {**counted, "timeline": timeline, "cpu": time.process_time() - self._cpu}

    def _move(self) -> float:
        now = time.monotonic()
        self._area += self.in_flight * (now - self._changed)
        self._changed = now
        return now


class Connection(asyncio.Protocol):
    """One client's connection: one request at a time, as all clients send them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.received = b""
        self.transport: Any = None
        self.waiting: asyncio.TimerHandle | None = None
        self.began = (0.0, 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
            self.server.state.end(*self.began)

    def data_received(self, data: bytes) -> None:
        received = self.received + data if self.received else data
        end = received.find(b"\r\n\r\n")
        length = LENGTH.search(received, 0, end) if end >= 0 else None
        if end < 0 or len(received) - end - 4 < (int(length[1]) if length else 0):
            self.received = received
            if end >= 0 and b"100-continue" in received[:end]:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        self.received = b""
        self.answer(received[: received.find(b"\r\n")], received[end + 4 :])

    def answer(self, line: bytes, body: bytes) -> None:
        if b"/chat/completions " not in line:
            reply = self.server.control(line, body)
            self.transport.write(HEAD % (len(reply), reply))
            return
        state, request = self.server.state, json.loads(body)
        if not request["messages"]:  # curator asks so for the rate limits in the headers
            self.transport.write(REFUSED % (len(REFUSAL), REFUSAL))
            return
        began = state.begin()
        seconds, refused = state.draw()
        if refused:
            reply = REFUSED % (len(REFUSAL), REFUSAL)
        else:
            prompt = request["messages"][-1]["content"]
            said = prompt[: state.settings.characters]
            tokens_in, tokens_out = len(prompt) // 4, len(said) // 4
            model, text = (json.dumps(value).encode() for value in (request["model"], said))
            content = REPLY % (state.answered, model, text, tokens_in, tokens_out, tokens_in + tokens_out)
            reply = HEAD % (len(content), content)
        if seconds:
            self.began = began
            self.waiting = self.server.loop.call_later(seconds, self.finish, state, began, reply, refused)
        else:
            self.finish(state, began, reply, refused)

    def finish(self, state: State, began: tuple[float, int], reply: bytes, refused: bool) -> None:
        self.waiting = None
        state.end(*began)
        if refused:
            state.refused += 1
        else:
            state.answered += 1
        self.transport.write(reply)


class Server:
    """The process: its state, and how it is told and asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.state = State(Settings())

    def control(self, line: bytes, body: bytes) -> bytes:
        if line.startswith(b"POST /set "):
            self.state = State(Settings(**json.loads(body)))
        if line.startswith(b"GET /v1/models"):
            return b'{"object":"list","data":[{"id":"fake","object":"model","created":1760000000,"owned_by":"nobody"}]}'
        return json.dumps(self.state.report()).encode()

    def tick(self) -> None:
        self.state.note()
        self.loop.call_later(TICK, self.tick)


async def serve() -> None:
    """Serve on a free port, which is printed, until standard input is closed: by its parent, or by the parent's end."""
    loop = asyncio.get_running_loop()
    server = Server(loop)
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096)
    server.tick()
    print(listening.sockets[0].getsockname()[1], flush=True)
    parent_gone = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), parent_gone.set)
    await parent_gone.wait()
    listening.close()


class Endpoint:
    """The endpoint, for the time of a `with` block."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.endpoint", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
        )
        assert self._process.stdout is not None
        self.root = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.base_url = f"{self.root}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def set(self, settings: Settings) -> None:
        """Start to count anew."""
        body = json.dumps(asdict(settings)).encode()
        with urlopen(Request(f"{self.root}/set", body, {"Content-Type": "application/json"})) as reply:
            reply.read()

    def report(self) -> dict[str, Any]:
        """Return what was counted since."""
        with urlopen(f"{self.root}/report") as reply:
            return json.load(reply)  # type: ignore[no-any-return]


class Raw(asyncio.Protocol):
    """A client that does nothing but count: what it reaches is the endpoint's limit."""

    def __init__(self, request: bytes, until: float, counts: list[int], ended: asyncio.Future[None]) -> None:
        self.request, self.until, self.counts, self.ended = request, until, counts, ended
        self.missing = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        # An answer is one write of less than a packet here; the last byte of its body closes two braces.
        if not data.endswith(b"}}"):
            return
        self.counts[0] += 1
        if time.monotonic() < self.until:
            self.transport.write(self.request)
        elif not self.ended.done():
            self.transport.close()
            self.ended.set_result(None)


async def load(port: int, seconds: float, connections: int) -> int:
    """Return how many answers it took within some seconds."""
    loop = asyncio.get_running_loop()
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "word " * 100}]}).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    request = head % len(body) + body
    counts, until = [0], time.monotonic() + seconds
    ended: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    for each in ended:
        await loop.create_connection(lambda each=each: Raw(request, until, counts, each), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*ended)
    return counts[0]


def limit(seconds: float = 5.0, connections: int = 64) -> tuple[float, float]:
    """Return what the endpoint answers per second, and per second of its own CPU."""
    import uvloop

    with Endpoint() as endpoint:
        began = time.monotonic()
        count = uvloop.run(load(int(endpoint.root.rpartition(":")[2]), seconds, connections))
        taken = time.monotonic() - began
        return count / taken, count / endpoint.report()["cpu"]


def main() -> None:
    """Serve, or measure."""
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.endpoint", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="serve until standard input is closed")
    if parser.parse_args().serve:
        uvloop.run(serve())
    else:
        per_second, per_cpu = limit()
        print(f"{per_second:,.0f} requests/s over 64 raw connections; {per_cpu:,.0f} per second of its one core")


if __name__ == "__main__":
    main()
