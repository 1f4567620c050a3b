"""The fingerprint of work: what it is made of, so that the same work is recognised and other work is not taken for it."""

from __future__ import annotations

import inspect
import json
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from airflow_distil.conversation import LLM, digest
from airflow_distil.datasets.source import Source
from airflow_distil.tasks.base import Task

__all__ = ["describe", "fingerprint", "package_version", "versions"]


def fingerprint(task: Task, llm: LLM, source: Source) -> str:
    """Hash everything that the rows of the output depend on.

    In it: the source's identity and bounds, the task's class, fields and code, this package's version, the model and its
    parameters. Not in it: how fast or how expensive the work may be, and what to do about earlier editions.
    """
    parts = {
        "source": source.identity,
        # Its bounds show in these: how many rows, which columns, as what.
        "rows": source.rows,
        "columns": [(field.name, str(field.type)) for field in source.schema],
        "task": describe(task),
        "code": _code(task),
        "package": package_version(),
        "model": llm.model,
        "parameters": llm.parameters,
    }
    return digest(json.dumps(parts, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).hex()


def describe(task: Task) -> dict[str, Any]:
    """Return class and fields of a task, as JSON can hold them."""
    fields = {name: _plain(getattr(task, name)) for name in type(task).model_fields if name != "llm"}
    return {"class": type(task).__qualname__, **fields}


def versions() -> dict[str, str]:
    """Return what a dataset was made with."""
    return {"airflow-distil": package_version(), "python": platform.python_version(), "pyarrow": pa.__version__}


def package_version() -> str:
    """Return the version of this package."""
    try:
        return version("airflow-distil")
    except PackageNotFoundError:  # run from a source tree
        return "0"


def _code(task: Task) -> dict[str, str]:
    """Return the source of the modules that define the task and its bases, up to ours: their version covers those."""
    owners: list[Any] = [base for base in type(task).__mro__ if issubclass(base, Task)]
    owners += [value for name in type(task).model_fields if inspect.isfunction(value := getattr(task, name))]
    return {
        owner.__qualname__: _source(owner)
        for owner in owners
        if owner.__module__.partition(".")[0] != Task.__module__.partition(".")[0]
    }


def _source(owner: Any) -> str:
    module = sys.modules.get(owner.__module__)
    file = getattr(module, "__file__", None)
    try:
        return Path(file).read_text(encoding="utf-8") if file else inspect.getsource(owner)
    except (OSError, TypeError):
        # Typed into a console: its name is all there is.
        return f"{owner.__module__}.{owner.__qualname__}"


def _plain(value: Any) -> Any:
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, Mapping | BaseModel):
        return {str(key): _plain(item) for key, item in dict(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=str)
    if inspect.isfunction(value) or isinstance(value, type):
        return value.__qualname__
    # Without addresses, which differ in each process.
    return value if isinstance(value, str | int | float | None) else re.sub(r" at 0x[0-9a-f]+", "", str(value))
