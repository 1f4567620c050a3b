"""The table of tasks in README.md, made from the code: `python -m tests.reference` writes it."""

from __future__ import annotations

import inspect
import re
from typing import Any

from airflow_distil import operators
from airflow_distil.operators.base import TaskOperator
from airflow_distil.tasks import Task
from tests.readme import put

BEGIN, END = "<!-- tasks: made by tests.reference -->\n", "<!-- /tasks -->\n"
# What a task cannot be made without, and the settings that change its columns.
NEEDED: dict[str, dict[str, Any]] = {
    "EvolComplexity": {"num_evolutions": 1},
    "EvolComplexityGenerator": {"num_instructions": 1},
    "EvolInstruct": {"num_evolutions": 1},
    "EvolInstructGenerator": {"num_instructions": 1},
    "EvolQuality": {"num_evolutions": 1},
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "EvolComplexity": [
        {"store_evolutions": True},
        {"generate_answers": True},
        {"store_evolutions": True, "generate_answers": True},
    ],
    "EvolComplexityGenerator": [{"generate_answers": True}],
    "EvolInstruct": [
        {"store_evolutions": True},
        {"generate_answers": True},
        {"store_evolutions": True, "generate_answers": True},
    ],
    "EvolInstructGenerator": [{"generate_answers": True}],
    "EvolQuality": [{"store_evolutions": True}],
    "PrometheusEval": [{"mode": "relative", "reference": True}],
    "UltraFeedback": [{"aspect": "helpfulness"}],
}


def operators_of_tasks() -> dict[type[Task], type[TaskOperator]]:
    """Return the public operators by the task that they run."""
    public = (getattr(operators, name) for name in operators.__all__)
    return {each.task_class: each for each in public if issubclass(each, TaskOperator)}


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| Task | Operator | Reads | Writes | Parameters | Method |", "|---|---|---|---|---|---|"]
    for task, operator in sorted(operators_of_tasks().items(), key=lambda pair: pair[0].__name__):
        needed = NEEDED.get(task.__name__, {})
        made = [task(**{**needed, **variant}) for variant in ({}, *VARIANTS.get(task.__name__, []))]
        reads = _columns(
            [{name: required for name, required in each.input_names.items() if name != "candidate"} for each in made]
        )
        writes = _columns([dict.fromkeys(each.output_names, True) for each in made])
        own = [name for name, each in inspect.signature(operator.__init__).parameters.items() if each.kind is each.KEYWORD_ONLY]
        parameters = ", ".join(f"`{name}`" for name in own if name != "source")
        cells = [f"`{task.__name__}`", f"`{operator.__name__}`", reads or "–", writes, parameters or "–", _method(task)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write() -> None:
    """Put the table into README.md."""
    put(table().rstrip("\n"), BEGIN, END)


def _columns(variants: list[dict[str, bool]]) -> str:
    """Return column names; in brackets those that are optional, or there with some settings only."""
    names = dict.fromkeys(name for variant in variants for name in variant)
    return ", ".join(f"`{name}`" if variants[0].get(name) else f"[`{name}`]" for name in names)


def _method(task: type[Task]) -> str:
    documented = " ".join(filter(None, (task.__doc__, inspect.getmodule(task).__doc__)))  # type: ignore[union-attr]
    papers = sorted(set(re.findall(r"\b\d{4}\.\d{5}\b", documented)))
    return ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers) or "–"


if __name__ == "__main__":
    write()
