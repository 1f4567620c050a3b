"""The operator behind all others: rows in, a task over each, Parquet out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

from airflow.sdk import BaseOperator, literal
from pydantic import ValidationError

from airflow_distil.exceptions import TaskDefinitionError, invalid
from airflow_distil.operators.links import DatasetLink
from airflow_distil.operators.options import AirflowOptions
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.generator import GeneratorTask

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

    from airflow_distil.conversation import LLM
    from airflow_distil.engine.stop import Stop

__all__ = ["TEXTS", "DistilOperator", "TaskOperator"]

# Template fields that are rendered to text, whatever the DAG says.
TEXTS = ("destination", "llm_conn_id", "model", "on_existing")


class DistilOperator(BaseOperator):
    """Run a task over each row of a source and publish the results as Parquet.

    Returns a summary by XCom: where the dataset is and what is in it, never rows. A retry or a clear goes on from the answers
    that were already paid for.

    :param task: the task, without an LLM: that comes from the connection. (templates are not rendered in it)
    :param source: the rows; a `GeneratorTask` has none. A URI, glob or list of URIs (Parquet, JSONL, JSON, CSV; plain, gz,
        zst); rows as a list of dicts; or what another operator of this package returned, or a list of that. (templated)
    :param destination: URI of the folder to publish in: `file`, `gs`, `s3`; with a connection as `scheme://conn_id@bucket/key`.
        By default `[distil] dataset_root`, then DAG, task and run. A mapped task instance writes to `map-<index>/` below it. A
        destination belongs to one task. (templated)
    :param llm_conn_id: connection of the LLM, of type `distil_llm`, `openai` or `pydanticai`. (templated)
    :param model: model name; by default the connection's. (templated)
    :param generation_kwargs: parameters of the endpoint by their OpenAI names: `temperature`, `max_tokens`, …
    :param max_concurrency: most requests in flight. By default found out while running, up to the connection's.
    :param max_failure_ratio: share of rows that may fail or be unparsed, 0 to 1, of those not skipped. Above it nothing is
        published.
    :param max_cost_usd: most US dollars that this task instance may pay, over all its attempts and clears. When they are spent,
        it stops, keeps every answer and fails without a retry; raise the limit and clear it to go on. It is passed by one call
        at most, unless answers become dearer than all before, and of the first eight nobody knows what they cost. Needs a
        price: the connection's, or the provider's list price.
    :param max_total_tokens: the same in tokens, of input and output together.
    :param on_existing: what a cleared or new run does with an edition that is there already: `reuse` (ask failed and unparsed
        rows again, and what changed; nothing if there is none), `regenerate` (ask everything anew), `fail`. A retry always goes
        on. (templated)
    :param on_quota: what to do when the endpoint serves this account no more for now, because a quota is used up or it says
        to come back in more than five minutes. `fail`: end this try, as after any error. `reschedule`: give the worker's slot
        back, and go on after the time that the endpoint told, or after `retry_delay`, without using up a try; given up two days
        after the first time.
    :param limit: use only the first rows of the source.
    :param source_columns: use only these columns of the source.
    :param schema: Arrow types of CSV columns, as `{"column": "int64"}`; the others are strings.
    """

    template_fields: Sequence[str] = ("source", *TEXTS)
    ui_color = "#e8f0ea"
    operator_extra_links = (DatasetLink(),)

    def __init__(
        self,
        *,
        task: Task,
        source: Any = None,
        destination: str | None = None,
        llm_conn_id: str = "distil_llm_default",
        model: str | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        max_concurrency: int | None = None,
        max_failure_ratio: float = 0.05,
        max_cost_usd: float | None = None,
        max_total_tokens: int | None = None,
        on_existing: Literal["reuse", "regenerate", "fail"] = "reuse",
        on_quota: Literal["fail", "reschedule"] = "fail",
        limit: int | None = None,
        source_columns: list[str] | None = None,
        schema: dict[str, str] | None = None,
        **kwargs: Unpack[AirflowOptions],
    ) -> None:
        super().__init__(**kwargs)
        _check_task(task)
        _check_places(self.task_id, source, destination)
        _check_source(task, source, {"limit": limit, "source_columns": source_columns, "schema": schema})
        if not 0 <= max_failure_ratio <= 1:
            raise TaskDefinitionError(f"max_failure_ratio is {max_failure_ratio:g}; it is a share, from 0 to 1.")
        _check_limits(max_cost_usd, max_total_tokens)
        if on_quota not in {"fail", "reschedule"}:
            raise TaskDefinitionError(f"on_quota is {on_quota!r}; it must be 'fail' or 'reschedule'.")
        self.task = task
        self.source = _guarded(source)
        self.destination = destination
        self.llm_conn_id = llm_conn_id
        self.model = model
        self.generation_kwargs = generation_kwargs
        self.max_concurrency = max_concurrency
        self.max_failure_ratio = max_failure_ratio
        self.max_cost_usd = max_cost_usd
        self.max_total_tokens = max_total_tokens
        self.on_existing = on_existing
        self.on_quota = on_quota
        self.limit = limit
        self.source_columns = source_columns
        self.schema = schema
        self._stop: Stop | None = None

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Fix arguments of a mapped operator. What is wrong with its task shows here, not when the first instance runs."""
        if "task" in kwargs:
            _check_task(kwargs["task"])
        return super().partial(**kwargs)

    def get_llm(self) -> LLM:
        """Return the model that the task asks; called on the worker, after templates are rendered."""
        from airflow_distil.hooks.llm import LLMHook

        return LLMHook(self.llm_conn_id).get_conn(model=self.model, generation_kwargs=self.generation_kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the task over the source and return the summary of the published dataset."""
        from airflow_distil.engine.stop import Stop
        from airflow_distil.operators.attempt import run

        self._stop = Stop()
        return run(self, context, self._stop)

    def on_kill(self) -> None:
        """Stop soon: `execute` keeps what is paid and raises. Airflow calls this from its signal handler."""
        if self._stop is not None:
            self._stop.request("Airflow asked the task to end")

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: jinja2.Environment, seen_oids: set[int]
    ) -> None:
        fields = list(template_fields)
        super()._do_render_template_fields(parent, [f for f in fields if f not in TEXTS], context, jinja_env, seen_oids)
        # A name is text, also where a DAG renders to native objects: a model called "4" must not become a number.
        native, self.render_template_as_native_obj = self.render_template_as_native_obj, False
        try:
            texts = [f for f in fields if f in TEXTS]
            super()._do_render_template_fields(parent, texts, context, self.get_template_env(), seen_oids)
        finally:
            self.render_template_as_native_obj = native


class TaskOperator(DistilOperator):
    """Base of the operators that are named after a task.

    :param fields: the task's own fields.

    The others are fields that all tasks have; see `airflow_distil.tasks.Task`.
    """

    task_class: ClassVar[type[Task]]

    def __init__(
        self,
        *,
        fields: dict[str, Any],
        name: str = "",
        num_generations: int = 1,
        group_generations: bool = False,
        input_mappings: dict[str, str] | None = None,
        output_mappings: dict[str, str] | None = None,
        add_raw_input: bool = False,
        add_raw_output: bool = False,
        structured_output: Any = False,
        max_parse_retries: int = 1,
        seed: int = 42,
        **kwargs: Any,
    ) -> None:
        given = {
            **fields,
            "name": name,
            "num_generations": num_generations,
            "group_generations": group_generations,
            "input_mappings": input_mappings or {},
            "output_mappings": output_mappings or {},
            "add_raw_input": add_raw_input,
            "add_raw_output": add_raw_output,
            "structured_output": structured_output,
            "max_parse_retries": max_parse_retries,
            "seed": seed,
        }
        if late := sorted(name for name, value in given.items() if hasattr(value, "iter_references")):
            raise TaskDefinitionError(
                f"{', '.join(late)} cannot come from an upstream task here, as it is no template field. Map over it: "
                f"{type(self).__name__}.partial(...).expand({late[0]}=...)."
            )
        try:
            task = self.task_class(**given)
        except ValidationError as error:
            # Not `from error`: its text repeats all arguments.
            raise TaskDefinitionError(f"{type(self).__name__}: {invalid(error)}.") from None
        super().__init__(task=task, **kwargs)


def _check_task(task: Any) -> None:
    if not isinstance(task, Task):
        raise TaskDefinitionError(f"task must be an instance of a Task, such as task=MyTask(...), not a {type(task).__name__}.")
    task.check()
    if task.llm is not None:
        # A mapped operator's arguments are stored in the serialized DAG, and an LLM holds its key.
        raise TaskDefinitionError(f"Task {task.name!r} brings an LLM. Leave it out: the operator takes it from llm_conn_id.")


def _check_places(task_id: str, source: Any, destination: Any) -> None:
    """Refuse a URI with a password before it is in the serialized DAG; what templates make is looked at in `execute`."""
    from airflow_distil.datasets.uri import refuse_credentials

    sources = source if isinstance(source, list | tuple) else [source]
    for name, place in [("destination", destination), *(("source", each) for each in sources)]:
        if isinstance(place, str) and "{{" not in place:
            # Airflow's import error has no line of the DAG file in it.
            refuse_credentials(place, f"Task {task_id!r}: {name}")


def _check_limits(cost: Any, tokens: Any) -> None:
    for name, value, kinds, what in (
        ("max_cost_usd", cost, int | float, "a number of US dollars, more than 0"),
        ("max_total_tokens", tokens, int, "a whole number, more than 0"),
    ):
        # Not `<= 0`: nan is neither.
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not value > 0):
            raise TaskDefinitionError(f"{name} is {value!r}; it must be {what}, or None for no limit.")


def _check_source(task: Task, source: Any, bounds: dict[str, Any]) -> None:
    if not isinstance(task, GeneratorTask):
        if source is None:
            raise TaskDefinitionError(f"Task {task.name!r} reads rows: pass source=<URI, rows or an upstream task's output>.")
        return
    if given := [name for name, value in {"source": source, **bounds}.items() if value is not None]:
        raise TaskDefinitionError(f"Task {task.name!r} makes its rows itself, without a source: leave out {', '.join(given)}.")


def _guarded(source: Any) -> Any:
    """Keep row text from being rendered as a template. Only the rows: a list may also hold what upstream tasks return."""
    if isinstance(source, dict):
        return literal(source)
    if isinstance(source, list | tuple):
        return [_guarded(item) for item in source]
    return source
