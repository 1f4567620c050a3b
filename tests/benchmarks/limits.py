"""How much of what a provider allows is used, and how often it refuses: `python -m tests.benchmarks.limits`.

The real limiter and the real asker run against modelled providers, in an event loop whose time passes only when nothing is left
to do: ten minutes take a second. Beside them fixed concurrency, and the policies of two peers as their sources have them.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_distil.conversation import Allowance, Answer, Chat, Quota, Request, Usage, user
from airflow_distil.engine.ask import window
from airflow_distil.engine.asking import Asker
from airflow_distil.engine.limits import Limiter
from airflow_distil.exceptions import RateLimited, Transient
from tests.virtual_time import in_virtual_time, now

MINUTE = 60.0
TIMEOUT = 120.0
PROMPT_TOKENS = 300


# --- what a provider counts ---------------------------------------------------------------------------------------------------


class Window:
    """So many units in each window of wall-clock time, as Mistral and OpenRouter count."""

    def __init__(self, limit: float, seconds: float = MINUTE) -> None:
        self.limit, self.seconds = limit, seconds
        self.used, self.number = 0.0, 0

    def _turn(self) -> None:
        number = int(now() / self.seconds)
        if number != self.number:
            self.number, self.used = number, 0.0

    def take(self, units: float) -> float:
        """Take units; return 0, or the seconds until they can be had."""
        self._turn()
        if self.used + units > self.limit:
            return self._left()
        self.used += units
        return 0.0

    def _left(self) -> float:
        return (self.number + 1) * self.seconds - now()

    def quota(self) -> Quota:
        self._turn()
        return Quota(self.limit, max(0.0, self.limit - self.used), self._left())

    def allowed(self, seconds: float) -> float:
        return self.limit * seconds / self.seconds


class Bucket:
    """A bucket that fills steadily, as OpenAI's and Groq's do.

    :param penalty: units that a refusal costs.
    """

    def __init__(self, limit: float, seconds: float = MINUTE, penalty: float = 0.0) -> None:
        self.limit, self.rate, self.penalty = limit, limit / seconds, penalty
        self.stock, self.at = limit, 0.0

    def _fill(self) -> None:
        self.stock = min(self.limit, self.stock + (now() - self.at) * self.rate)
        self.at = now()

    def take(self, units: float) -> float:
        self._fill()
        if self.stock < units:
            wait = (units - self.stock) / self.rate
            self.stock -= self.penalty
            return wait
        self.stock -= units
        return 0.0

    def quota(self) -> Quota:
        self._fill()
        return Quota(self.limit, math.floor(self.stock), (self.limit - self.stock) / self.rate)

    def allowed(self, seconds: float) -> float:
        return self.limit + self.rate * seconds


@dataclass
class Provider:
    """An endpoint: it refuses by what it counts, and takes its time.

    :param seconds: of an answer, in the mean.
    :param requests: limits of requests; the first is the one of the headers.
    :param tokens: limit of tokens.
    :param says: `headers` in each reply, `retry-after` with a refusal, or nothing.
    :param capacity: requests in flight that it takes at a time of the run; beyond it refuses.
    :param slots: requests it works on at once; the others queue.
    :param batch: requests at which an answer takes twice as long, because they share the machine.
    :param neighbours: requests a second that others send, at a time of the run.
    """

    seconds: float = 4.0
    requests: list[Window | Bucket] = field(default_factory=list)
    tokens: Window | Bucket | None = None
    says: str = "headers"
    capacity: Callable[[float], float] | None = None
    slots: int | None = None
    batch: float | None = None
    neighbours: Callable[[float], float] | None = None
    seed: int = 0
    answered: int = 0
    answered_tokens: float = 0.0
    refused: int = 0
    timeouts: int = 0
    taken_by_others: float = 0.0
    in_flight: int = 0
    working: int = 0
    limiters: list[tuple[Limiter, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._free = asyncio.Semaphore(self.slots) if self.slots else None

    async def call(self) -> tuple[int, int, Allowance | None]:
        """Answer once: the tokens of prompt and answer, and what the headers say.

        :raises RateLimited: if a limit is reached.
        """
        # The spread of real answers: half are shorter than 0.88 of the mean, one in twenty is longer than twice it.
        spread = self.random.lognormvariate(-0.125, 0.5)
        output = max(1, round(500 * spread))
        await asyncio.sleep(0.05)  # there
        wait = self._take(PROMPT_TOKENS + output)
        if wait is not None:
            self.refused += 1
            await asyncio.sleep(0.05)
            error = RateLimited("429", None if self.says == "nothing" or wait == 0 else math.ceil(wait))
            error.allowance = self._allowance()
            raise error
        allowance = self._allowance()
        self.in_flight += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._work(spread)
        except TimeoutError:
            self.timeouts += 1
            raise Transient("timeout") from None
        finally:
            self.in_flight -= 1
        self.answered += 1
        self.answered_tokens += PROMPT_TOKENS + output
        return PROMPT_TOKENS, output, allowance

    async def _work(self, spread: float) -> None:
        if self._free is None:
            await asyncio.sleep(self.seconds * spread)
            return
        async with self._free:
            self.working += 1
            slower = 1 + self.working / self.batch if self.batch else 1
            try:
                await asyncio.sleep(self.seconds * spread * slower)
            finally:
                self.working -= 1

    def _take(self, tokens: int) -> float | None:
        if self.capacity is not None and self.in_flight >= self.capacity(now()):
            return 0.0
        waits = [limit.take(1) for limit in self.requests]
        if self.tokens is not None:
            waits.append(self.tokens.take(tokens))
        return max(waits) if any(waits) else None

    def _allowance(self) -> Allowance | None:
        if self.says != "headers":
            return None
        return Allowance(self.requests[0].quota() if self.requests else None, self.tokens.quota() if self.tokens else None)

    async def live(self) -> None:
        """Let others draw on the same limits."""
        while self.neighbours:
            await asyncio.sleep(self.random.expovariate(max(0.01, self.neighbours(now()))))
            if self._take(800) is None:
                self.taken_by_others += 1


# --- who asks -----------------------------------------------------------------------------------------------------------------

Client = Callable[[Provider], Awaitable[None]]
"""Asks a provider for rows without end."""


class _LLM:
    model = "model"
    parameters: dict[str, Any] = {}
    input_price = output_price = None

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    async def answer(self, request: Request, n: int = 1) -> list[Answer]:
        tokens_in, tokens_out, allowance = await self.provider.call()
        return [Answer(text="", usage=Usage(tokens_in, tokens_out), allowance=allowance)]


def ours(ceiling: int | None = None, rpm: float | None = None, tpm: float | None = None) -> Client:
    """Our own limiter and asker, and as many rows open as in the engine."""

    async def run(provider: Provider) -> None:
        limiter = Limiter(ceiling, rpm, tpm, clock=now)
        asker = Asker(_LLM(provider), limiter)  # type: ignore[arg-type]
        open_rows: set[asyncio.Task[Any]] = set()
        moved = asyncio.Event()

        def ended(row: asyncio.Task[Any]) -> None:
            open_rows.discard(row)
            moved.set()
            if not row.cancelled() and row.exception() is not None and not isinstance(row.exception(), RateLimited | Transient):
                raise SystemExit(repr(row.exception()))

        async def permit() -> None:
            pass

        try:
            while True:
                while len(open_rows) < window(limiter.limit):
                    row = asyncio.create_task(asker.ask(Chat([user("")]), 1, permit))
                    open_rows.add(row)
                    row.add_done_callback(ended)
                moved.clear()
                await moved.wait()
        finally:
            for row in open_rows:
                row.cancel()
            provider.limiters.append((limiter, asker.calls - asker.retries))

    return run


def fixed(count: int) -> Client:
    """So many workers, each of which waits and asks again as the OpenAI SDK does, but without end."""

    async def worker(provider: Provider) -> None:
        tries = 0
        while True:
            try:
                await provider.call()
                tries = 0
            except RateLimited as error:
                wait = error.retry_after if error.retry_after is not None and error.retry_after <= MINUTE else None
                await asyncio.sleep(wait or min(8.0, 0.5 * 2**tries) * provider.random.uniform(0.75, 1.0))
                tries += 1
            except Transient:
                await asyncio.sleep(1)

    async def run(provider: Provider) -> None:
        await asyncio.gather(*(worker(provider) for _ in range(count)))

    return run


def curator() -> Client:
    """The policy of bespokelabs-curator 0.1.31.

    Buckets of a minute's requests and tokens, sized once from the headers of a first reply (else 200 requests and 100,000
    tokens); a quarter of the model's longest answer is reserved and given back; a refusal stops all for 10 s; there is no limit
    in flight; it looks every 0.1 s.
    """

    async def run(provider: Provider) -> None:
        said = provider._allowance()
        rpm = (said and said.requests and said.requests.limit) or 200
        tpm = (said and said.tokens and said.tokens.limit) or 100_000
        requests, tokens, at, refused_at = 1.0, 0.0, 0.0, -100.0
        reserved = PROMPT_TOKENS + 16_384 // 4
        calls: set[asyncio.Task[None]] = set()

        async def call() -> None:
            nonlocal tokens, refused_at
            try:
                tokens_in, tokens_out, _ = await provider.call()
                tokens += reserved - tokens_in - tokens_out
            except RateLimited:
                refused_at = now()
            except Transient:
                pass

        try:
            while True:
                requests = min(rpm, requests + rpm * (now() - at) / MINUTE)
                tokens = min(tpm, tokens + tpm * (now() - at) / MINUTE)
                at = now()
                if requests < 1 or tokens < min(reserved, tpm):
                    await asyncio.sleep(0.1)
                    continue
                if (pause := refused_at + 10 - now()) > 0:
                    await asyncio.sleep(pause)
                    at = now()
                requests -= 1
                tokens -= reserved
                task = asyncio.create_task(call())
                calls.add(task)
                task.add_done_callback(calls.discard)
                await asyncio.sleep(0)
        finally:
            for task in calls:
                task.cancel()

    return run


def data_designer(most: int) -> Client:
    """The policy of data-designer-engine 0.9.6.

    Starts at the most that it was given; one more after 25 answers in a row; a refusal of what was admitted under the present
    limit cuts it to 0.75, down to 1; Retry-After, or 2 s, nothing is sent.
    """

    async def run(provider: Provider) -> None:
        limit, streak, blocked_until = most, 0, 0.0
        calls: set[asyncio.Task[None]] = set()
        moved = asyncio.Event()

        async def call(admitted: int) -> None:
            nonlocal limit, streak, blocked_until
            try:
                await provider.call()
            except RateLimited as error:
                blocked_until = now() + (error.retry_after or 2.0)
                streak = 0
                if admitted <= limit:
                    limit = max(1, int(limit * 0.75))
            except Transient:
                streak = 0
            else:
                if now() >= blocked_until:
                    streak += 1
                    if streak >= 25:
                        limit, streak = min(most, limit + 1), 0

        def ended(task: asyncio.Task[None]) -> None:
            calls.discard(task)
            moved.set()

        try:
            while True:
                if (pause := blocked_until - now()) > 0:
                    await asyncio.sleep(pause)
                    continue
                if len(calls) < limit:
                    task = asyncio.create_task(call(limit))
                    calls.add(task)
                    task.add_done_callback(ended)
                    continue
                moved.clear()
                await moved.wait()
        finally:
            for task in calls:
                task.cancel()

    return run


def several(count: int, client: Client) -> Client:
    """Mapped siblings that know nothing of each other."""

    async def run(provider: Provider) -> None:
        await asyncio.gather(*(client(provider) for _ in range(count)))

    return run


# --- what happens -------------------------------------------------------------------------------------------------------------


@dataclass
class Scenario:
    """A provider, how long it is asked, and what it would have allowed in that time.

    :param allowed: answers, or tokens if it limits those, that the best possible client would have got.
    """

    name: str
    provider: Callable[[], Provider]
    allowed: Callable[[Provider, float], float]
    seconds: float = 600.0
    siblings: int = 1


def by_requests(provider: Provider, seconds: float) -> float:
    return min(limit.allowed(seconds) for limit in provider.requests) - provider.taken_by_others


def by_tokens(provider: Provider, seconds: float) -> float:
    assert provider.tokens is not None
    return provider.tokens.allowed(seconds) - 800 * provider.taken_by_others


def tide(at: float) -> float:
    return 120 if int(at / 60) % 2 else 30


def crowd(at: float) -> float:
    return 2.0 if int(at / 90) % 2 else 0.2


SCENARIOS = [
    Scenario("150,000 tokens a minute, filling steadily, headers", lambda: Provider(tokens=Bucket(150_000)), by_tokens),
    Scenario("150,000 tokens a minute, fixed windows, headers", lambda: Provider(tokens=Window(150_000)), by_tokens),
    Scenario(
        "600 requests a minute and 10 a second, headers",
        lambda: Provider(requests=[Window(600), Window(10, 1.0)]),
        by_requests,
    ),
    Scenario(
        "600 requests a minute, fixed windows, Retry-After only",
        lambda: Provider(requests=[Window(600)], says="retry-after"),
        by_requests,
    ),
    Scenario(
        "600 requests a minute, fixed windows, not a word",
        lambda: Provider(requests=[Window(600)], says="nothing"),
        by_requests,
    ),
    Scenario(
        "600 requests a minute, filling steadily, not a word",
        lambda: Provider(requests=[Bucket(600)], says="nothing"),
        by_requests,
    ),
    Scenario(
        "600 requests a minute, filling steadily, refusals count too, Retry-After only",
        lambda: Provider(requests=[Bucket(600, penalty=1)], says="retry-after"),
        by_requests,
    ),
    Scenario(
        "14,400 requests a day in the headers, 120 a minute in truth",
        lambda: Provider(requests=[Bucket(14_400, 86_400), Bucket(120)]),
        lambda provider, seconds: provider.requests[1].allowed(seconds),
    ),
    Scenario(
        "30 or 120 in flight, by turns, not a word",
        lambda: Provider(capacity=tide, says="nothing"),
        lambda provider, seconds: 75 / provider.seconds * seconds,
    ),
    Scenario(
        "150,000 tokens a minute, noisy neighbours, headers",
        lambda: Provider(tokens=Bucket(150_000), neighbours=crowd),
        by_tokens,
    ),
    Scenario(
        "local server, 4 slots and a queue, 10 s an answer",
        lambda: Provider(seconds=10, slots=4, says="nothing"),
        lambda provider, seconds: 4 / provider.seconds * seconds,
    ),
    Scenario(
        "local server, 1 slot and a queue, 20 s an answer",
        lambda: Provider(seconds=20, slots=1, says="nothing"),
        lambda provider, seconds: 1 / provider.seconds * seconds,
        seconds=1200,
    ),
    Scenario(
        "batching server, best at 256 in flight",
        lambda: Provider(seconds=2, slots=256, batch=64, says="nothing"),
        lambda provider, seconds: 256 / (provider.seconds * 5) * seconds,
    ),
    Scenario(
        "big provider, no limits (of 1,024 in flight)",
        lambda: Provider(says="nothing"),
        lambda provider, seconds: 1024 / provider.seconds * seconds,
        seconds=300,
    ),
    Scenario(
        "three siblings, 150,000 tokens a minute, headers", lambda: Provider(tokens=Bucket(150_000)), by_tokens, siblings=3
    ),
    Scenario(
        "three siblings, 600 requests a minute, Retry-After only",
        lambda: Provider(requests=[Window(600)], says="retry-after"),
        by_requests,
        siblings=3,
    ),
]


@dataclass
class Result:
    used: float
    refused: int
    timeouts: int
    answered: int
    provider: Provider

    def __str__(self) -> str:
        late = f", {self.timeouts} late" if self.timeouts else ""
        return f"{self.used:.0%}, {self.refused}{late}"


async def _measured(scenario: Scenario, client: Client) -> Result:
    provider = scenario.provider()
    if scenario.siblings > 1:
        client = several(scenario.siblings, client)
    tasks = [asyncio.ensure_future(client(provider)), asyncio.ensure_future(provider.live())]
    await asyncio.sleep(scenario.seconds)
    done = provider.answered_tokens if provider.tokens is not None else provider.answered
    used = done / scenario.allowed(provider, scenario.seconds)
    result = Result(used, provider.refused, provider.timeouts, provider.answered, provider)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return result


def measured(scenario: Scenario, client: Client) -> Result:
    """Run one policy through one scenario."""
    random.seed(scenario.name)  # of which the asker's jitter is made
    return in_virtual_time(_measured(scenario, client))


POLICIES: dict[str, Client] = {
    "airflow-distil": ours(),
    "16 fixed": fixed(16),
    "64 fixed": fixed(64),
    "256 fixed": fixed(256),
    "curator 0.1.31": curator(),
    "Data Designer 0.9.6 (4, its default)": data_designer(4),
    "Data Designer 0.9.6 (256)": data_designer(256),
}


# What each of three mapped siblings may know of their common 600 requests a minute.
KNOWING: dict[str, Client] = {
    "nothing": ours(),
    "the whole of it (in the connection)": ours(rpm=600),
    "its third": ours(rpm=200),
}
SIBLINGS = [
    Scenario(
        f"{kind}, {words}", lambda limit=limit, says=says: Provider(requests=[limit(600)], says=says), by_requests, siblings=3
    )
    for kind, limit in (("fixed windows", Window), ("filling steadily", Bucket))
    for words, says in (("headers", "headers"), ("Retry-After only", "retry-after"), ("not a word", "nothing"))
]


def siblings() -> None:
    """Print what three siblings on one budget get, by what they know of it."""
    print("\nThree siblings that share 600 requests a minute; and how many answers the last got for each of the first.\n")
    print(f"| each knows | {' | '.join(KNOWING)} |")
    print(f"|---|{'--:|' * len(KNOWING)}")
    for scenario in SIBLINGS:
        cells = []
        for client in KNOWING.values():
            result = measured(scenario, client)
            shares = [answered for _, answered in result.provider.limiters]
            cells.append(f"{result}; {min(shares) / max(shares):.2f}")
        print(f"| {scenario.name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run everything and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.limits", description=__doc__)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--ours", action="store_true", help="our own policy only")
    parser.add_argument("--history", action="store_true", help="print the limits of our own runs as well")
    arguments = parser.parse_args()
    policies = POLICIES if not arguments.history and not arguments.ours else {"airflow-distil": ours()}
    print("Share of what the provider would have allowed, and refusals. Virtual time, seeded: the same on each machine.\n")
    print(f"| | {' | '.join(policies)} |")
    print(f"|---|{'--:|' * len(policies)}")
    for scenario in SCENARIOS:
        if arguments.only in scenario.name:
            results = [measured(scenario, client) for client in policies.values()]
            print(f"| {scenario.name} | {' | '.join(map(str, results))} |", flush=True)
            if arguments.history:
                for limiter, answered in results[0].provider.limiters:
                    changes = ", ".join(f"{step['after_s']} s {step['new']}" for step in limiter.history)
                    print(f"\n{answered} answered: {changes}\n")
    if not arguments.only:
        siblings()


if __name__ == "__main__":
    main()
