"""Generate text from an instruction."""

from __future__ import annotations

from typing import Any, NoReturn, Self

from jinja2 import Undefined
from pydantic import model_validator

from airflow_distil.conversation import ChatType, Row, system, user
from airflow_distil.tasks import templates
from airflow_distil.tasks.base import Task

__all__ = ["TextGeneration"]

DEFAULT_TEMPLATE = "{{ instruction }}"


class _Null(Undefined):
    """A column that is null: `{% if %}` and `default()` see nothing there; written out or looped over, it is an error.

    As None it would be sent as the word "None".
    """

    def _refuse(self) -> NoReturn:
        raise TypeError(f"`{self._undefined_name}` is null in this row, and the template writes it out")

    __str__ = __iter__ = __len__ = _refuse


class TextGeneration(Task):
    """Generate text from an instruction.

    Reads `instruction` (str, or a list of OpenAI content parts) or the `columns` of your template, and `system_prompt` (str,
    optional). Writes `generation` (str).

    :param system_prompt: system message of every row; a non-empty `system_prompt` column wins over it.
    :param use_system_prompt: False ignores the `system_prompt` column and parameter.
    :param template: Jinja2 prompt; sees the `columns`, as values.
    :param columns: column, or columns, that the template sees.
    """

    output_types = {"generation": str}

    system_prompt: str | None = None
    use_system_prompt: bool = True
    template: str = DEFAULT_TEMPLATE
    columns: str | list[str] = "instruction"

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        try:
            templates.check(self.template, self._columns)
        except ValueError as error:
            raise ValueError(f"{error}; name in `columns` all that it needs") from error
        return self

    @property
    def inputs(self) -> dict[str, bool]:
        optional = {"system_prompt": False} if self.use_system_prompt else {}
        return dict.fromkeys(self._columns, True) | optional

    @property
    def outputs(self) -> list[str]:
        return ["generation", "model_name"]

    def format_input(self, input: Row) -> ChatType:
        prompt = (input.get("system_prompt") or self.system_prompt) if self.use_system_prompt else None
        return [*([system(prompt)] if prompt else []), user(self._content(input))]

    def format_output(self, output: str | None, input: Row) -> Row:  # noqa: ARG002
        return {"generation": output}

    @property
    def _columns(self) -> list[str]:
        return [self.columns] if isinstance(self.columns, str) else self.columns

    def _content(self, input: Row) -> Any:
        values = {name: _Null(name=name) if (value := input[name]) is None else value for name in self._columns}
        if self.template != DEFAULT_TEMPLATE:
            return templates.render(self.template, **values)
        instruction = values["instruction"]
        if isinstance(instruction, str):
            return instruction
        if (
            isinstance(instruction, list)
            and instruction
            and all(isinstance(part, dict) and "type" in part for part in instruction)
        ):
            return [{name: value for name, value in part.items() if value is not None} for part in instruction]
        kind = "null" if isinstance(instruction, _Null) else type(instruction).__name__
        raise TypeError(f"`instruction` must be text or a list of content parts, not {kind}")
