"""LLM dataset generation as Apache Airflow operators: rows in, Parquet out, and a retry never pays twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_distil.hooks.dataset import open_dataset, publish

__all__ = ["open_dataset", "publish"]


def __getattr__(name: str) -> Any:
    # Loaded when they are used: a DAG file that imports them must not pay for Arrow at each parse.
    if name in __all__:
        from airflow_distil.hooks import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
