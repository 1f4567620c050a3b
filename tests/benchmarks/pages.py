"""How soon the page of a dataset shows its first rows: `python -m tests.benchmarks.pages`.

A real Airflow publishes 100,000 rows on the local disk. A real Chromium opens their page, in a fresh profile each time. *First
paint* is when the browser has drawn anything of it, *rows* is when the first rows stand in the table.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path
from statistics import median

import httpx

from tests.system.airflow_standalone import Standalone
from tests.system.browser import chromium_browser, visit

TARGET_MS = 1000
DAG = '''
"""Publishes many rows."""
from airflow.sdk import DAG, task

import airflow_distil

with DAG("many", schedule=None):

    @task
    def rows(count):
        import pyarrow as pa

        numbers = range(int(count))
        text = "What is said about it takes some room, as answers do, and differs a little from row to row. " * 6
        return airflow_distil.publish(
            pa.table(
                {
                    "instruction": [f"Question number {number}: what is known about it?" for number in numbers],
                    "generation": [f"{number}: {text}" for number in numbers],
                    "score": [float(number * 7919 % 101) for number in numbers],
                    "distil_row": list(numbers),
                    "distil_status": ["failed" if number % 97 == 0 else "ok" for number in numbers],
                }
            )
        )

    rows("{{ dag_run.conf['rows'] }}")
'''
# When the first rows stand in the table, in ms since the browser began to load the page.
ROWS_AT = """() => new Promise(resolve => {
    const look = () => document.querySelector('.row .fate') ? resolve(performance.now()) : requestAnimationFrame(look);
    look();
})"""
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pages", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="airflow-distil-pages-") as name:
        folder = Path(name)
        (folder / "dags").mkdir()
        (folder / "dags" / "many.py").write_text(DAG)
        with (
            Standalone(
                folder / "home",
                folder / "dags",
                users={"ann": "admin"},
                env={"AIRFLOW__DISTIL__DATASET_ROOT": str(folder / "datasets")},
            ) as airflow,
            chromium_browser() as browser,
        ):
            run = airflow.trigger("many", {"rows": options.rows})
            if airflow.wait("many", run) != "success":
                raise SystemExit(airflow.logs("many", run, "rows"))
            query = httpx.QueryParams({"dag_id": "many", "run_id": run, "task_id": "rows", "map_index": "-1"})
            address = f"{airflow.url}/distil/page?{query}"
            taken = []
            for _ in range(options.repetitions + 1):
                with visit(browser, airflow, "ann") as page:
                    page.goto(address, wait_until="commit")
                    rows_at = page.evaluate(ROWS_AT)
                    taken.append((page.evaluate(FIRST_PAINT), rows_at))
    # The first one has a server that has not read the dataset yet, and is told apart.
    first, *others = taken
    print(f"{options.rows} rows, Python {platform.python_version()}, {os.cpu_count()} CPUs; ms since the page was asked for.\n")
    print("| | first visit | min | median | max |")
    print("|---|--:|--:|--:|--:|")
    for name, cold, warm in zip(("first paint", "rows"), first, zip(*others, strict=True), strict=True):
        print(f"| {name} | {cold:.0f} | {min(warm):.0f} | {median(warm):.0f} | {max(warm):.0f} |")
    print(f"\nTarget: a median of at most {TARGET_MS} ms of {options.repetitions} visits.")


if __name__ == "__main__":
    main()
