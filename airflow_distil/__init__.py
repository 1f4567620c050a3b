"""LLM dataset generation as Apache Airflow operators: rows in, Parquet out, and a retry never pays twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["open_dataset", "publish"]

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
