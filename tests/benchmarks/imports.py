"""What importing airflow-distil adds to the parse of a DAG file: `python -m tests.benchmarks.imports`.

Airflow parses each DAG file again and again, in a fresh process that has to import Airflow in any case. So the figure that
counts is what comes on top of that, and its ratio to it. Both are timed in one process: between two processes the import of
Airflow differs by more than all of ours takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from statistics import median

# What a DAG file has imported before → what it imports of ours.
CASES = [
    ("from airflow.sdk import BaseOperator", "import airflow_distil.operators"),
    ("from airflow.sdk import DAG, task", "import airflow_distil.operators"),
    ("from airflow.sdk import DAG, task", "from airflow_distil import open_dataset, publish"),
]
TARGET_MS = 50

PROBE = """
import json, sys, time
before, ours = json.loads(sys.argv[1])
start = time.perf_counter()
exec(before)
middle = time.perf_counter()
exec(ours)
print(json.dumps([middle - start, time.perf_counter() - middle]))
"""


Taken = dict[tuple[str, str], list[tuple[float, float]]]


def measure(repetitions: int) -> Taken:
    """Return the seconds that the two statements of each case take, in so many fresh processes."""
    taken: Taken = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(prefix="airflow-distil-imports-") as home:
        # Interleaved: what else the machine does meanwhile hits all cases alike. The first round fills the caches.
        for repetition in range(repetitions + 1):
            for case in CASES:
                figures = measured(*case, home)
                if repetition:
                    taken[case].append(figures)
    return taken


def table(taken: Taken) -> str:
    """Return the table in Markdown."""
    lines = ["| a DAG file has | that takes | it adds | that takes | ratio |", "|---|--:|---|--:|--:|"]
    for (before, ours), figures in taken.items():
        base, added = ([1000 * seconds for seconds in column] for column in zip(*figures, strict=True))
        ratio = f"{median(added) / median(base):.1%}"
        lines.append(f"| `{before}` | {_shown(base, 0)} | `{ours}` | {_shown(added, 1)} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.imports", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7, help="fresh processes per row of the table")
    repetitions = parser.parse_args().repetitions
    taken = measure(repetitions)
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {repetitions} fresh processes each; ms as min / median.\n"
    )
    print(table(taken))
    print(f"\nTarget: at most {TARGET_MS} ms for `import airflow_distil.operators`.")


def measured(before: str, ours: str, home: str) -> tuple[float, float]:
    """Return the seconds that two statements take, one after the other, in a fresh process."""
    command = [sys.executable, "-c", PROBE, json.dumps([before, ours])]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "AIRFLOW_HOME": home}
    ).stdout
    base, added = json.loads(output.splitlines()[-1])
    return base, added


def _shown(values: list[float], digits: int) -> str:
    return f"{min(values):.{digits}f} / {median(values):.{digits}f}"


if __name__ == "__main__":
    main()
