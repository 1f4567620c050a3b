"""Pull every plug, many times: `python -m tests.chaos` prints a line per run, and the table of them all.

python -m tests.chaos --runs 200 --celery 40 --write       all faults, at fixed and random points; the table into README.md
python -m tests.chaos --runs 10 --celery 0 --only SIGKILL  those whose names contain it
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

from tests import readme
from tests.chaos import celery_faults
from tests.chaos.bench import Fault, Stage, run, services_for
from tests.chaos.verdict import Verdict, table
from tests.conftest import HOME

BEGIN, END = "<!-- chaos: made by tests.chaos -->\n", "<!-- /chaos -->\n"
# The machine that runs them has two cores.
AT_A_TIME = 2


def catalogue() -> list[Fault]:
    """Return all faults of processes, models and stores."""
    from tests.chaos import llm_faults, process_faults, store_faults

    return [*process_faults.FAULTS, *llm_faults.FAULTS, *store_faults.FAULTS]


def planned(faults: list[Fault], runs: int, seed: int) -> list[tuple[Fault, str, int | None]]:
    """Return what to run: every fault once, at fixed points on its first scheme, and the rest at random points in turn."""
    plan: list[tuple[Fault, str, int | None]] = [(fault, fault.schemes[0], None) for fault in faults]
    chance = random.Random(seed)
    # Turn by turn, so that each fault gets its share of runs, and each of its schemes its share of these.
    turns = ((fault, fault.schemes[turn % len(fault.schemes)]) for turn in range(1, runs + 1) for fault in faults)
    often = ((fault, scheme) for fault, scheme in turns if not fault.settings.get("slow"))
    plan += [(fault, scheme, chance.randrange(1, 10**6)) for fault, scheme in islice(often, max(0, runs - len(plan)))]
    return plan[:runs] if runs < len(faults) else plan


@contextmanager
def staged(plan: list[tuple[Fault, str, int | None]]) -> Iterator[list[Future[Verdict]]]:
    """Start to run what is planned, some at a time, and give the verdicts to come."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="distil-chaos-"))
        stack.callback(_tidy, folder)
        services = stack.enter_context(services_for({scheme for _, scheme, _ in plan}))
        stages: SimpleQueue[Stage] = SimpleQueue()
        started = [Stage(folder / f"home-{number}", HOME / "airflow.db") for number in range(AT_A_TIME)]
        for stage in started:
            stack.callback(stage.close)
        for stage in started:
            stage.wait()
            stages.put(stage)

        def one(number: int, fault: Fault, scheme: str, seed: int | None) -> Verdict:
            stage = stages.get()
            try:
                return run(fault, stage, services, scheme, seed, folder / f"run-{number:03d}")
            finally:
                stages.put(stage)

        threads = ThreadPoolExecutor(AT_A_TIME)
        stack.callback(threads.shutdown, cancel_futures=True)
        yield [threads.submit(one, number, *each) for number, each in enumerate(plan)]


def _tidy(folder: Path) -> None:
    """Delete everything but the runs that broke a promise."""
    for home in folder.glob("home-*"):
        shutil.rmtree(home, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200, help="of processes that are run as Airflow runs them")
    parser.add_argument("--celery", type=int, default=40, help="runs on the Celery stack, after the others")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", default="", help="part of a fault's name")
    parser.add_argument("--scheme", default="", help="file, gs or s3")
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    parser.add_argument("--list", action="store_true", help="only list the faults")
    chosen = parser.parse_args()
    faults = [fault for fault in catalogue() if chosen.only in fault.name]
    on_celery = [fault for fault in celery_faults.FAULTS if chosen.only in fault.name]
    if chosen.list:
        for fault in faults:
            print(f"{fault.name} ({', '.join(fault.schemes)}): {fault.description}")
        for each in on_celery:
            print(f"{each.name} ({celery_faults.WHERE}): {each.description}")
        return 0
    print(f"seed {chosen.seed}", flush=True)
    began = time.monotonic()
    verdicts: list[Verdict] = []

    def note(each: Iterator[Verdict]) -> None:
        for verdict in each:
            verdicts.append(verdict)
            print(f"{len(verdicts):3} {verdict}", flush=True)

    if chosen.runs and faults:
        from airflow.utils.db import initdb

        initdb()
        plan = [each for each in planned(faults, chosen.runs, chosen.seed) if chosen.scheme in each[1]]
        with staged(plan) as running:
            note(future.result() for future in as_completed(running))
    if chosen.celery and on_celery:
        note(celery_faults.run_all(chosen.celery, chosen.seed, on_celery))
    text = table(sorted(verdicts, key=lambda verdict: _place(verdict, faults)))
    print(f"\n{text}\n\n{totals(verdicts)} ({time.monotonic() - began:.0f} s, seed {chosen.seed})")
    if chosen.write:
        readme.put(told(text, verdicts), BEGIN, END)
    return 0 if all(verdict.kept for verdict in verdicts) else 1


def _place(verdict: Verdict, faults: list[Fault]) -> tuple[int, str]:
    names = [fault.name for fault in faults]
    return (names.index(verdict.fault) if verdict.fault in names else len(names), verdict.where)


def told(rows: str, verdicts: list[Verdict]) -> str:
    """Return what the README says: the sums, and behind them the table, which is longer than all else there."""
    return f"{totals(verdicts)}\n\n<details><summary>Every fault, and what became of it</summary>\n\n{rows}\n\n</details>"


def totals(verdicts: list[Verdict]) -> str:
    """Return the sums in a sentence; a fault that came too late to strike anything is no run."""
    struck = [verdict for verdict in verdicts if verdict.struck]
    kinds = len({verdict.fault for verdict in struck})
    beyond = sum(verdict.paid > verdict.bound for verdict in verdicts)
    lost, doubled = sum(verdict.lost for verdict in verdicts), sum(verdict.doubled for verdict in verdicts)
    broken = sum(not verdict.kept for verdict in verdicts)
    return (
        f"{kinds} kinds of faults, {len(struck)} runs, {sum(verdict.rows for verdict in struck):,} rows: {lost} lost, "
        f"{doubled} doubled, {beyond} bounds exceeded, {broken} promises broken."
    )


if __name__ == "__main__":
    sys.exit(main())
