"""The same work has the same fingerprint in every process; other work has another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from airflow_distil.datasets.source import open_source
from airflow_distil.engine.fingerprint import describe, fingerprint
from airflow_distil.tasks import TextGeneration
from airflow_distil.tasks.function import Function
from tests.unit.engine.lab import Model, many


class Schema(BaseModel):
    a: int


class Holding(TextGeneration):
    things: Any = None


def made(task=None, model=None, rows=None, **source) -> str:
    return fingerprint(task or TextGeneration(), model or Model(), open_source(rows or many(3), **source))


def generator(row):
    yield "x"


def parameters(**values) -> Model:
    model = Model()
    model.parameters = values
    return model


class TestChanges:
    @pytest.mark.parametrize(
        "other",
        [
            {"task": TextGeneration(template="{{ instruction }}!")},
            {"task": TextGeneration(system_prompt="x")},
            {"task": TextGeneration(num_generations=2)},
            {"task": TextGeneration(seed=1)},
            {"task": TextGeneration(structured_output=Schema)},
            {"task": TextGeneration(output_mappings={"generation": "y"})},
            {"task": TextGeneration(add_raw_output=True)},
            {"task": Holding()},
            {"model": Model(model="other")},
            {"model": parameters(temperature=1.0)},
            {"rows": many(4)},
            {"limit": 2},
            {"rows": [{**row, "id": 1} for row in many(3)]},
            {"rows": [{**row, "id": 1} for row in many(3)], "columns": ["instruction", "id"]},
        ],
        ids=str,
    )
    def test_everything_that_rows_depend_on(self, other):
        """Left out, an old edition would be returned as the result of new work."""
        assert made(**other) != made()

    @pytest.mark.parametrize(
        "other", [{"model": Model(max_concurrency=3)}, {"model": Model(input_price=1.0)}, {"task": TextGeneration(llm=Model())}]
    )
    def test_nothing_that_they_do_not(self, other):
        """A faster connection must not throw the published edition away."""
        assert made(**other) == made()

    def test_code_of_a_custom_task(self, tmp_path, monkeypatch):
        """A fixed `format_output` gives other rows from the same answers."""
        monkeypatch.syspath_prepend(str(tmp_path))
        seen = []
        for version in (1, 2):
            (tmp_path / "custom_task_module.py").write_text(
                "from airflow_distil.tasks import TextGeneration\n"
                f"class Custom(TextGeneration):\n    def format_output(self, output, input):\n        return {version}\n"
            )
            sys.modules.pop("custom_task_module", None)
            for cached in tmp_path.glob("__pycache__/*"):
                cached.unlink()
            from custom_task_module import Custom

            seen.append(made(Custom()))
        sys.modules.pop("custom_task_module", None)
        assert seen[0] != seen[1]

    def test_code_of_a_base_of_a_custom_task(self, tmp_path, monkeypatch):
        """The prompt may be made in the base class, in another module."""
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "custom_leaf_module.py").write_text("from custom_base_module import Base\nclass Leaf(Base):\n    pass\n")
        seen = []
        for version in (1, 2):
            (tmp_path / "custom_base_module.py").write_text(
                f"from airflow_distil.tasks import TextGeneration\nVERSION = {version}\nclass Base(TextGeneration):\n    pass\n"
            )
            for name in ("custom_leaf_module", "custom_base_module"):
                sys.modules.pop(name, None)
            for cached in tmp_path.glob("__pycache__/*"):
                cached.unlink()
            from custom_leaf_module import Leaf

            seen.append(made(Leaf()))
        for name in ("custom_leaf_module", "custom_base_module"):
            sys.modules.pop(name, None)
        assert seen[0] != seen[1]

    def test_function_of_another_module_counts(self):
        """What `@task.distil` decorates is the task's code."""
        function = Function(function=generator, columns={"a": str})
        assert any("def generator(row)" in code for code in _code(function).values())


def _code(task) -> dict[str, str]:
    from airflow_distil.engine.fingerprint import _code

    return _code(task)


class TestProcesses:
    def test_same_in_every_process(self):
        """Hashes of sets and addresses of objects differ per process; then no retry would recognise its own work."""
        program = """
            import re, sys
            sys.path.insert(0, {root!r})
            from tests.unit.engine.test_fingerprint import *
            things = [{{"b", "a", "c"}}, generator, str.upper, Path("/x"), re.compile("x"), list[str], object(), lambda: 1]
            things += [Schema, Schema(a=1)]
            task = Holding(things=things)
            print(made(task), json.dumps(describe(task)))
        """
        root = str(Path(__file__).parents[3])
        seen = set()
        for seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program.format(root=root))],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONHASHSEED": seed},
            )
            seen.add(done.stdout)
        assert len(seen) == 1, seen

    def test_description_is_json(self):
        """It goes into the manifest, after everything was paid."""
        described = describe(Function(function=generator, columns={"a": list[str], "b": dict[str, int] | None}))
        assert json.loads(json.dumps(described)) == described
        assert " at 0x" not in str(described)

    def test_description_has_no_llm(self):
        """It may hold a key."""
        assert "llm" not in describe(TextGeneration(llm=Model()))
