"""Operators that judge: scores, ratings, verdicts and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack

from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.operators.base import TaskOperator
from airflow_distil.operators.options import DistilOptions
from airflow_distil.tasks import complexity_scorer, instruction_backtranslation, quality_scorer, ultrafeedback
from airflow_distil.tasks.complexity_scorer import ComplexityScorer
from airflow_distil.tasks.instruction_backtranslation import InstructionBacktranslation
from airflow_distil.tasks.pair_rm import PairRM
from airflow_distil.tasks.prometheus_eval import RUBRICS, PrometheusEval
from airflow_distil.tasks.quality_scorer import QualityScorer
from airflow_distil.tasks.ultrafeedback import Aspect, UltraFeedback

if TYPE_CHECKING:
    from airflow_distil.llms.pair_ranker import PairRanker

__all__ = [
    "ComplexityScorerOperator",
    "InstructionBacktranslationOperator",
    "PairRMOperator",
    "PrometheusEvalOperator",
    "QualityScorerOperator",
    "UltraFeedbackOperator",
]

# The published checkpoint of the paper.
PAIR_RM = "llm-blender/PairRM"


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


class PairRMOperator(TaskOperator):
    """Rank the `candidates` of each row by a PairRM model on the worker; see `airflow_distil.tasks.PairRM`.

    Needs no connection, but the extra `transformers` on the worker: `pip install 'airflow-distil[transformers]'`.
    Further arguments: those of `DistilOperator`, without `llm_conn_id` and `generation_kwargs`, and of
    `airflow_distil.tasks.Task`.

    :param source: the rows; see `DistilOperator`. (templated)
    :param model: folder, or id at the Hugging Face Hub, of a PairRM checkpoint; by default `llm-blender/PairRM`. The model in
        `default_args`, which is a chat model's, is not taken. (templated)
    :param device: `cuda`, `cuda:1`, `cpu`, …; by default `cuda` if there is one, else `cpu`.
    :param instructions: put before each input, as it is: end it with a blank or a line break.

    Example::

        ranked = PairRMOperator(
            task_id="rank",
            source=upstream.output,
            input_mappings={"input": "instruction", "candidates": "generations"},
            device="cpu",
        )
    """

    task_class = PairRM

    def __init__(
        self,
        *,
        source: Any,
        device: str | None = None,
        instructions: str | None = None,
        **kwargs: Unpack[DistilOptions],
    ) -> None:
        for name in ("llm_conn_id", "generation_kwargs"):
            if kwargs.get(name) is not None:
                raise TaskDefinitionError(f"PairRMOperator takes no {name}: it brings its model along. Leave it out.")
        # Given here, so that the model of `default_args` does not come in its place.
        kwargs["model"] = kwargs.get("model") or PAIR_RM
        super().__init__(source=source, fields={"instructions": instructions}, **kwargs)
        self.device = device

    def get_llm(self) -> PairRanker:
        """Return the ranker; its weights are loaded when the first row is ranked."""
        from airflow_distil.llms.pair_ranker import PairRanker

        return PairRanker(self.model or PAIR_RM, device=self.device)
