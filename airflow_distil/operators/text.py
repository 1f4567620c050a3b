"""Operators that generate text."""

from __future__ import annotations

from typing import Any, Unpack

from airflow_distil.operators.base import TaskOperator
from airflow_distil.operators.options import DistilOptions
from airflow_distil.tasks.chat_generation import ChatGeneration
from airflow_distil.tasks.text_generation import DEFAULT_TEMPLATE, TextGeneration

__all__ = ["ChatGenerationOperator", "TextGenerationOperator"]


class TextGenerationOperator(TaskOperator):
    """Generate text from the `instruction` of each row; see `airflow_distil.tasks.TextGeneration`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param system_prompt: system message of every row; a non-empty `system_prompt` column wins over it.
    :param use_system_prompt: False ignores the `system_prompt` column and parameter.
    :param template: Jinja2 prompt that sees the `columns` of a row. Not templated by Airflow.
    :param columns: column, or columns, that the template sees.
    """

    task_class = TextGeneration

    def __init__(
        self,
        *,
        source: Any,
        system_prompt: str | None = None,
        use_system_prompt: bool = True,
        template: str = DEFAULT_TEMPLATE,
        columns: str | list[str] = "instruction",
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {
            "system_prompt": system_prompt,
            "use_system_prompt": use_system_prompt,
            "template": template,
            "columns": columns,
        }
        super().__init__(source=source, fields=fields, **kwargs)


class ChatGenerationOperator(TaskOperator):
    """Generate the next assistant message of the `messages` of each row; see `airflow_distil.tasks.ChatGeneration`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    """

    task_class = ChatGeneration

    def __init__(self, *, source: Any, **kwargs: Unpack[DistilOptions]) -> None:
        super().__init__(source=source, fields={}, **kwargs)
