"""Every operator in a DAG, and a table of what became of its rows.

`python -m tests.system.every_task fake` asks the fake model about 1,000 rows each, `… real` a real small one about 20.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
PASSAGES = PROJECT / "dags" / "data" / "passages.jsonl"
DAG_FILE = Path(__file__).with_name("dags") / "every_task.py"
SHOWN_REASONS = 2


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield rows with what any task reads, made of real passages; after 40 the passages come again, under other titles."""
    passages = [json.loads(line) for line in PASSAGES.read_text(encoding="utf-8").splitlines()]
    for number in range(count):
        passage = passages[number % len(passages)]
        other = passages[(number + 7) % len(passages)]
        again = f" (edition {number // len(passages) + 1})" if number >= len(passages) else ""
        title, text = passage["title"] + again, passage["passage"]
        first = text.split(". ")[0] + "."
        question = f"Explain in one sentence what is meant by: {title}."
        yield {
            "title": title,
            "content": text,
            "input": f"{title}: {text}",
            "text": f"{title}: {first}",
            "instruction": question,
            "messages": [{"role": "system", "content": "You are brief."}, {"role": "user", "content": question}],
            "instructions": [f"What is {title}?", question, f"Compare {title} with {other['title']} in three aspects."],
            "response": first,
            "generation": first,
            "generations": [first, other["passage"].split(". ")[0] + "."],
            "candidates": [first, other["title"], text][: 1 + number % 3],
            "reference": text,
        }


def run(folder: Path, count: int, connect: Callable[[ExitStack], None], pair_rm: str) -> dict[str, Mapping[str, Any]]:
    """Run the DAG in this process and return the manifest of each task.

    :param connect: makes the connections.
    :raises AssertionError: if a task failed.
    """
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows(count)), encoding="utf-8")
    os.environ.update(
        {
            "DISTIL_TEST_ROWS": str(count),
            "DISTIL_TEST_SOURCE": str(source),
            "DISTIL_TEST_PAIR_RM": pair_rm,
            "AIRFLOW__DISTIL__DATASET_ROOT": str(folder / "datasets"),
            "AIRFLOW__DISTIL__SCRATCH_DIR": str(folder / "scratch"),
        }
    )
    from tests.system.dagtest import load
    from tests.system.dagtest import run as run_dag

    with ExitStack() as stack:
        connect(stack)
        finished = run_dag(load(Path(os.environ["AIRFLOW_HOME"]), DAG_FILE)["every_task"])
    bad = {task: state for task, state in finished.states.items() if state != "success"}
    assert not bad, f"not every task succeeded: {bad}"
    return {
        task: {**json.loads(Path(summary["manifest"].removeprefix("file://")).read_text(encoding="utf-8")), **summary}
        for task, summary in finished.xcoms.items()
    }


def table(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the fates of all tasks' rows in Markdown, with the commonest reasons."""
    lines = ["| task | rows | ok | unparsed | failed | candidates lost | commonest reasons |", "|---|---|---|---|---|---|---|"]
    for task, manifest in sorted(manifests.items()):
        common = sorted(manifest["reasons"].items(), key=lambda pair: -pair[1])[:SHOWN_REASONS]
        reasons = "; ".join(f"{count} × {' '.join(reason.split()).replace('|', '/')[:90]}" for reason, count in common)
        counts = [manifest[name] for name in ("rows", "ok", "unparsed", "failed")]
        lost = ", ".join(f"{count} {status}" for status, count in manifest["lost"].items())
        lines.append(f"| {task} | {' | '.join(map(str, counts))} | {lost} | {reasons} |")
    return "\n".join(lines)


@contextmanager
def connection(name: str, **content: Any) -> Iterator[None]:
    """Give Airflow a connection by the environment."""
    variable = f"AIRFLOW_CONN_{name.upper()}"
    os.environ[variable] = json.dumps({"conn_type": "distil_llm", **content})
    try:
        yield
    finally:
        del os.environ[variable]


def fake(stack: ExitStack) -> None:
    """Connect the fake model, for texts and for embeddings."""
    from airflow_distil.testing import FakeLLM, sensible

    llm = stack.enter_context(FakeLLM(answer=sensible, dimensions=384))
    for name in ("distil_llm_default", "distil_embeddings"):
        stack.enter_context(llm.as_connection(name))


def real(folder: Path) -> Callable[[ExitStack], None]:
    """Connect a real small model for texts, and another one in the worker for embeddings."""

    def connect(stack: ExitStack) -> None:
        from tests.system.local_llm import LocalLLM
        from tests.tiny_models import minilm

        llm = stack.enter_context(LocalLLM(folder))
        stack.enter_context(connection("distil_llm_default", host=llm.base_url, extra={"model": llm.model}))
        local = {"backend": "transformers", "model": minilm()}
        stack.enter_context(connection("distil_embeddings", extra=local))

    return connect


@contextmanager
def only_log() -> Iterator[None]:
    """Send what is written to stdout, which is Airflow's log, to stderr; also by libraries that hold the old stdout."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def main() -> None:
    """Run it and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", choices=["fake", "real"])
    arguments.add_argument("--rows", type=int, help="rows of each task; by default 1000 (fake) or 20 (real)")
    given = arguments.parse_args()
    count = given.rows or {"fake": 1000, "real": 20}[given.model]
    began = time.monotonic()
    import_module("tests.conftest")  # makes a home for Airflow, before anything imports Airflow
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from tests.tiny_models import pair_ranker

        pair_rm = pair_ranker(folder / "pair_rm")
        with only_log():
            import_module("airflow.utils.db").initdb()
            manifests = run(folder, count, fake if given.model == "fake" else real(folder), pair_rm)
    print(table(manifests))
    print(f"\n{count} rows each, {given.model} model, {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
