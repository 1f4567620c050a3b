"""How a model is reached."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_distil.llms.openai import OpenAILLM
    from airflow_distil.llms.pair_ranker import PairRanker
    from airflow_distil.llms.transformers import TransformersLLM

__all__ = ["OpenAILLM", "PairRanker", "TransformersLLM"]

_MODULES = {"OpenAILLM": "openai", "PairRanker": "pair_ranker", "TransformersLLM": "transformers"}


def __getattr__(name: str) -> Any:
    # The SDK takes half a second to import; a DAG file that only checks its parameters does not pay for it.
    if name in _MODULES:
        return getattr(import_module(f"airflow_distil.llms.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
