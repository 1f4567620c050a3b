"""What an operator takes, and what it says about what it does not take."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, task
from airflow.serialization.serialized_objects import DagSerialization
from pydantic_core import PydanticUndefined

from airflow_distil import operators, tasks
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.operators import ChatGenerationOperator, DistilOperator, PairRMOperator, TextGenerationOperator
from airflow_distil.operators.base import TaskOperator
from airflow_distil.operators.decorator import _DistilDecoratedOperator
from airflow_distil.operators.options import AirflowOptions, DistilOptions
from airflow_distil.tasks import ChatGeneration, Task, TextGeneration
from tests.reference import NEEDED

NAMED = [each for name in operators.__all__ if issubclass(each := getattr(operators, name), TaskOperator)]
ALL = [DistilOperator, *NAMED, _DistilDecoratedOperator]
ROWS = [{"instruction": "{{ ds }}"}]
START = datetime(2026, 1, 1, tzinfo=UTC)


def arguments(cls: type, *, own: bool = False) -> dict[str, inspect.Parameter]:
    """Return the arguments of our own classes (or only of this one), by name; the outermost class's win."""
    found: dict[str, inspect.Parameter] = {}
    for each in [cls] if own else cls.__mro__:
        if each.__module__.startswith("airflow_distil.operators") and "__init__" in vars(each):
            found = dict(inspect.signature(each.__init__).parameters) | found
    return {name: it for name, it in found.items() if name not in {"self", "fields"} and it.kind is not it.VAR_KEYWORD}


def documented(cls: type) -> set[str]:
    """Return what `:param` lines say in the docstrings of a class and of those of ours that it names."""
    known = {
        "DistilOperator": DistilOperator,
        **{f"airflow_distil.tasks.{name}": getattr(tasks, name) for name in tasks.__all__},
    }
    texts = [inspect.getdoc(cls) or ""]
    texts += [inspect.getdoc(known[name]) or "" for name in re.findall(r"`([\w.]+)`", texts[0]) if name in known]
    return {name for text in texts for name in re.findall(r":param (\w+):", text)}


def default(field: Any) -> Any:
    if field.is_required():
        return inspect.Parameter.empty
    return field.default_factory() if field.default is PydanticUndefined else field.default


def needed(cls: type) -> dict[str, Any]:
    """Return what an operator cannot be made without, besides a task id."""
    return {**NEEDED.get(cls.task_class.__name__, {}), **({"source": ROWS} if "source" in arguments(cls, own=True) else {})}


@pytest.mark.parametrize("cls", NAMED)
def test_every_task_field_is_an_argument_with_the_same_default(cls):
    """A field was added to a task, and DAGs could not set it; or its default was changed in one of two places."""
    taken, fields = arguments(cls), dict(cls.task_class.model_fields)
    del fields["llm"]  # comes from the connection
    assert set(fields) <= set(taken)
    # None stands for an empty dict, which must not be shared between operators.
    differing = {name for name, field in fields.items() if (taken[name].default or None) != (default(field) or None)}
    assert differing == set()


@pytest.mark.parametrize("cls", NAMED)
def test_every_argument_is_of_the_task_or_of_all_operators(cls):
    """An argument outlived its task field, and was taken without doing anything."""
    ours = set(arguments(DistilOperator)) - {"task"}
    model = {"device"} if cls is PairRMOperator else set()  # of the model that it brings along
    assert set(arguments(cls)) - set(cls.task_class.model_fields) - ours <= {"task"} | model


def test_the_options_that_editors_see_are_those_that_exist():
    """`Unpack[DistilOptions]` told an editor of arguments that do not exist, or hid some that do."""
    common = set(arguments(TaskOperator)) - {"task", "source"}
    assert common == set(DistilOptions.__annotations__) - set(AirflowOptions.__annotations__)
    newer = {"retry_policy"}  # since Airflow 3.3
    assert set(AirflowOptions.__annotations__) - newer <= set(inspect.signature(BaseOperator.__init__).parameters)


@pytest.mark.parametrize("cls", ALL)
def test_every_argument_is_documented(cls):
    """An argument that only the source code explains."""
    taken = set(arguments(cls)) - {"op_args", "op_kwargs"}
    if cls is not DistilOperator:
        taken -= {"task"}
    assert taken - documented(cls) == set()


@pytest.mark.parametrize("cls", ALL)
def test_all_arguments_are_keyword_only(cls):
    """A positional argument changes its meaning when another is put before it."""
    assert {it.kind for it in arguments(cls).values()} == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError):
        cls("task_id")


