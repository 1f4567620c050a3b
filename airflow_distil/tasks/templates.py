"""Prompt templates: Jinja2, sandboxed, and strict about names. Row text is only ever a value in them, never a template."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["check", "packaged", "render"]

# A prompt is plain text for a model: nothing to escape.
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    compiled = _ENVIRONMENT.from_string(template)
    # A plain dict: Jinja's layered one is copied, in Python, for each prompt.
    compiled.globals = dict(compiled.globals)
    return compiled


def render(template: str, **values: Any) -> str:
    """Fill in a template.

    :raises jinja2.UndefinedError: if it uses a name that has no value.
    :raises jinja2.exceptions.SecurityError: if it reaches for what a prompt does not need.
    """
    return _compiled(template).render(values)


def check(template: str, names: Iterable[str], needed: Iterable[str] = ()) -> None:
    """Check a template before it is used.

    :param names: what it may use.
    :param needed: what it must use: without that, rows that differ would get the same prompt.
    :raises ValueError: if it is not valid Jinja2, uses a name that will not be there, or leaves one out that it needs.
    """
    names = list(names)
    try:
        used = meta.find_undeclared_variables(_ENVIRONMENT.parse(template))
    except TemplateSyntaxError as error:
        raise ValueError(f"the template is not valid Jinja2: {error}") from error
    if unknown := sorted(used - set(names)):
        raise ValueError(f"the template uses {', '.join(unknown)}, but it only sees {', '.join(names)}")
    if missing := [name for name in needed if name not in used]:
        shown = ", ".join(f"{{{{ {name} }}}}" for name in missing)
        raise ValueError(f"the template never uses {shown}, so rows that differ there would get the same prompt")


def packaged(name: str) -> str:
    """Return the text of a template that is shipped beside the tasks."""
    return resources.files("airflow_distil.tasks").joinpath(name).read_text(encoding="utf-8")
