"""Each task of the package once, over the same rows; how many, which models and how much text comes from the environment."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG

from airflow_distil.operators import (
    ChatGenerationOperator,
    ComplexityScorerOperator,
    EvolComplexityGeneratorOperator,
    EvolComplexityOperator,
    EvolInstructGeneratorOperator,
    EvolInstructOperator,
    EvolQualityOperator,
    GenerateEmbeddingsOperator,
    GenstructOperator,
    InstructionBacktranslationOperator,
    PairRMOperator,
    PrometheusEvalOperator,
    QualityScorerOperator,
    SelfInstructOperator,
    TextGenerationOperator,
    UltraFeedbackOperator,
)

ROWS = int(os.environ.get("DISTIL_TEST_ROWS", "20"))
SOURCE = os.environ.get("DISTIL_TEST_SOURCE", "/nowhere.jsonl")
PAIR_RM = os.environ.get("DISTIL_TEST_PAIR_RM", "/nowhere")
# A model of 135 million parameters goes on for ever if nobody stops it.
TOKENS = int(os.environ.get("DISTIL_TEST_TOKENS", "200"))
LENGTHS = {"min_length": 40, "max_length": 1024}


def reads(*columns: str) -> dict[str, Any]:
    return {"source": SOURCE, "source_columns": list(columns)}


with DAG(
    "every_task",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    schedule=None,
    default_args={
        "max_failure_ratio": 1.0,
        "generation_kwargs": {"temperature": 0.7, "seed": 1, "max_tokens": TOKENS},
    },
) as dag:
    TextGenerationOperator(task_id="text_generation", **reads("instruction"))
    ChatGenerationOperator(task_id="chat_generation", **reads("messages"))
    SelfInstructOperator(task_id="self_instruct", num_instructions=3, **reads("input"))
    SelfInstructOperator(task_id="self_instruct_json", num_instructions=3, structured_output=True, **reads("input"))
    GenstructOperator(task_id="genstruct", **reads("title", "content"))
    EvolInstructOperator(
        task_id="evol_instruct", num_evolutions=2, store_evolutions=True, generate_answers=True, **reads("instruction")
    )
    EvolComplexityOperator(task_id="evol_complexity", num_evolutions=2, **reads("instruction"))
    EvolQualityOperator(task_id="evol_quality", num_evolutions=2, **reads("instruction", "response"))
    EvolInstructGeneratorOperator(task_id="evol_instruct_generator", num_instructions=ROWS, **LENGTHS)
    EvolComplexityGeneratorOperator(task_id="evol_complexity_generator", num_instructions=ROWS, **LENGTHS)
    for suffix, structured in (("", False), ("_json", True)):
        ComplexityScorerOperator(task_id=f"complexity_scorer{suffix}", structured_output=structured, **reads("instructions"))
        QualityScorerOperator(
            task_id=f"quality_scorer{suffix}", structured_output=structured, **reads("instruction", "generations")
        )
        InstructionBacktranslationOperator(
            task_id=f"instruction_backtranslation{suffix}", structured_output=structured, **reads("instruction", "generation")
        )
        UltraFeedbackOperator(
            task_id=f"ultrafeedback{suffix}", structured_output=structured, **reads("instruction", "generations")
        )
        UltraFeedbackOperator(
            task_id=f"ultrafeedback_types{suffix}",
            aspect="helpfulness",
            structured_output=structured,
            **reads("instruction", "generations"),
        )
        PrometheusEvalOperator(
            task_id=f"prometheus_absolute{suffix}",
            mode="absolute",
            rubric="helpfulness",
            reference=True,
            structured_output=structured,
            **reads("instruction", "generation", "reference"),
        )
        PrometheusEvalOperator(
            task_id=f"prometheus_relative{suffix}",
            mode="relative",
            rubric="reasoning",
            structured_output=structured,
            **reads("instruction", "generations"),
        )
    GenerateEmbeddingsOperator(
        task_id="generate_embeddings", llm_conn_id="distil_embeddings", generation_kwargs={}, **reads("text")
    )
    PairRMOperator(task_id="pair_rm", model=PAIR_RM, generation_kwargs=None, **reads("input", "candidates"))
