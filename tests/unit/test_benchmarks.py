"""The benchmarks run, small and without peers, and count what they say they count."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.benchmarks import __main__ as everything
from tests.benchmarks import durability, endpoint, imports, latency, memory, speed
from tests.benchmarks.endpoint import Endpoint, Settings, State
from tests.benchmarks.runs import OURS

QUICK = Settings(latency=0.01, spread=0.02)
ROWS = 200


def ask(server: Endpoint, text: str) -> dict:
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": text}]}).encode()
    with urlopen(Request(f"{server.base_url}/chat/completions", body)) as reply:
        return json.load(reply)


def test_every_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A change of the engine broke a benchmark, and it was seen on the day somebody wanted figures."""
    fast = speed.measure(ROWS, ROWS, 1, peers=False, concurrency=(speed.COMPARED,))
    assert "| – share of bare aiohttp |" in speed.table(fast)
    plain = latency.measure(QUICK, 50, [(OURS, 16)])
    assert plain[0].report["answered"] == 50 * 16
    assert "| airflow-distil (" in latency.table(plain)
    sizes = memory.measure([50, ROWS])
    assert f"| {ROWS} |" in memory.table(sizes)
    assert "10,000,000 rows" in memory.fit(sizes)
    pairs = durability.measure(ROWS, 1)
    assert "| durability costs |" in durability.table(pairs)
    # Not measured here: each import of Airflow takes seconds.
    parsed = {case: [(1.0, 0.04)] for case in imports.CASES}
    assert "| 40.0 / 40.0 | 4.0% |" in imports.table(parsed)
    text = everything.summary(everything.Results(fast, plain, plain, sizes, pairs, parsed))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{everything.BEGIN}old\n{everything.END}after\n")
    monkeypatch.setattr(everything, "README", readme)
    everything.write(text)
    assert readme.read_text() == f"before\n{everything.BEGIN}\n{text}\n\n{everything.END}after\n"


def test_readme_has_a_place_for_the_table():
    """`make bench` ran for half an hour and found nowhere to write to."""
    text = everything.README.read_text()
    assert 0 < text.find(everything.BEGIN) < text.find(everything.END)


def test_endpoint_tells_what_it_did():
    """A share of Little's law is only worth what the endpoint's own counts are."""
    with Endpoint() as server:
        server.set(Settings(latency=0.05, characters=4))
        before = server.report()
        reply = ask(server, "a long question")
        report = server.report()
    assert reply["choices"][0]["message"]["content"] == "a lo"
    assert before["answered"] == before["begun"] == 0
    assert (report["answered"], report["begun"], report["peak"], report["in_flight"]) == (1, 1, 1, 0)
    *_, latency, area = report["timeline"][-1]
    # One request at a time: the integral of those in flight is the time that it took.
    assert 0.05 <= latency == pytest.approx(area)


def test_endpoint_refuses_as_many_as_it_is_told():
    """Errors that come by chance move the mean by more than the targets leave."""
    with Endpoint() as server:
        server.set(Settings(errors=100))
        with pytest.raises(HTTPError, match="503") as refused:
            ask(server, "anything")
        refused.value.close()
        assert server.report()["refused"] == 1


def test_stragglers_and_errors_are_dealt_evenly():
    """One seed had three stragglers in the steady part and another one thirty."""
    state = State(Settings(stragglers=2, straggler_seconds=20.0, errors=1))
    for _ in range(5):
        dealt = [state.draw() for _ in range(endpoint.DECK)]
        assert sum(seconds == 20.0 for seconds, _ in dealt) == 2
        assert sum(refused for _, refused in dealt) == 1


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data


def test_endpoint_takes_a_request_in_pieces():
    """A client that sends head and body apart waited for ever, or was answered twice."""
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "pieces"}]}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    connection, wire = endpoint.Connection(endpoint.Server(asyncio.new_event_loop())), Wire()
    connection.connection_made(wire)
    for _ in range(2):
        for start in range(0, len(request) - 7, 7):
            connection.data_received(request[start : start + 7])
        assert not wire.written
        connection.data_received(request[start + 7 :])
        head, _, said = wire.written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(said)["choices"][0]["message"]["content"] == "pieces"
        wire.written = b""
    connection.server.loop.close()


def test_exponents():
    """A fit that calls quadratic growth linear would hide the one thing it is for."""
    rows = [1000, 10_000, 100_000]
    assert memory.exponent(rows, [each**2 / 7 for each in rows]) == pytest.approx(2)
    assert memory.exponent(rows, [3.0] * 3) == pytest.approx(0)
