"""The contract of a task: what to ask about a row, and how to read the answer."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, SkipValidation, ValidationError, model_validator

from airflow_distil.conversation import LLM, Answer, Chat, ChatType, Conversation, Row, Unparsed, user
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks.labels import without_thought

__all__ = ["StructuredOutput", "Task"]

StructuredOutput: TypeAlias = bool | dict[str, Any] | type[BaseModel]

_NAME = r"^[a-zA-Z0-9_-]+$"


class Task(BaseModel, ABC):
    """What to ask a model about each row, and how to read its answer. Knows nothing of files, networks or Airflow.

    A subclass declares `inputs` and `outputs` and implements `format_input` and `format_output`; a task of several turns
    overrides `converse` instead. By itself, a task runs with `load()` and `process(rows)`; in a DAG, with its operator or with
    `DistilOperator(task=...)`.

    :param name: name in the rows' metadata; by default the class name in snake case.
    :param llm: the model to ask when the task runs by itself. An operator brings its own from a connection.
    :param num_generations: independent samples per row.
    :param group_generations: False gives one output row per sample; True one per input row, its columns lists of samples.
    :param input_mappings: task input → dataset column to read it from.
    :param output_mappings: task output → dataset column to write it to.
    :param add_raw_input: keep the prompt of each request in the row's metadata.
    :param add_raw_output: keep the raw answer in the row's metadata; where it could not be parsed it is always kept.
    :param structured_output: ask for JSON and check it on return: a JSON schema, a pydantic model, or True for the schema that
        the task brings along.
    :param max_parse_retries: how often an answer that cannot be read is asked for again, with the reason.
    :param seed: what random choices of the task are derived from, together with the row and the sample.
    """

    # Built when first made: each DAG file imports all tasks, and makes a few.
    model_config = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True, defer_build=True)

    output_types: ClassVar[Mapping[str, Any]] = {}
    """Python types of output columns. Of the others the type is learnt from all rows; a column without a value is a string."""

    has_json_form: ClassVar[bool] = True
    """False if its answers are of a form that no JSON schema describes: `structured_output` is refused then."""

    name: str = Field(default="", pattern=_NAME)
    llm: SkipValidation[LLM | None] = Field(default=None, exclude=True, repr=False)
    num_generations: PositiveInt = 1
    group_generations: bool = False
    input_mappings: dict[str, str] = {}
    output_mappings: dict[str, str] = {}
    add_raw_input: bool = False
    add_raw_output: bool = False
    structured_output: StructuredOutput = False
    max_parse_retries: NonNegativeInt = 1
    seed: int = 42

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name"):
            return {**values, "name": re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()}
        return values

    @property
    @abstractmethod
    def inputs(self) -> list[str] | dict[str, bool]:
        """Columns that the task reads: names, or name → required."""

    @property
    @abstractmethod
    def outputs(self) -> list[str] | dict[str, bool]:
        """Columns that the task writes. `model_name` is added to every row, declared or not."""

    def format_input(self, input: Row) -> ChatType:  # noqa: ARG002
        """Return the messages to send for one row. An exception fails this row, and no other."""
        raise TaskDefinitionError(f"{type(self).__name__} must implement format_input, or override converse.")

    def format_output(self, output: str | None, input: Row) -> Row:  # noqa: ARG002
        """Return the output columns, read from the model's text.

        :raises Unparsed: (or anything) if the text cannot be read. All columns None means the same.
        """
        raise TaskDefinitionError(f"{type(self).__name__} must implement format_output, or override converse.")

    def converse(self, input: Row, rng: Random) -> Conversation:  # noqa: ARG002 - for tasks that choose
        """Drive the conversation about one sample of one row: yield requests, be sent answers, return the output columns.

        :param input: the row, its columns under the names of `inputs`.
        :param rng: random numbers that depend on seed, inputs, sample and step only.
        """
        request = Chat(self.format_input(input), response_format=self.response_format)
        for _ in range(self.max_parse_retries):
            answer: Answer = yield request
            try:
                return self.read(answer.text, input)
            except Unparsed as unparsed:
                request = ask_again(request, answer, unparsed.reason)
        answer = yield request
        return self.read(answer.text, input)

    def read(self, text: str | None, input: Row) -> Row:
        """Check the answer against the schema, if any, and read it.

        :raises Unparsed: if it cannot be read, or gives no column a value.
        """
        if self.json_schema() is not None:
            # What is written for a person stays as the model gave it. A verdict is another thing than the drafts of it.
            text = without_thought(text)
        self._check_structure(text)
        try:
            columns = self.format_output(text, input)
        except Unparsed:
            raise
        except Exception as error:
            raise Unparsed(f"{type(error).__name__}: {error}") from error
        if all(columns.get(name) is None for name in self.output_names):
            raise Unparsed("the answer is empty" if not text else "no output could be read from the answer")
        return columns

    @property
    def input_names(self) -> dict[str, bool]:
        """Name of each input → whether it is required."""
        inputs = self.inputs
        return dict(inputs) if isinstance(inputs, Mapping) else dict.fromkeys(inputs, True)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, without `model_name`."""
        return [name for name in self.outputs if name != "model_name"]

    def json_schema(self) -> dict[str, Any] | None:
        """Return the JSON schema of this task's own structured answer; None if it has none."""
        return None

    @property
    def response_format(self) -> dict[str, Any] | None:
        """OpenAI's `response_format` for this task's requests."""
        schema = self._schema()
        if schema is None:
            return None
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", str(schema.get("title") or self.name))[:64]
        return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}

    def load(self) -> None:
        """Check that the task can run by itself.

        :raises TaskDefinitionError: if it has no LLM or contradicts itself.
        """
        self.check()
        if self.llm is None:
            raise TaskDefinitionError(
                f"Task {self.name!r} has no LLM. Pass one: {type(self).__name__}(llm=OpenAILLM(model=...))."
            )

    def check(self) -> None:
        """Check the definition.

        :raises TaskDefinitionError: if a mapping names an unknown column, or the task brings no schema where it is to use it.
        """
        for mappings, known, kind in (
            (self.input_mappings, list(self.input_names), "input"),
            (self.output_mappings, [*self.output_names, "model_name"], "output"),
        ):
            if unknown := sorted(set(mappings) - set(known)):
                raise TaskDefinitionError(
                    f"{kind}_mappings of task {self.name!r} names {', '.join(map(repr, unknown))}; "
                    f"its {kind}s are {', '.join(known)}."
                )
        if not self.output_names:
            raise TaskDefinitionError(f"Task {self.name!r} declares no outputs.")
        if self.structured_output is not False and not self.has_json_form:
            raise TaskDefinitionError(
                f"The answers that task {self.name!r} asks for have no JSON form. Leave structured_output out."
            )
        if not isinstance(self.structured_output, bool) and self.json_schema() is not None:
            raise TaskDefinitionError(
                f"Task {self.name!r} reads JSON of its own shape only: pass structured_output=True instead of a schema."
            )
        if (schema := self._schema()) is not None:
            try:
                _validator(schema).check_schema(schema)
            except Exception as error:
                reason = str(error).partition("\n")[0]
                raise TaskDefinitionError(f"structured_output of task {self.name!r} is not a JSON schema: {reason}.") from error

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        """Run the task over rows, without Airflow; also from inside a running event loop.

        :param inputs: the rows.
        :return: an iterator over one list: each row with its output columns and `model_name`. A row that is not ok has
            None in its outputs and also carries `distil_status`, `distil_error` and `distil_metadata`, which has the raw
            answer; with `add_raw_input` or `add_raw_output`, all rows carry the last.
        :raises TaskDefinitionError: if the rows lack a column, or a result would overwrite one.
        :raises Fatal: if the model cannot be used at all.
        """
        from airflow_distil.engine import process

        self.load()
        yield process(self, inputs)

    def _schema(self) -> dict[str, Any] | None:
        match self.structured_output:
            case False:
                return None
            case True:
                if (schema := self.json_schema()) is None:
                    raise TaskDefinitionError(
                        f"Task {self.name!r} has no structured answer of its own. "
                        "Pass structured_output=<JSON schema or pydantic model>."
                    )
                return schema
            case dict() as schema:
                return schema
            case model:
                return model.model_json_schema()

    def _check_structure(self, text: str | None) -> None:
        """Check an answer against the schema, if there is one.

        :raises Unparsed: if it does not fit.
        """
        if (schema := self._schema()) is None:
            return
        if isinstance(self.structured_output, type):
            try:
                self.structured_output.model_validate_json(text or "")
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                raise Unparsed(_unfit(".".join(map(str, first["loc"])), first["msg"])) from error
            return
        try:
            value = json.loads(text or "")
        except ValueError as error:
            raise Unparsed(f"the answer is not JSON: {error}") from error
        for wrong in _validator(schema)(schema).iter_errors(value):
            raise Unparsed(_unfit(wrong.json_path, wrong.message))

    def __repr_args__(self) -> Any:
        # The text of a task must be the same in each parse of a DAG file, and must not hold what was left at its default.
        return [(name, value) for name, value in super().__repr_args__() if name in self.model_fields_set]


def _validator(schema: dict[str, Any]) -> Any:
    # Imported here: a DAG file without structured answers need not pay for it.
    from jsonschema import validators

    return validators.validator_for(schema)


def _unfit(where: str, reason: str) -> str:
    return f"the answer does not fit the JSON schema{f' at {where}' if where else ''}: {reason}"


def ask_again(request: Chat, answer: Answer, reason: str) -> Chat:
    """Return the request that follows an answer which could not be read: the conversation goes on with the reason."""
    if not answer.text:
        return request
    return Chat(
        [
            *request.messages,
            {"role": "assistant", "content": answer.text},
            user(f"That answer cannot be used: {reason}. Give the whole answer again, exactly in the format asked for."),
        ],
        response_format=request.response_format,
        parameters=request.parameters,
        model=request.model,
    )
