"""What it costs that nothing is lost: `python -m tests.benchmarks.durability`.

The same job runs on a local store and on one whose puts succeed and do nothing, in turn. Claims and the manifest are kept in
both, because the protocol reads them back. The endpoint answers at once. A ratio is that of two runs of one round; medians.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks.endpoint import Endpoint, Settings
from tests.benchmarks.runs import OURS, Run, machine, middle, run

CONCURRENCY = 64


def measure(rows: int, repetitions: int) -> list[tuple[Run, Run]]:
    """Run both, round after round, and return pairs: with puts, and without."""
    pairs = []
    with Endpoint() as endpoint:
        for repetition in range(repetitions):
            # By turns also which of them comes first: the second finds the disk busy with what the first has left it.
            order = [False, True] if repetition % 2 else [True, False]
            runs = {
                without: run(OURS, endpoint, Settings(), rows=rows, concurrency=CONCURRENCY, without_puts=without)
                for without in order
            }
            pairs.append((runs[False], runs[True]))
            print(f"round {repetition + 1} of {repetitions}", file=sys.stderr, flush=True)
    return pairs


def table(pairs: list[tuple[Run, Run]]) -> str:
    """Return the table in Markdown."""
    lines = ["| | rows/s | CPU a row |", "|---|--:|--:|"]
    for name, runs in zip(("a local store", "a store whose put does nothing"), zip(*pairs, strict=True), strict=True):
        cpu = middle([1e6 * each.cpu for each in runs])
        lines.append(f"| {name} | {middle([each.rate for each in runs]):,.0f} | {cpu:,.0f} µs |")
    in_cpu = middle([kept.cpu / without.cpu - 1 for kept, without in pairs])
    return "\n".join([*lines, f"| durability costs | {cost(pairs):.1%} | {in_cpu:.1%} |"])


def cost(pairs: list[tuple[Run, Run]]) -> float:
    """Return the share of the rows/s that durability takes."""
    return middle([1 - kept.rate / without.rate for kept, without in pairs])


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.durability", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=5)
    chosen = parser.parse_args()
    pairs = measure(chosen.rows, chosen.repetitions)
    where = machine(kept for kept, _ in pairs)
    print(f"{where}; {chosen.rows:,} rows, {CONCURRENCY} in flight, medians of {chosen.repetitions}.\n\n{table(pairs)}")
    print("\nTarget: at most 10 %.")


if __name__ == "__main__":
    main()
