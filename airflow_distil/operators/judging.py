"""Operators that judge: scores, ratings and verdicts."""

from __future__ import annotations

from typing import Any, Literal, Unpack

from airflow_distil.operators.base import TaskOperator
from airflow_distil.operators.options import DistilOptions
from airflow_distil.tasks import complexity_scorer, instruction_backtranslation, quality_scorer, ultrafeedback
from airflow_distil.tasks.complexity_scorer import ComplexityScorer
from airflow_distil.tasks.instruction_backtranslation import InstructionBacktranslation
from airflow_distil.tasks.prometheus_eval import RUBRICS, PrometheusEval
from airflow_distil.tasks.quality_scorer import QualityScorer
from airflow_distil.tasks.ultrafeedback import Aspect, UltraFeedback

__all__ = [
    "ComplexityScorerOperator",
    "InstructionBacktranslationOperator",
    "PrometheusEvalOperator",
    "QualityScorerOperator",
    "UltraFeedbackOperator",
]


class ComplexityScorerOperator(TaskOperator):
    """Score how complex each of the `instructions` of each row is; see `airflow_distil.tasks.ComplexityScorer`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param template: Jinja2 prompt that sees `instructions` and `structured`. Not templated by Airflow.

    Example::

        scored = ComplexityScorerOperator(task_id="score", source=upstream.output, structured_output=True)
    """

    task_class = ComplexityScorer

    def __init__(
        self, *, source: Any, template: str = complexity_scorer.DEFAULT_TEMPLATE, **kwargs: Unpack[DistilOptions]
    ) -> None:
        super().__init__(source=source, fields={"template": template}, **kwargs)


class QualityScorerOperator(TaskOperator):
    """Score how good each of the `generations` for an `instruction` is; see `airflow_distil.tasks.QualityScorer`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param template: Jinja2 prompt that sees `instruction`, `generations` and `structured`. Not templated by Airflow.

    Example::

        scored = QualityScorerOperator(task_id="score", source=upstream.output, llm_conn_id="judge")
    """

    task_class = QualityScorer

    def __init__(
        self, *, source: Any, template: str = quality_scorer.DEFAULT_TEMPLATE, **kwargs: Unpack[DistilOptions]
    ) -> None:
        super().__init__(source=source, fields={"template": template}, **kwargs)


class InstructionBacktranslationOperator(TaskOperator):
    """Rate each `generation` as an example of an answer; see `airflow_distil.tasks.InstructionBacktranslation`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param template: Jinja2 prompt that sees `instruction`, `generation` and `structured`. Not templated by Airflow.

    Example::

        rated = InstructionBacktranslationOperator(task_id="rate", source=upstream.output, max_failure_ratio=0.1)
    """

    task_class = InstructionBacktranslation

    def __init__(
        self, *, source: Any, template: str = instruction_backtranslation.DEFAULT_TEMPLATE, **kwargs: Unpack[DistilOptions]
    ) -> None:
        super().__init__(source=source, fields={"template": template}, **kwargs)


class UltraFeedbackOperator(TaskOperator):
    """Rate the `generations` for an `instruction` under one aspect, with reasons; see `airflow_distil.tasks.UltraFeedback`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param aspect: `helpfulness`, `honesty`, `instruction-following`, `truthfulness` or `overall-rating`.
    :param template: Jinja2 prompt that sees `aspect`, `instruction`, `generations`, `typed` and `structured`. Not templated by
        Airflow.
    :param system_prompt: system message; None for none.

    Example::

        rated = UltraFeedbackOperator(task_id="rate", source=upstream.output, aspect="honesty", llm_conn_id="judge")
    """

    task_class = UltraFeedback

    def __init__(
        self,
        *,
        source: Any,
        aspect: Aspect = "overall-rating",
        template: str = ultrafeedback.DEFAULT_TEMPLATE,
        system_prompt: str | None = ultrafeedback.DEFAULT_SYSTEM_PROMPT,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {"aspect": aspect, "template": template, "system_prompt": system_prompt}
        super().__init__(source=source, fields=fields, **kwargs)


class PrometheusEvalOperator(TaskOperator):
    """Grade a `generation`, or choose between two `generations`, by a rubric; see `airflow_distil.tasks.PrometheusEval`.

    Further arguments: those of `DistilOperator` and of `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param mode: `absolute` grades one answer, `relative` chooses between two.
    :param rubric: name of the rubric in `rubrics`.
    :param rubrics: name → rubric: a line `[criterion]`, then five lines `Score 1: …` to `Score 5: …`, in this order.
    :param reference: show the row's `reference`, an answer that deserves a 5.
    :param swap: ask in both orders, against the bias of judges for a position. Mode `relative` only.
    :param prompts: `own`, or `prometheus-eval`: the prompts of the model's authors, from their package.
    :param template: Jinja2 prompt instead. Not templated by Airflow.
    :param system_prompt: what the judge is told first, instead; an empty text for nothing.
    :param system_role: send that as a system message. By default it opens the user's message, as in the model's training.

    Example::

        compared = PrometheusEvalOperator(task_id="compare", source=upstream.output, mode="relative", swap=True)
    """

    task_class = PrometheusEval

    def __init__(
        self,
        *,
        source: Any,
        mode: Literal["absolute", "relative"] = "absolute",
        rubric: str = "helpfulness",
        rubrics: dict[str, str] = RUBRICS,
        reference: bool = False,
        swap: bool = False,
        prompts: Literal["own", "prometheus-eval"] = "own",
        template: str | None = None,
        system_prompt: str | None = None,
        system_role: bool = False,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        fields = {
            "mode": mode,
            "rubric": rubric,
            "rubrics": rubrics,
            "reference": reference,
            "swap": swap,
            "prompts": prompts,
            "template": template,
            "system_prompt": system_prompt,
            "system_role": system_role,
        }
        super().__init__(source=source, fields=fields, **kwargs)
