"""What goes wrong with the model: refusals, silence, half and foreign replies, lost keys and quotas."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from aiohttp import web

from airflow_distil.testing import Drop, Fault, HalfBody, Hang, Malformed
from airflow_distil.testing.faults import error_body
from tests.chaos.bench import Bench, Catalogue, last_error

fault = Catalogue()
FAULTS = fault.faults


def survives(bench: Bench) -> str:
    """Run an attempt to its end, or what Airflow starts after it."""
    return "survived" if bench.start().wait(150) == 0 else "failed, " + bench.retried()


def struck(bench: Bench, chance: Random, trouble: Any, times: int | None, *, low: float = 0.05, high: float = 0.7) -> str:
    """Let the model have some trouble in the middle of an attempt."""
    attempt = bench.start()
    bench.at(chance, low, high)
    bench.llm.fail_next(trouble, times)  # type: ignore[arg-type]
    return "survived" if attempt.wait(150) == 0 else "failed, " + bench.retried()


def seldom(chance: Random, share: float) -> Callable[[Any], bool]:
    """Return a condition that holds for a share of requests."""
    drawn = random.Random(chance.random())
    return lambda messages: drawn.random() < share


def for_seconds(seconds: float) -> Callable[[Any], bool]:
    """Return a condition that holds from when it is first asked, and for so long."""
    until: list[float] = []

    def holds(_: Any) -> bool:
        until[:] = until or [time.monotonic() + seconds]
        return time.monotonic() < until[0]

    return holds


def row_of(messages: list[dict[str, Any]]) -> int:
    """Return which question a request asks."""
    found = re.search(r"question (\d+)", str(messages[-1]["content"]))
    assert found is not None
    return int(found[1])


@fault("429 storm, Retry-After", "file", "gs")
def storm_told(bench: Bench, chance: Random) -> str:
    """For five seconds every request is refused, and told to come back in a second."""
    return struck(bench, chance, Fault(status=429, headers={"Retry-After": "1"}, when=for_seconds(5.0)), None)


@fault("429 storm, no headers", "file", "gs")
def storm_untold(bench: Bench, chance: Random) -> str:
    """For five seconds every request is refused, and told nothing."""
    return struck(bench, chance, Fault(status=429, when=for_seconds(5.0)), None)


@fault("500 for 30 % of requests", "file", "s3")
def server_errors(bench: Bench, chance: Random) -> str:
    """The server fails at random, all the time."""
    bench.llm.fail_next(Fault(status=500, when=seldom(chance, 0.3)), None)  # type: ignore[arg-type]
    return survives(bench)


@fault("model hangs for ever", "file", "s3", connection={"timeout": 2})
def hangs(bench: Bench, chance: Random) -> str:
    """Some requests are never answered; the connection's timeout ends them."""
    return struck(bench, chance, Hang(), 10)


@fault("connection dropped before the reply", "file", "gs")
def dropped_before(bench: Bench, chance: Random) -> str:
    """Connections break before a reply begins, for 20 % of requests."""
    bench.llm.fail_next(Drop(after=0, when=seldom(chance, 0.2)), None)  # type: ignore[arg-type]
    return survives(bench)


@fault("connection dropped in the reply", "file", "gs")
def dropped_in_the_middle(bench: Bench, chance: Random) -> str:
    """Connections break in the middle of a reply, for 20 % of requests."""
    bench.llm.fail_next(Drop(after=chance.uniform(0.05, 0.95), when=seldom(chance, 0.2)), None)  # type: ignore[arg-type]
    return survives(bench)


@fault("half bodies", "file", "s3")
def half_bodies(bench: Bench, chance: Random) -> str:
    """Replies that HTTP takes for complete hold half of the JSON, for 20 % of requests."""
    bench.llm.fail_next(HalfBody(when=seldom(chance, 0.2)), None)  # type: ignore[arg-type]
    return survives(bench)


@fault("HTML instead of JSON", "file", "gs")
def html(bench: Bench, chance: Random) -> str:
    """A proxy in between answers with status 200 and a page, for 20 % of requests."""
    bench.llm.fail_next(Malformed(when=seldom(chance, 0.2)), None)  # type: ignore[arg-type]
    return survives(bench)


@fault("JSON of another shape", "file", "s3")
def other_shapes(bench: Bench, chance: Random) -> str:
    """Status 200 with JSON that is no answer: no choices, none in them, no message, not even an object."""
    bodies: list[Any] = [{}, {"choices": []}, {"choices": [{}]}, {"choices": None}, "[1]", '"yes"', "null"]
    attempt = bench.start()
    bench.at(chance, 0.05, 0.7)
    for body in bodies:
        bench.llm.fail_next(Fault(status=200, body=body), 3)
    return "survived" if attempt.wait(150) == 0 else "failed, " + bench.retried()


