"""How full each client keeps its places when the endpoint takes its time: `python -m tests.benchmarks.latency`.

Each answer takes 0.2 s and uniformly up to 0.8 s more. Then Little's law is the limit: concurrency ÷ mean latency, as the
endpoint measured it. *Steady* is the time between 10 % and 80 % of the rows: the controller has warmed up, and nobody waits for
the last answers yet. *In flight* is the mean number of requests in flight, of the concurrency: the same share, seen from the
other side. The second table has 1 % stragglers of 20 s and 1 % errors (503), and is steady once the first stragglers are back.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks.endpoint import Endpoint, Settings
from tests.benchmarks.peers import installed
from tests.benchmarks.runs import OURS, Client, Run, machine, run

PLAIN = Settings(latency=0.2, spread=0.8)
ROUGH = Settings(latency=0.2, spread=0.8, stragglers=1, straggler_seconds=20.0, errors=1)
CONCURRENCY = (64, 200, 1000)
PEER_CONCURRENCY = (64, 200)
# Rows per place: half a minute of the first, and of the second as much after the first stragglers.
TURNS = {PLAIN: 50, ROUGH: 100}
# Of the peers, some of which need four times as long.
PEER_TURNS = 20


def measure(settings: Settings, turns: int, cases: list[tuple[Client, int]]) -> list[Run]:
    """Run all."""
    runs = []
    with Endpoint() as endpoint:
        for client, limit in cases:
            rows = limit * (turns if client == OURS else min(turns, PEER_TURNS))
            runs.append(run(client, endpoint, settings, rows=rows, concurrency=limit))
            print(f"{client.name} at {limit}: {runs[-1].steady_share:.1%}", file=sys.stderr, flush=True)
    return runs


def table(runs: list[Run]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| | concurrency | mean latency | Little's law | steady | share | in flight | whole run | share |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in runs:
        version = each.figures["versions"][each.client.package]
        # Of rows: what is refused takes its place, too.
        served = each.report["answered"] / (each.report["answered"] + each.report["refused"])
        ideal = served * (each.concurrency or 0) / each.latency
        lines.append(
            f"| {each.client.name} ({version}) | {each.concurrency:,} | {each.latency:.3f} s | {ideal:,.0f} rows/s "
            f"| {each.steady_rate:,.0f} rows/s | {each.steady_share:.1%} | {each.steady_in_flight:.1%} "
            f"| {each.rate:,.0f} rows/s | {each.whole_share:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print two Markdown tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.latency", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--turns", type=int, help="rows per place in flight; by default 50, and 100 with stragglers")
    parser.add_argument("--only", choices=["plain", "rough"], help="one of the two tables")
    parser.add_argument("--concurrency", type=int, nargs="*", default=list(CONCURRENCY))
    parser.add_argument("--without-peers", action="store_true")
    chosen = parser.parse_args()
    ours = [(OURS, limit) for limit in chosen.concurrency]
    peers = [] if chosen.without_peers else [(peer, limit) for peer in installed() for limit in PEER_CONCURRENCY]
    if chosen.only != "rough":
        runs = measure(PLAIN, chosen.turns or TURNS[PLAIN], ours + peers)
        print(f"0.2 s + uniform 0–0.8 s. Target: 97 % steady. {machine(runs)}.\n\n{table(runs)}\n")
    if chosen.only != "plain":
        runs = measure(ROUGH, chosen.turns or TURNS[ROUGH], ours)
        stated = "1 % stragglers of 20 s and 1 % errors among them. Target: 95 % steady."
        print(f"{stated} {machine(runs)}.\n\n{table(runs)}")


if __name__ == "__main__":
    main()
