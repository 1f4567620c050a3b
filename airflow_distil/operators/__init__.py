"""Airflow operators: one thin class per task, and one that tidies up."""

from airflow_distil.operators.base import DistilOperator
from airflow_distil.operators.embedding import GenerateEmbeddingsOperator
from airflow_distil.operators.evolution import (
    EvolComplexityGeneratorOperator,
    EvolComplexityOperator,
    EvolInstructGeneratorOperator,
    EvolInstructOperator,
    EvolQualityOperator,
)
from airflow_distil.operators.judging import (
    ComplexityScorerOperator,
    InstructionBacktranslationOperator,
    PairRMOperator,
    PrometheusEvalOperator,
    QualityScorerOperator,
    UltraFeedbackOperator,
)
from airflow_distil.operators.maintenance import CleanDatasetsOperator
from airflow_distil.operators.retry import DistilRetryPolicy
from airflow_distil.operators.text import (
    ChatGenerationOperator,
    GenstructOperator,
    SelfInstructOperator,
    TextGenerationOperator,
)

__all__ = [
    "ChatGenerationOperator",
    "CleanDatasetsOperator",
    "ComplexityScorerOperator",
    "DistilOperator",
    "DistilRetryPolicy",
    "EvolComplexityGeneratorOperator",
    "EvolComplexityOperator",
    "EvolInstructGeneratorOperator",
    "EvolInstructOperator",
    "EvolQualityOperator",
    "GenerateEmbeddingsOperator",
    "GenstructOperator",
    "InstructionBacktranslationOperator",
    "PairRMOperator",
    "PrometheusEvalOperator",
    "QualityScorerOperator",
    "SelfInstructOperator",
    "TextGenerationOperator",
    "UltraFeedbackOperator",
]
