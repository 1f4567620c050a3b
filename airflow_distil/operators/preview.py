"""What an operator would ask: its task, model and source as the DAG file says them, for a look before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from airflow.sdk.definitions.mappedoperator import MappedOperator

from airflow_distil.datasets.source import Source, numbered, open_source
from airflow_distil.engine.preview import Preview
from airflow_distil.engine.trial import try_out
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.hooks.storage import store_for
from airflow_distil.operators.base import DistilOperator
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.generator import GeneratorTask

__all__ = ["preview"]


def preview(task: Any, source: Any = None, *, rows: int = 5, ask: int = 0) -> Preview:
    """Look at a task or an operator; see `airflow_distil.preview`."""
    task = getattr(task, "operator", task)  # of what a decorated function returns
    if isinstance(task, MappedOperator):
        found = preview(_first_instance(task, source), source, rows=rows, ask=ask)
        return _with_notes(found, "It is mapped: this is its first instance, and all others come on top.")
    if isinstance(task, DistilOperator):
        for name in ("llm_conn_id", "model"):
            if _is_late(getattr(task, name)):
                raise TaskDefinitionError(
                    f"{name} of {task.task_id!r} is a template or comes from upstream, and nothing renders it here. Preview "
                    "the task itself: TextGeneration(llm=LLMHook('my_llm').get_conn(model='my-model'), …)."
                )
        bounds = {"limit": task.limit, "columns": task.source_columns, "schema": task.schema}
        opened = _open(task.task, _of_operator(task) if source is None else source, bounds)
        return _with_budget(try_out(task.task, task.get_llm(), opened, rows=rows, ask=ask), task)
    if isinstance(task, Task):
        return try_out(task, task.llm, _open(task, source, {}), rows=rows, ask=ask)
    raise TaskDefinitionError(f"preview takes a task or an operator of airflow-distil, not a {type(task).__name__}.")


def _with_notes(found: Preview, *notes: str) -> Preview:
    return replace(found, notes=(*found.notes, *notes))


def _with_budget(found: Preview, operator: DistilOperator) -> Preview:
    """Say which limits of the operator will not do for all rows."""
    tokens = [figure.total for figure in (found.input_tokens, found.output_tokens) if figure is not None]
    cost = 0.0 if found.cost_usd is None else found.cost_usd.total
    notes = []
    if operator.max_cost_usd is not None and cost > operator.max_cost_usd:
        notes.append(f"By this estimate, max_cost_usd={operator.max_cost_usd:g} stops it before all rows are done.")
    if operator.max_total_tokens is not None and sum(tokens) > operator.max_total_tokens:
        notes.append(f"By this estimate, max_total_tokens={operator.max_total_tokens} stops it before all rows are done.")
    return _with_notes(found, *notes)


def _open(task: Task, source: Any, bounds: Mapping[str, Any]) -> Source:
    if isinstance(task, GeneratorTask):
        if source is not None:
            raise TaskDefinitionError(f"Task {task.name!r} makes its rows itself: leave out source.")
        return numbered(task.candidates)
    if source is None:
        raise TaskDefinitionError(f"Task {task.name!r} reads rows: pass source=<URI, rows or a summary>.")
    return open_source(source, stores=store_for, **bounds)


def _of_operator(operator: DistilOperator) -> Any:
    if _is_late(operator.source):
        raise TaskDefinitionError(
            f"The source of {operator.task_id!r} is a template or comes from an upstream task, and nothing renders it here. "
            "Pass source=<URI, rows or a summary>; on the command line, --source <URI>."
        )
    return _unwrapped(operator.source)


def _is_late(value: Any) -> bool:
    """Tell whether only a running task knows a value."""
    if isinstance(value, list | tuple):
        return any(map(_is_late, value))
    if isinstance(value, str):
        return any(mark in value for mark in ("{{", "{%"))
    # What is marked as literal refers to nothing.
    return hasattr(value, "iter_references") and not hasattr(value, "value")


def _unwrapped(source: Any) -> Any:
    """Return a source as rendering leaves it: without the marks that keep rows from being templates."""
    if isinstance(source, list | tuple):
        return [_unwrapped(item) for item in source]
    return source.value if hasattr(source, "iter_references") else source


def _first_instance(mapped: MappedOperator, source: Any) -> Any:
    """Return the first of a mapped operator's instances, with another source if one is given."""
    over = getattr(mapped.expand_input, "value", None)
    if not isinstance(over, Mapping):
        raise TaskDefinitionError(
            f"{mapped.task_id!r} is mapped with expand_kwargs, whose values only upstream knows. Preview an operator that is "
            "not mapped."
        )
    first: dict[str, Any] = {}
    for name, values in over.items():
        if name == "source" and source is not None:
            first[name] = source
            continue
        found = list(islice(values, 1)) if isinstance(values, list | tuple) else []
        if not found:
            raise TaskDefinitionError(
                f"{mapped.task_id!r} is mapped over {name}, which is not known before upstream has run. Preview an operator "
                f"that is not mapped{', or pass source=<URI, rows or a summary>' * (name == 'source')}."
            )
        first[name] = found[0]
    return mapped.unmap(first)
