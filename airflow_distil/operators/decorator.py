"""`@task.distil`: a conversation written as a generator function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory

from airflow_distil.operators.base import DistilOperator, TaskOperator
from airflow_distil.tasks.function import Function

__all__ = ["distil_task"]


class _DistilDecoratedOperator(DecoratedOperator, TaskOperator):
    """Run a generator function over each row of the source that it is called with.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param python_callable: `def f(row): text = yield prompt; return {...}`.
    :param outputs: output column → Python type.
    :param inputs: columns that the source must have.
    """

    task_class = Function
    custom_operator_name: str = "@task.distil"
    # The arguments are the source: rows must not be rendered as templates, as op_args and op_kwargs would be.
    template_fields: Sequence[str] = DistilOperator.template_fields
    template_fields_renderers: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        outputs: dict[str, Any],
        inputs: list[str] | None = None,
        op_args: Sequence[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        name: str = "",
        **kwargs: Any,
    ) -> None:
        given = [*(op_args or ()), *(op_kwargs or {}).values()]
        if len(given) != 1:
            raise TypeError(
                f"{python_callable.__name__} is called with one argument, the source of its rows; it was given {len(given)}"
            )
        super().__init__(
            # The function is called by the engine, once per row and sample, not by Airflow: for it the source is the only
            # argument. And what is returned is one summary, whatever the function's annotations are.
            python_callable=lambda *source: source,
            op_args=given,
            source=given[0],
            fields={"function": python_callable, "columns": outputs, "reads": inputs or []},
            name=name or python_callable.__name__,
            **{**kwargs, "multiple_outputs": False},
        )
        self.task.check()
        self.python_callable = python_callable

    def _hook_apply_defaults(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Leave the function's parameters alone: they are rows, and no value of `default_args` is meant for them."""
        return args, kwargs

    def execute(self, context: Any) -> Any:
        return DistilOperator.execute(self, context)


def distil_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Turn a generator function over one row into a task over a source.

    The function yields a prompt (text or messages) and receives the answer's text; it may do so several times, and each turn is
    kept and resumed by itself. It returns its output columns. The decorated function is called with the source, or mapped over
    several by the name of its parameter: `f.expand(row=[...])`.

    :param python_callable: the function.
    :param outputs: output column → Python type.
    :param inputs: columns that the source must have; the function sees all of them in any case.
    :param kwargs: arguments of `DistilOperator`, and fields of `airflow_distil.tasks.Task` such as `num_generations`.
    """
    return task_decorator_factory(python_callable=python_callable, decorated_operator_class=_DistilDecoratedOperator, **kwargs)