@pytest.mark.parametrize("cls", ALL)
def test_template_fields_exist_and_none_is_rendered_per_row(cls):
    """Airflow renders a prompt before the engine does, to nothing: every row would ask the same empty question."""
    fields = cls.template_fields
    assert set(fields) <= set(arguments(cls)) | {"source"}
    assert set(fields) == {"source", "destination", "llm_conn_id", "model", "on_existing"}
    assert set(fields) & (set(TextGeneration.model_fields) | set(ChatGeneration.model_fields)) == set()


@pytest.mark.parametrize("cls", NAMED)
def test_a_typo_is_a_type_error(cls):
    """A misspelt argument was swallowed, and its default used."""
    with pytest.raises(TypeError, match="max_failure_ration"):
        cls(task_id="t", **needed(cls), max_failure_ration=1)
    with pytest.raises(TypeError, match="max_failure_ration"):
        cls.partial(task_id="t", max_failure_ration=1)
    for name in needed(cls):
        with pytest.raises(TypeError, match=name):
            cls(task_id="t", **{other: value for other, value in needed(cls).items() if other != name})


def test_a_typo_in_the_decorator_is_a_type_error():
    """The decorator takes what operators take, and says so too late if it does not check."""

    @task.distil(outputs={"a": str}, num_generation=2)
    def ask(row):
        return {"a": (yield row["a"])}

    with pytest.raises(TypeError, match="num_generation"):
        ask(ROWS)


def test_default_args_reach_own_and_task_fields():
    """Nightly DAGs set model, ratio and samples once for all tasks; Airflow only looks at explicit arguments."""
    shared = {
        "model": "m", "max_failure_ratio": 0.5, "num_generations": 3, "columns": "question", "template": "{{ question }}",
        "source": ROWS, "retries": 4,
    }  # fmt: skip
    with DAG("defaults", start_date=START, default_args=shared):
        text = TextGenerationOperator(task_id="text")
        chat = ChatGenerationOperator(task_id="chat", num_generations=1)

        @task.distil(outputs={"a": str})
        def ask(source):
            return {"a": (yield source["a"])}

        decorated = ask([{"a": "own"}]).operator
    assert (text.model, text.max_failure_ratio, text.retries) == ("m", 0.5, 4)
    assert (text.task.num_generations, text.task.columns, text.task.template) == (3, "question", "{{ question }}")
    assert (chat.model, chat.task.num_generations) == ("m", 1)
    assert (decorated.model, decorated.task.num_generations) == ("m", 3)
    assert [row.resolve({}) for row in decorated.source] == [{"a": "own"}]


def test_wrong_values_of_task_fields_are_named_without_their_text():
    """Pydantic's own message repeats all arguments, among them whole prompts."""
    with pytest.raises(TaskDefinitionError, match="num_generations: Input should be greater than 0") as caught:
        TextGenerationOperator(task_id="t", source=ROWS, num_generations=0, system_prompt="a long story")
    assert "a long story" not in str(caught.value)
    with pytest.raises(TaskDefinitionError, match=r"uses nobody, but it only sees instruction"):
        TextGenerationOperator(task_id="t", source=ROWS, template="{{ nobody }}")
    with pytest.raises(TaskDefinitionError, match="max_failure_ratio is 5; it is a share"):
        TextGenerationOperator(task_id="t", source=ROWS, max_failure_ratio=5)


@pytest.mark.parametrize("limit", [0, -1.5, float("nan"), True, "5"])
@pytest.mark.parametrize("name", ["max_cost_usd", "max_total_tokens"])
def test_a_limit_that_is_none_is_refused(name, limit):
    """A budget of 0 or of nan stopped nothing, or everything, in the middle of the night."""
    with pytest.raises(TaskDefinitionError, match=f"{name} is .*; it must be"):
        TextGenerationOperator(task_id="t", source=ROWS, **{name: limit})


def test_an_upstream_value_for_a_field_that_is_not_templated_is_refused():
    """The reference would reach the model as its repr, or end the task at run time as None."""
    with DAG("late", start_date=START):
        upstream = TextGenerationOperator(task_id="upstream", source=ROWS)
        with pytest.raises(TaskDefinitionError, match=r"system_prompt cannot come from an upstream.*expand\(system"):
            TextGenerationOperator(task_id="t", source=ROWS, system_prompt=upstream.output)


class Echo(Task):
    """A task of a user."""

    mark: str = ""

    @property
    def inputs(self):
        return ["instruction"]

    @property
    def outputs(self):
        return ["echo"]

    def format_input(self, input):
        return [{"role": "user", "content": input["instruction"] + self.mark}]

    def format_output(self, output, input):
        return {"echo": output}