@fault("answers without content", "file", "s3")
def no_content(bench: Bench, chance: Random) -> str:
    """Three percent of the answers have null as content: these rows are unparsed and say so, and the task is green."""
    empty = {
        "model": "fake",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None}}],
    }
    mute = Fault(status=200, body=empty, when=lambda messages: row_of(messages) % 33 == 7)
    bench.llm.fail_next(mute, None)  # type: ignore[arg-type]
    outcome = survives(bench)
    _only(bench, "unparsed", {n for n in range(bench.rows) if n % 33 == 7})
    return outcome


def _only(bench: Bench, status: str, rows: set[int]) -> None:
    """Check that just these rows have another fate than ok, and say why."""
    others = {row["distil_row"] for row in bench.dataset() if row["distil_status"] == status and row["distil_error"]}
    bench.check(others == rows, f"rows {sorted(others)} are {status} instead of {sorted(rows)}")
    notok = sum(row["distil_status"] != "ok" for row in bench.dataset())
    bench.check(notok == len(rows), f"{notok} rows are not ok instead of {len(rows)}")
    bench.needed -= len(rows)
    bench.not_ok = rows


@dataclass(frozen=True)
class Renamed:
    """A complete answer of status 200, which says that another model gave it.

    :param bench: where it is counted.
    """

    bench: Bench
    times: int | None = None
    when: None = None

    async def strike(self, _request: web.BaseRequest, reply: bytes, /) -> web.StreamResponse:
        """Reply."""
        self.bench.llm.answered.calls += 1
        return web.json_response({**json.loads(reply), "model": "fake-2026-11-24"})


@fault("other model name in the reply", "file")
def renamed(bench: Bench, chance: Random) -> str:
    """In the middle of the run the alias leads to another version of the model; a retry finds its answers all the same."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.6)
    bench.llm.fail_next(Renamed(bench), None)  # type: ignore[arg-type]
    bench.arrived(int(bench.rows * 0.8))
    attempt.kill()
    bench.crash()
    outcome = bench.retried()
    models = {entry["model"] for row in bench.dataset() for entry in row["distil_metadata"]}
    bench.check(models == {"fake", "fake-2026-11-24"}, f"the metadata name {models}")
    return outcome


@fault("model server restarts", "file", "gs", "s3")
def restarted(bench: Bench, chance: Random) -> str:
    """The server is gone for three seconds, and comes back at the same port."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.7)
    bench.llm.stop()
    bench.crash()
    attempt.poll(3)
    bench.llm.start()
    return "survived" if attempt.wait(150) == 0 else "failed, " + bench.retried()


@fault("key revoked", "file", "gs", llm={"api_key": "hunter2-first"})
def key_revoked(bench: Bench, chance: Random) -> str:
    """The key is refused from some moment on: the task stops, says so, and the clear with a new key pays for the rest only."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.8)
    bench.llm._api_key = "hunter2-second"
    bench.check(attempt.wait(60) != 0, "it ended as a success")
    bench.check(attempt.final, "Airflow would try again with the same key")
    bench.check("check the API key" in attempt.said, f"it does not say what to do: {last_error(attempt.said)}")
    bench.check("hunter2" not in attempt.said, "the key is in the log")
    bench.check(not bench.published(), "something was published")
    bench.key = "hunter2-second"
    return "failed and said why, " + bench.retried(THOUSAND_CLEARED="1").replace("retry", "clear")


@fault("quota gone", "file", "s3")
def quota_gone(bench: Bench, chance: Random) -> str:
    """Status 429 with insufficient_quota from some moment on: no waiting helps, so the task stops, and the clear goes on."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.8)
    refusal = Fault(status=429, body=error_body("You exceeded your current quota.", code="insufficient_quota"))
    bench.llm.fail_next(refusal, None)  # type: ignore[arg-type]
    bench.check(attempt.wait(60) != 0, "it ended as a success")
    bench.check(attempt.final, "Airflow would try again without quota")
    bench.check("QuotaExceeded" in attempt.said, f"it does not say why: {last_error(attempt.said)}")
    bench.llm._faults.clear()
    return "failed and said why, " + bench.retried(THOUSAND_CLEARED="1").replace("retry", "clear")


@fault("3 % content-filtered", "file", "gs")
def filtered(bench: Bench, chance: Random) -> str:
    """The provider refuses three percent of the rows for good: these are failed and say why, the others are ok."""
    offset = int(33 * chance.random())
    refusal = Fault(
        status=400,
        body=error_body("The prompt triggered the content filter.", code="content_filter"),
        when=lambda messages: row_of(messages) % 33 == offset,
    )
    bench.llm.fail_next(refusal, None)  # type: ignore[arg-type]
    outcome = survives(bench)
    _only(bench, "failed", {n for n in range(bench.rows) if n % 33 == offset})
    return outcome


def _tail(drawn: random.Random) -> float:
    return 4.0 if drawn.random() < 0.01 else 0.02


@fault("1 % stragglers", "file", "s3", latency=_tail, rows=500)
def stragglers(bench: Bench, chance: Random) -> str:
    """One answer in a hundred takes two hundred times as long, and the task is killed among them."""
    attempt = bench.start()
    bench.at(chance, 0.5, 1.0)
    attempt.kill()
    bench.crash()
    return bench.retried()
