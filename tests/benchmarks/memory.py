"""How memory and time grow with the rows, and how fast a finished log is told again: `python -m tests.benchmarks.memory`.

Each line is one run in a fresh process, with 64 in flight and an endpoint that answers at once. A row is a kilobyte: half of it
is the prompt, half the answer. *Memory* is what the resident memory grew by, at most, over what it was after the imports; the
kernel counts it. *Again* is a clear after the column was renamed: a new edition, for which everything is read from the log and
nothing is asked.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.endpoint import Endpoint, Settings
from tests.benchmarks.runs import OURS, Run, folder, machine, places, watched

HALF = 500
SETTINGS = Settings(characters=HALF)
CONCURRENCY = 64
# What is planned on paper.
PLANNED = 10_000_000
# Rows at which everything that is bounded has its full size.
REFERENCE = 10_000


@dataclass(frozen=True)
class Size:
    """What was measured at one number of rows.

    :param log: bytes of the log.
    :param data: bytes of the Parquet parts.
    """

    first: Run
    again: Run
    log: int
    data: int

    @property
    def rows(self) -> int:
        return self.first.rows


def steps(last: int) -> list[int]:
    """Return the numbers of rows to measure: the last, and each time a tenth, down to 1,000."""
    return [last // 10**power for power in range(int(math.log10(max(last, 1000) / 1000)), -1, -1)]


def measure(rows: list[int]) -> list[Size]:
    """Run each number of rows, then again from its log."""
    sizes = []
    for count in rows:
        with folder() as own, Endpoint() as endpoint:
            told: dict[str, Any] = {"rows": count, "concurrency": CONCURRENCY, "base_url": endpoint.base_url}
            told |= places(own, count, HALF)
            first = watched(OURS, SETTINGS, told, own, endpoint)
            log, data = (_bytes(own / "out" / part) for part in ("_distil/log", "data"))
            renamed = {"clears": 1, "output_mappings": {"generation": "answer"}}
            again = watched(OURS, SETTINGS, {**told, **renamed}, own, endpoint)
            if again.figures["calls"]:
                raise RuntimeError(f"{again.figures['calls']} calls where the log has every answer")
            sizes.append(Size(first, again, log, data))
            print(f"{count:,} rows: {first.seconds:.1f} s, then {again.seconds:.1f} s", file=sys.stderr, flush=True)
    return sizes


def table(sizes: list[Size]) -> str:
    """Return the table in Markdown."""
    heads = ["rows", "time", "rows/s", "CPU a row", "memory", "again", "rows/s", "CPU a row", "memory"]
    lines = [f"| {' | '.join(heads)} |", f"|{'--:|' * len(heads)}"]
    for each in sizes:
        cells = [
            f"{run.seconds:,.1f} s | {run.rate:,.0f} | {1e6 * run.cpu:,.0f} µs | {_mb(run.figures['growth'])}"
            for run in (each.first, each.again)
        ]
        lines.append(f"| {each.rows:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fit(sizes: list[Size]) -> str:
    """Return the growth in sentences, and the plan that follows from it."""
    rows, last = [each.rows for each in sizes], sizes[-1]
    growth = [each.first.figures["growth"] for each in sizes]
    values = {
        "time": [each.first.seconds for each in sizes],
        "CPU": [each.first.figures["cpu"] for each in sizes],
        "time again": [each.again.seconds for each in sizes],
        "CPU again": [each.again.figures["cpu"] for each in sizes],
        "memory": growth,
    }
    slopes = {name: exponent(rows, column) for name, column in values.items()}
    told = [
        f"- From {rows[0]:,} to {rows[-1]:,} rows, by lines through the logarithms: "
        + ", ".join(f"{name} is as rows^{slope:.2f}" for name, slope in slopes.items())
        + "."
    ]
    told += [
        f"- Memory at {rows[-1]:,} rows is {growth[-1] / size:.2f} × that at {each.rows:,}."
        for each, size in zip(sizes, growth, strict=True)
        if each.rows == REFERENCE < rows[-1]
    ]
    times = PLANNED / last.rows
    planned = [_hours(times * run.seconds) for run in (last.first, last.again)]
    needed = growth[-1] * times ** max(0.0, slopes["memory"])
    told.append(
        f"- {PLANNED:,} rows, from the last line: {planned[0]}, and {planned[1]} again; {_gb(times * last.log)} of log, "
        f"{_gb(times * last.data)} of Parquet; memory {_mb(needed)} if it goes on as the fit."
    )
    return "\n".join(told)


def exponent(rows: list[int], values: list[float]) -> float:
    """Return the slope of the line through the logarithms, by least squares."""
    xs, ys = [math.log(each) for each in rows], [math.log(each) for each in values]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((each - x) ** 2 for each in xs)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread if spread else float("nan")


def _bytes(where: Path) -> int:
    return sum(file.stat().st_size for file in where.rglob("*") if file.is_file())


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.0f} min"


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="of the last line; each one before has a tenth, down to 1,000"
    )
    last = parser.parse_args().rows
    sizes = measure(steps(last))
    print(f"{machine([each.first for each in sizes])}.\n\n{table(sizes)}\n\n{fit(sizes)}")
    print(
        "\nTargets: at most 120 MB at 1,000,000 rows, and at most 1.15 × that at 10,000; again at 20,000 rows/s or more; both "
        "linear."
    )


if __name__ == "__main__":
    main()
