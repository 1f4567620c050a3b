"""What users may import."""

from __future__ import annotations

from importlib import import_module

import pytest

PUBLIC = {
    "airflow_distil": {"open_dataset", "preview", "publish"},
    "airflow_distil.operators": {
        "ChatGenerationOperator", "CleanDatasetsOperator", "ComplexityScorerOperator", "DistilOperator", "DistilRetryPolicy",
        "EvolComplexityGeneratorOperator", "EvolComplexityOperator", "EvolInstructGeneratorOperator",
        "EvolInstructOperator", "EvolQualityOperator", "GenerateEmbeddingsOperator", "GenstructOperator",
        "InstructionBacktranslationOperator", "PairRMOperator", "PrometheusEvalOperator", "QualityScorerOperator",
        "SelfInstructOperator", "TextGenerationOperator", "UltraFeedbackOperator",
    },
    "airflow_distil.tasks": {
        "Answer", "Chat", "ChatGeneration", "ChatType", "Complete", "ComplexityScorer", "Conversation", "Embed",
        "EvolComplexity", "EvolComplexityGenerator", "EvolInstruct", "EvolInstructGenerator", "EvolQuality",
        "GenerateEmbeddings", "GeneratorTask", "Genstruct", "InstructionBacktranslation", "PairRM", "PrometheusEval",
        "QualityScorer", "Rank", "SelfInstruct", "Task", "TextGeneration", "UltraFeedback", "Unparsed", "Vector",
    },
    "airflow_distil.testing": {
        "Answered", "Drop", "FakeLLM", "Fault", "HalfBody", "Hang", "Malformed", "request_digest", "sensible",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_all_is_what_is_promised(name):
    """A name disappeared from a release, or an internal one became public by accident."""
    module = import_module(name)
    assert set(module.__all__) == PUBLIC[name]
    assert list(module.__all__) == sorted(module.__all__)
    assert all(getattr(module, each) is not None for each in module.__all__)
