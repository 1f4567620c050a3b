"""LLM dataset generation as Apache Airflow operators: rows in, Parquet out, and a retry never pays twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from airflow_distil.engine.preview import Preview

__all__ = ["open_dataset", "preview", "publish"]

# What they need is loaded when they are called: a DAG file that imports them must not pay for Arrow at each parse.


def open_dataset(source: Any) -> ds.Dataset:
    """Open published rows as a `pyarrow.dataset.Dataset`: duckdb, polars and pandas read it as it is.

    :param source: a summary that an operator returned, a list of them (a mapped upstream's, appended in order), or the URI of a
        destination, which means its latest edition.
    :raises NotPublished: if there is no edition.
    :raises SourceError: if it cannot be read, or is not what the summary says.
    """
    from airflow_distil.hooks import dataset

    return dataset.open_dataset(source)


def preview(task: Any, source: Any = None, rows: int = 5, ask: int = 0) -> Preview:
    """Look at a task before it runs: the real prompts of some rows, and what all rows would cost. Nothing is published.

    The rows are drawn at random from all parts of the source, the same ones each time. With `ask`, the model is really asked
    about some of them, and paid: tokens and dollars of the whole source follow from theirs, with a 95 % t-interval. What the
    destination holds already is not taken into account: answers that are there are not paid again.

    :param task: an operator of this package (its connection, model and source are used), or a task with an `llm`.
    :param source: the rows, as operators take them; by default the operator's own. Nothing renders templates here, so it must
        be given where that is a template or comes from an upstream task.
    :param rows: rows to show.
    :param ask: how many to ask; they are shown, and more of them make better estimates.
    :return: what was found; a notebook shows it as a table, `print` as text.
    :raises TaskDefinitionError: if something is missing, or the task and the source do not fit.
    :raises SourceError: if the source cannot be read.
    :raises Fatal: if the model cannot be used at all.
    """
    from airflow_distil.operators import preview as operators

    return operators.preview(task, source, rows=rows, ask=ask)


def publish(data: Any, destination: str | None = None) -> dict[str, Any]:
    """Publish rows as a dataset, all or nothing, and return its summary. The same content again returns the edition there is.

    :param data: anything that Arrow can stream (pyarrow, polars, duckdb: `__arrow_c_stream__`), rows as a list of dicts, or a
        list of summaries, which is recorded without copying their rows.
    :param destination: URI of the folder to publish in; by default `[distil] dataset_root`, then DAG, task and run. Outside a
        task it must be given.
    :raises TaskDefinitionError: if there is no destination, or this attempt has published there already.
    :raises DestinationError: if it cannot be written, or belongs to another task.
    """
    from airflow_distil.hooks import dataset

    return dataset.publish(data, destination)