class Keyed:
    """An LLM that shows its key when it is printed."""

    def __repr__(self) -> str:
        return "key-5f0c"


@pytest.mark.parametrize("given", [Echo(llm=Keyed()), Echo, "echo", None])
def test_a_task_with_an_llm_and_what_is_no_task_are_refused_where_they_are_written(given):
    """A mapped operator stores its arguments in the serialized DAG, where the LLM's key would stand."""
    for make in (DistilOperator.partial, partial(DistilOperator, source=ROWS)):
        with pytest.raises(TaskDefinitionError, match=r"brings an LLM|must be an instance") as caught:
            make(task_id="t", task=given)
        assert "5f0c" not in str(caught.value)


def dag() -> DAG:
    with DAG("written", start_date=START) as written:
        DistilOperator(task_id="own", source=ROWS, task=Echo())
        DistilOperator.partial(task_id="mapped", task=Echo(mark="?")).expand(source=[ROWS, ROWS])
        DistilOperator.partial(task_id="tasks", source=ROWS).expand(task=[Echo(mark="?"), Echo()])
        TextGenerationOperator.partial(task_id="fields", source=ROWS).expand(num_generations=[1, 2])

        @task.distil(outputs={"a": str})
        def ask(row):
            return {"a": (yield row["a"])}

        ask.expand(row=[ROWS, ROWS])
    return written


def test_the_serialized_dag_is_the_same_at_each_parse():
    """An address in the text of an object makes a new DAG version at every parse, every 30 seconds, for ever."""
    once, again = (DagSerialization.to_dict(dag()) for _ in range(2))
    assert once == again
    assert " at 0x" not in str(once)


def test_rows_in_every_kind_of_source_are_guarded():
    """Row text with braces is data; rendered as a template it fails, or changes without a word."""
    for source in (ROWS, tuple(ROWS), [ROWS, ROWS], ROWS[0], [ROWS[0], "gs://b/{{ ds }}"]):
        operator = TextGenerationOperator(task_id="t", source=source)
        operator.render_template_fields({"ds": "monday"}, operator.get_template_env())
        assert "{{ ds }}" in str(operator.source)
    assert operator.source[1] == "gs://b/monday"


def test_texts_stay_text_and_other_fields_keep_the_dags_way_of_rendering():
    """With native rendering, a model called "4" became the number 4, which endpoints refuse."""
    with DAG("native", start_date=START, render_template_as_native_obj=True):
        operator = TextGenerationOperator(task_id="t", source="{{ rows }}", model="{{ 2 + 2 }}", destination="{{ 7 }}")
        operator = operator.prepare_for_execution()
        operator.render_template_fields({"rows": ["a", "b"]})
    assert (operator.source, operator.model, operator.destination) == (["a", "b"], "4", "7")
    assert operator.render_template_as_native_obj is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"input_mappings": {"prompt": "instruction"}}, r"names 'prompt'; its inputs are instruction, system_prompt"),
        ({"structured_output": True}, "no structured answer of its own"),
    ],
)
def test_what_a_task_contradicts_itself_in_is_an_import_error_of_the_dag(arguments, says):
    """A DAG was parsed, scheduled and started before it said that a mapping names no column of the task."""
    with pytest.raises(TaskDefinitionError, match=says):
        TextGenerationOperator(task_id="t", source=ROWS, **arguments)


def test_json_is_refused_where_answers_have_no_json_form():
    """`structured_output` was taken and ignored, or made every answer unreadable."""
    for cls in (operators.GenstructOperator, operators.PairRMOperator, operators.GenerateEmbeddingsOperator):
        with pytest.raises(TaskDefinitionError, match="have no JSON form"):
            cls(task_id="t", source=ROWS, structured_output=True)
    with pytest.raises(TaskDefinitionError, match="pass structured_output=True instead of a schema"):
        operators.UltraFeedbackOperator(task_id="t", source=ROWS, structured_output={"type": "object"})


def test_rows_without_a_source_and_a_source_without_need_are_refused():
    """A generator ignored the source that it was given; another task failed at night for want of one."""
    with pytest.raises(TaskDefinitionError, match="makes its rows itself, without a source: leave out source, limit"):
        DistilOperator(task_id="t", task=tasks.EvolInstructGenerator(num_instructions=1), source=ROWS, limit=1)
    with pytest.raises(TaskDefinitionError, match="reads rows: pass source="):
        DistilOperator(task_id="t", task=TextGeneration())
