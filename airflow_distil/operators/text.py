"""Operators that generate text."""

from __future__ import annotations

from typing import Any, Unpack

from airflow_distil.operators.base import TaskOperator
from airflow_distil.operators.options import DistilOptions
from airflow_distil.tasks import genstruct, self_instruct
from airflow_distil.tasks.chat_generation import ChatGeneration
from airflow_distil.tasks.text_generation import DEFAULT_TEMPLATE, TextGeneration

__all__ = ["ChatGenerationOperator", "GenstructOperator", "SelfInstructOperator", "TextGenerationOperator"]


class TextGenerationOperator(TaskOperator):
    r"""Generate text from the `instruction` of each row; see `airflow_distil.tasks.TextGeneration`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param system_prompt: system message of every row; a non-empty `system_prompt` column wins over it.
    :param use_system_prompt: False ignores the `system_prompt` column and parameter.
    :param template: Jinja2 prompt that sees the `columns` of a row. Not templated by Airflow.
    :param columns: column, or columns, that the template sees.

    Example::

        TextGenerationOperator(
            task_id="summaries",
            source="gs://my-bucket/articles/*.parquet",
            columns=["title", "text"],
            template="Summarise this text about {{ title }} in one sentence:\n\n{{ text }}",
            output_mappings={"generation": "summary"},
        )
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

    Example::

        ChatGenerationOperator(task_id="replies", source=upstream.output, generation_kwargs={"temperature": 0.7})
    """

    task_class = ChatGeneration

    def __init__(self, *, source: Any, **kwargs: Unpack[DistilOptions]) -> None:
        super().__init__(source=source, fields={}, **kwargs)


class SelfInstructOperator(TaskOperator):
    """Write instructions about the `input` of each row; see `airflow_distil.tasks.SelfInstruct`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param num_instructions: instructions to write about each row.
    :param criteria_for_query_generation: what every instruction has to be like.
    :param application_description: what the application is that users send them to.
    :param template: Jinja2 prompt that sees `input`, the three parameters above, and `structured`. Not templated by Airflow.

    Example::

        asked = SelfInstructOperator(
            task_id="ask", source=[{"input": "The tides of the North Sea"}], num_instructions=3, structured_output=True
        )
    """

    task_class = self_instruct.SelfInstruct

    def __init__(
        self,
        *,
        source: Any,
        num_instructions: int = 5,
        criteria_for_query_generation: str = self_instruct.DEFAULT_CRITERIA,
        application_description: str = "AI assistant",
        template: str = self_instruct.DEFAULT_TEMPLATE,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {
            "num_instructions": num_instructions,
            "criteria_for_query_generation": criteria_for_query_generation,
            "application_description": application_description,
            "template": template,
        }
        super().__init__(source=source, fields=fields, **kwargs)


class GenstructOperator(TaskOperator):
    """Write a question about the `title` and `content` of each row, and its answer; see `airflow_distil.tasks.Genstruct`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param as_chat: True sends the prompt as one message of a chat, for servers without `/v1/completions`.
    :param template: Jinja2 prompt that sees `title` and `content`. Not templated by Airflow.

    Example::

        pairs = GenstructOperator(
            task_id="pairs",
            source=upstream.output,
            input_mappings={"content": "passage"},
            model="NousResearch/Genstruct-7B",
            generation_kwargs={"max_tokens": 800},
        )
    """

    task_class = genstruct.Genstruct

    def __init__(
        self,
        *,
        source: Any,
        as_chat: bool = False,
        template: str = genstruct.DEFAULT_TEMPLATE,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        super().__init__(source=source, fields={"as_chat": as_chat, "template": template}, **kwargs)
