"""How fast each client asks when the endpoint answers at once: `python -m tests.benchmarks.speed`.

There the client's CPU is the limit. Ours is the whole of a `Job`, from its start to the published manifest: Parquet on local
disk, prompts, calls, parsing, log, ordered Parquet on local disk. Bare aiohttp asks and does nothing else, in the same kind of
event loop. Peers are measured from their first request to their last answer only. The rounds are interleaved, and a ratio is
that of two runs of the same round: what else the machine does hits both. Medians.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

from tests.benchmarks.endpoint import Endpoint, Settings
from tests.benchmarks.peers import installed
from tests.benchmarks.runs import OURS, Client, Run, machine, middle, run

CONCURRENCY = (16, 64, 512, 1024)
# What the peers are compared at.
COMPARED = 64
BARE = Client("bare aiohttp", "bare_aiohttp.py", "aiohttp")
SDK = (
    Client("OpenAI SDK, over aiohttp", "openai_sdk.py", "openai", options=(("transport", "aiohttp"),)),
    Client("OpenAI SDK", "openai_sdk.py", "openai"),
)

Taken = dict[tuple[str, int], list[Run]]


def measure(rows: int, peer_rows: int, repetitions: int, *, peers: bool, concurrency: tuple[int, ...] = CONCURRENCY) -> Taken:
    """Run all, round after round."""
    others = [*SDK, *installed()] if peers else []
    taken: Taken = defaultdict(list)
    with Endpoint() as endpoint:
        for repetition in range(repetitions):
            for limit in concurrency:
                ours = run(OURS, endpoint, Settings(), rows=rows, concurrency=limit)
                bare = run(BARE, endpoint, Settings(), rows=rows, concurrency=limit, loop=ours.figures["loop"])
                taken[OURS.name, limit].append(ours)
                taken[BARE.name, limit].append(bare)
            for client in others:
                taken[client.name, COMPARED].append(run(client, endpoint, Settings(), rows=peer_rows, concurrency=COMPARED))
            print(f"round {repetition + 1} of {repetitions}", file=sys.stderr, flush=True)
    return taken


def table(taken: Taken) -> str:
    """Return the table in Markdown."""
    limits = sorted({limit for _, limit in taken})
    heads = [f"{limit:,} in flight" for limit in limits]
    lines = [
        f"| rows/s | {' | '.join(heads)} | CPU a row | airflow-distil is |",
        f"|---|{'--:|' * len(limits)}--:|--:|",
    ]
    compared = COMPARED if COMPARED in limits else limits[0]
    for name in dict.fromkeys(name for name, _ in taken):
        cells = [_cell(taken.get((name, limit))) for limit in limits]
        runs = taken[name, compared]
        version = runs[0].figures["versions"][runs[0].client.package]
        times = "" if name in {OURS.name, BARE.name} else f"{ratio(taken, OURS.name, name, compared):.1f} × as fast"
        lines.append(f"| {name} ({version}) | {' | '.join(cells)} | {_cpu(runs):,.0f} µs | {times} |")
        if name == OURS.name:
            lines += _parts(taken, limits)
    return "\n".join(lines)


def _parts(taken: Taken, limits: list[int]) -> list[str]:
    """Return what ours is made of, and its share of bare aiohttp."""
    lines = []
    for phase in ("asking", "writing"):
        rates = [middle([each.rows / each.figures["phases"][phase] for each in taken[OURS.name, limit]]) for limit in limits]
        lines.append(f"| – {phase} alone | {' | '.join(f'{rate:,.0f}' for rate in rates)} | | |")
    shares = [f"{ratio(taken, OURS.name, BARE.name, limit):.0%}" for limit in limits]
    lines.append(f"| – share of bare aiohttp | {' | '.join(shares)} | | |")
    # Neighbours on the machine take time from a process, but hardly any CPU.
    in_cpu = [f"{_cpu(taken[BARE.name, limit]) / _cpu(taken[OURS.name, limit]):.0%}" for limit in limits]
    return [*lines, f"| – the same by CPU a row | {' | '.join(in_cpu)} | | |"]


def _cell(runs: list[Run] | None) -> str:
    return f"{middle([each.rate for each in runs]):,.0f}" if runs else ""


def _cpu(runs: list[Run]) -> float:
    return middle([1e6 * each.cpu for each in runs])


def ratio(taken: Taken, one: str, other: str, limit: int) -> float:
    """Return how many times faster one was than the other, in the same round."""
    return middle([a.rate / b.rate for a, b in zip(taken[one, limit], taken[other, limit], strict=True)])


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.speed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="of ours and of bare aiohttp, in each run")
    parser.add_argument("--peer-rows", type=int, default=3_000, help="of the SDK and of the peers, which are slower")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--without-peers", action="store_true", help="ours and bare aiohttp only")
    chosen = parser.parse_args()
    taken = measure(chosen.rows, chosen.peer_rows, chosen.repetitions, peers=not chosen.without_peers)
    runs = [each for column in taken.values() for each in column]
    print(f"{machine(runs)}; {chosen.rows:,} rows (peers {chosen.peer_rows:,}), medians of {chosen.repetitions}.\n")
    print(f"{table(taken)}\n\nThe endpoint used at most {max(each.endpoint_busy for each in runs):.0%} of a core.")
    print("Targets: 10 × curator, and 70 % of bare aiohttp at each concurrency.")


if __name__ == "__main__":
    main()
