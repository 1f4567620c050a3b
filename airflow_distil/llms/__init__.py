"""How a model is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_distil.llms.openai import OpenAILLM

__all__ = ["OpenAILLM"]


def __getattr__(name: str) -> Any:
    # The SDK takes half a second to import; a DAG file that only checks its parameters does not pay for it.
    if name == "OpenAILLM":
        from airflow_distil.llms.openai import OpenAILLM

        return OpenAILLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
