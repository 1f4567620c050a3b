"""The operator that makes embeddings."""

from __future__ import annotations

from typing import Any, Unpack

from airflow_distil.operators.base import TaskOperator
from airflow_distil.operators.options import DistilOptions
from airflow_distil.tasks.generate_embeddings import GenerateEmbeddings

__all__ = ["GenerateEmbeddingsOperator"]


class GenerateEmbeddingsOperator(TaskOperator):
    """Embed the `text` of each row, by an API or a local model; see `airflow_distil.tasks.GenerateEmbeddings`.

    The backend of the connection decides: `openai` or `azure` for an embeddings API, `transformers` for a model on the worker.
    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)

    Example::

        vectors = GenerateEmbeddingsOperator(
            task_id="embed",
            source=upstream.output,
            input_mappings={"text": "instruction"},
            model="text-embedding-3-small",
            generation_kwargs={"dimensions": 256},
        )
    """

    task_class = GenerateEmbeddings

    def __init__(self, *, source: Any, **kwargs: Unpack[DistilOptions]) -> None:
        super().__init__(source=source, fields={}, **kwargs)
