"""Same seed, same prompts: at any concurrency, in any order of rows, and after a kill, byte for byte."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from airflow_distil import tasks
from airflow_distil.conversation import Answer, Chat, Complete, Embed, Rank, Request, Usage, canonical, user
from airflow_distil.testing import sensible
from tests.reference import NEEDED
from tests.system.every_task import rows
from tests.unit.engine.lab import Lab, Model

MORE: dict[str, dict[str, Any]] = {
    "EvolInstruct": {"num_evolutions": 4, "generate_answers": True, "store_evolutions": True},
    "EvolComplexity": {"num_evolutions": 3},
    "EvolQuality": {"num_evolutions": 3},
    "EvolInstructGenerator": {"num_instructions": 12, "generate_answers": True},
    "EvolComplexityGenerator": {"num_instructions": 12},
    "PrometheusEval": {"mode": "relative", "rubric": "reasoning"},
}
ALL = [
    each
    for name in tasks.__all__
    if isinstance(each := getattr(tasks, name), type) and issubclass(each, tasks.Task)
    if each not in (tasks.Task, tasks.GeneratorTask)
]


class Sensible(Model):
    """Answers as a good model would, and stops after so many answers."""

    def __init__(self, concurrency: int, last: int | None = None) -> None:
        super().__init__(max_concurrency=concurrency)
        self.last = last

    async def _one(self, request: Request) -> Answer:
        if self.last is not None and len(self.requests) >= self.last:
            raise RuntimeError("killed")
        self.requests.append(request)
        match request:
            case Embed():
                return Answer(vector=[1.0, 2.0], usage=Usage(1, 0))
            case Rank():
                return Answer(scores=[float(len(each)) for each in request.candidates])
            case Complete():
                said = sensible([user(request.prompt)], {})
            case Chat():
                said = sensible(request.messages, {"response_format": request.response_format})
        return Answer(text=said if isinstance(said, str) else str(said), finish_reason="stop", usage=Usage(1, 1))


@pytest.fixture
def attempt(tmp_path):
    labs: list[Lab] = []

    def attempt(task, model, source, lab=None):
        if lab is None:
            lab = Lab(tmp_path / str(len(labs)))
            labs.append(lab)
        with suppress(RuntimeError) if model.last else nullcontext():
            lab.job(source, model, task).run()
        return lab, Counter(canonical(request) for request in model.requests)

    yield attempt
    for lab in labs:
        lab.close()


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_prompts_depend_on_seed_and_row_only(cls, attempt):
    """Distilabel 1.5.3: a retry, another batch size or another order of rows drew other mutations."""
    task = cls(**{**NEEDED.get(cls.__name__, {}), **MORE.get(cls.__name__, {})})
    columns = [name for name in task.input_names if name != "candidate"]
    source = [{name: row[name] for name in columns if name in row} for row in rows(12)]
    _, one = attempt(task, Sensible(1), source)
    _, many = attempt(task, Sensible(64), source)
    assert one == many
    _, shuffled = attempt(task, Sensible(8), random.Random(5).sample(source, len(source)))
    assert one == shuffled
    total = one.total()
    assert total >= 12
    killed = Sensible(3, last=total // 2)
    lab, before = attempt(task, killed, source)
    _, after = attempt(task, Sensible(16), source, lab)
    assert before.total() == total // 2
    assert before + after == one


@pytest.mark.parametrize("name", ["EvolInstruct", "EvolQuality", "EvolInstructGenerator"])
def test_another_seed_draws_other_prompts(name, attempt):
    """Distilabel 1.5.3: the seed of EvolInstruct was never used."""
    cls = getattr(tasks, name)
    made = [cls(**MORE[name], seed=seed) for seed in (1, 2)]
    source = [{name: row[name] for name in made[0].inputs if name in row} for row in rows(12)]
    first, second = (attempt(task, Sensible(8), source)[1] for task in made)
    assert first != second
