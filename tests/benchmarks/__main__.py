"""All tables, one after the other: `python -m tests.benchmarks`, about half an hour on a machine that does nothing else.

python -m tests.benchmarks --write           what they come to, into README.md
python -m tests.benchmarks --without-peers   ours only
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median

from tests.benchmarks import durability, imports, latency, memory, speed
from tests.benchmarks.peers import PEERS, installed
from tests.benchmarks.runs import OURS, Run, machine
from tests.readme import README, put

# Below it no percent is shown.
LEAST_COST = 0.005

BEGIN, END = "<!-- benchmarks: made by tests.benchmarks -->\n", "<!-- /benchmarks -->\n"


@dataclass
class Results:
    """What all tables came to."""

    fast: speed.Taken
    plain: list[Run]
    rough: list[Run]
    sizes: list[memory.Size]
    pairs: list[tuple[Run, Run]]
    parsed: imports.Taken


def summary(results: Results) -> str:
    """Return what the README tells of them."""
    runs = [*(each for column in results.fast.values() for each in column), *results.plain, *results.rough]
    return f"{_compared(results.fast, results.plain)}\n\n{_told(results)}\n\nMeasured on {machine(runs)}."


def write(text: str) -> None:
    """Put the summary into README.md."""
    put(text, BEGIN, END, README)


def _compared(fast: speed.Taken, plain: list[Run]) -> str:
    """Return clients and rows/s, at once and where answers take their time."""
    limits = [limit for limit in latency.PEER_CONCURRENCY if any(run.concurrency == limit for run in plain)]
    heads = [f"{limit} in flight, 0.2–1 s" for limit in limits]
    lines = [
        f"| rows/s | {speed.COMPARED} in flight, answered at once | CPU a row | {' | '.join(heads)} |",
        f"|---|--:|--:|{'--:|' * len(limits)}",
    ]
    names = [OURS.name, *PEERS, *(client.name for client in speed.SDK), speed.BARE.name]
    for name in names:
        if runs := fast.get((name, speed.COMPARED)):
            version = runs[0].figures["versions"][runs[0].client.package]
            slow = {run.concurrency: run for run in plain if run.client.name == name}
            rates = [
                f"{slow[limit].steady_rate:,.0f} ({slow[limit].steady_share:.0%})" if limit in slow else "" for limit in limits
            ]
            cells = [f"{median(run.rate for run in runs):,.0f}", f"{median(1e6 * run.cpu for run in runs):,.0f} µs", *rates]
            lines.append(f"| {name} {version} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(results: Results) -> str:
    """Return the rest as a list."""
    fast = results.fast
    shares = [
        f"{speed.ratio(fast, OURS.name, speed.BARE.name, limit):.0%} with {limit:,} in flight"
        for name, limit in fast
        if name == OURS.name
    ]
    last = results.sizes[-1]
    grown = [
        f"{each.first.figures['growth'] / 1e6:.0f} MB with {each.rows:,} of them"
        for each in results.sizes
        if each.rows >= memory.REFERENCE or each is last
    ]
    added = 1000 * median(ours for _, ours in next(iter(results.parsed.values())))
    told = {
        "Of what bare aiohttp reaches, which asks and keeps nothing": ", ".join(shares),
        "Of Little's law, in the steady state": _shares(results.plain),
        "The same, with 1 % of the answers after 20 s and 1 % errors": _shares(results.rough),
        "Memory over what the imports take, for rows of 1 kB": ", ".join(grown),
        f"A clear that finds {last.rows:,} answers in the log and asks nothing": f"{last.again.rate:,.0f} rows/s",
        "What uploading to the log and the dataset costs": _cost(durability.cost(results.pairs)),
        "What `import airflow_distil.operators` adds to the parse of a DAG file": f"{added:.0f} ms",
    }
    return "\n".join(f"- {what}: {figures}." for what, figures in told.items())


def _shares(runs: list[Run]) -> str:
    ours = [run for run in runs if run.client == OURS]
    return ", ".join(f"{run.steady_share:.0%} with {run.concurrency:,} in flight" for run in ours)


def _cost(share: float) -> str:
    # Two runs never take equally long, and the one that does more may be the faster one.
    return f"{share:.0%} of the rows/s" if share >= LEAST_COST else "no more than the noise of the measurement"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="of a run where answers come at once")
    parser.add_argument("--most-rows", type=int, default=1_000_000, help="of the largest run")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--write", action="store_true", help="write what they come to into README.md")
    chosen = parser.parse_args()

    def shown(title: str, text: str) -> None:
        print(f"\n## {title}\n\n{text}", flush=True)

    fast = speed.measure(chosen.rows, chosen.rows // 7, chosen.repetitions, peers=not chosen.without_peers)
    shown("Answered at once", speed.table(fast))
    peers = [] if chosen.without_peers else installed()
    ours = [(OURS, limit) for limit in latency.CONCURRENCY]
    slower = [(peer, limit) for peer in peers for limit in latency.PEER_CONCURRENCY]
    plain = latency.measure(latency.PLAIN, latency.TURNS[latency.PLAIN], ours + slower)
    shown("Answered after 0.2 s + uniform 0–0.8 s", latency.table(plain))
    rough = latency.measure(latency.ROUGH, latency.TURNS[latency.ROUGH], ours)
    shown("The same, with 1 % stragglers of 20 s and 1 % errors", latency.table(rough))
    sizes = memory.measure(memory.steps(chosen.most_rows))
    shown("Growth", f"{memory.table(sizes)}\n\n{memory.fit(sizes)}")
    pairs = durability.measure(chosen.rows, chosen.repetitions + 2)
    shown("Durability", durability.table(pairs))
    parsed = imports.measure(7)
    shown("DAG parse", imports.table(parsed))
    text = summary(Results(fast, plain, rough, sizes, pairs, parsed))
    shown("README", text)
    if chosen.write:
        write(text)


if __name__ == "__main__":
    main()
