"""The sensible fake: every task of ours can read what it says."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from airflow_distil.conversation import Answer
from airflow_distil.llms.openai import OpenAILLM
from airflow_distil.tasks.complexity_scorer import ComplexityScorer
from airflow_distil.tasks.evol_generators import EvolComplexityGenerator, EvolInstructGenerator
from airflow_distil.tasks.evol_instruct import EvolComplexity, EvolInstruct
from airflow_distil.tasks.evol_quality import EvolQuality
from airflow_distil.tasks.genstruct import Genstruct
from airflow_distil.tasks.instruction_backtranslation import InstructionBacktranslation
from airflow_distil.tasks.prometheus_eval import PrometheusEval
from airflow_distil.tasks.quality_scorer import QualityScorer
from airflow_distil.tasks.self_instruct import SelfInstruct
from airflow_distil.tasks.text_generation import TextGeneration
from airflow_distil.tasks.ultrafeedback import UltraFeedback
from airflow_distil.testing import FakeLLM, sensible

TOPICS = ["the tides of the North Sea", "powdered milk", "why cork floats and what a cork oak is", "radio\nwaves", "x"]
ROWS = [
    {
        "input": topic,
        "title": topic,
        "content": f"A text about {topic}.",
        "instruction": f"Explain {topic}, with an example.",
        "instructions": [f"Explain {topic} in detail, please.", f"Name {topic}.", "Say [2] Score: 3.", "Name it."],
        "generation": f"It is {topic}.\n\nThat is all.",
        "response": f"It is {topic}.",
        "generations": [f"It is {topic}.", f"It is {topic}.", f"Nobody knows {topic}\n\nand why.", "No."],
        "reference": f"See {topic}.",
    }
    for topic in TOPICS
]
PAIRS = [{**row, "generations": row["generations"][1:3]} for row in ROWS]
ASPECTS = ["helpfulness", "honesty", "instruction-following", "truthfulness", "overall-rating"]


@pytest.fixture(scope="module")
def llm() -> Iterator[OpenAILLM]:
    """The fake behind its server, as a task reaches it."""
    with FakeLLM(sensible) as server:
        yield OpenAILLM(model="fake", base_url=server.base_url)


def run(task, llm, rows=ROWS):
    """Run a task whose answers are not asked for twice; return its rows, all of them ok."""
    rows = [{name: row[name] for name in task.input_names if name in row} for row in rows]
    [done] = type(task)(**{**dict(task), "llm": llm, "max_parse_retries": 0}).process(rows)
    assert [row["distil_error"] for row in done if "distil_error" in row] == []
    return done


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize(
    "task",
    [
        SelfInstruct(), SelfInstruct(num_instructions=1), SelfInstruct(num_instructions=25), ComplexityScorer(),
        QualityScorer(), InstructionBacktranslation(), PrometheusEval(), PrometheusEval(reference=True, rubric="honesty"),
        *(UltraFeedback(aspect=aspect) for aspect in ASPECTS),
    ],
    ids=repr,
)  # fmt: skip
def test_tasks_with_a_json_form(task, structured, llm):
    """An answer that a task cannot read would be a fault of the fake in a test about something else."""
    done = run(type(task)(**{**dict(task), "structured_output": structured}), llm)
    assert len(done) == len(ROWS)


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        (TextGeneration(), ROWS),
        (Genstruct(), ROWS),
        (Genstruct(as_chat=True), ROWS),
        (PrometheusEval(mode="relative"), PAIRS),
        (PrometheusEval(mode="relative", swap=True), PAIRS),
        (EvolInstruct(num_evolutions=12, store_evolutions=True, generate_answers=True), ROWS),
        (EvolComplexity(num_evolutions=2), ROWS),
        (EvolQuality(num_evolutions=5, store_evolutions=True), ROWS),
    ],
    ids=repr,
)
def test_other_tasks(task, rows, llm):
    """As above."""
    done = run(task, llm, rows)
    for row in done:
        assert set(row.get("mutation_errors", [])) <= {None}
        evolved = row.get("evolved_instructions") or row.get("evolved_responses") or []
        assert len(set(evolved)) == len(evolved)


@pytest.mark.parametrize("task", [EvolInstructGenerator, EvolComplexityGenerator])
def test_generators(task, llm):
    """Instructions that never get long enough, or are all the same, would end in TooManyFailures."""
    [rows] = task(num_instructions=40, llm=llm, max_parse_retries=0, generate_answers=True, max_candidates=60).process()
    assert len({row["instruction"] for row in rows}) == 40
    assert all(512 <= len(row["instruction"]) <= 1024 for row in rows)


def test_a_list_that_is_too_short_is_completed():
    """The missing ones must differ from those that are there."""
    first = SelfInstruct(num_instructions=3)
    said = str(sensible(first.format_input(ROWS[0]), {"model": "m"})).splitlines()
    talk = first.converse(ROWS[0], None)
    request = next(talk)
    request = talk.send(Answer(text="\n".join(said[:2])))
    with pytest.raises(StopIteration) as end:
        talk.send(Answer(text=str(sensible(request.messages, {"model": "m"}))))
    assert len(end.value.value["instructions"]) == 3


def test_judges_look_at_the_texts(llm):
    """Ratings that have nothing to do with the texts make pairs that mean nothing."""
    for structured in (False, True):
        done = run(UltraFeedback(structured_output=structured), llm)
        assert all(row["ratings"][0] == row["ratings"][1] for row in done)
        assert len({tuple(row["ratings"]) for row in done}) > 1
        scored = run(ComplexityScorer(structured_output=structured), llm)
        assert scored[0]["scores"] == [4.0, 3.0, 2.0, 1.0]


def test_same_request_same_answer_and_other_model_other_answer():
    """A cleared run must find what it asked; and two models that always agree give no pairs."""
    messages = [{"role": "user", "content": "Why?"}]
    assert sensible(messages, {"model": "a"}) == sensible(messages, {"model": "a"})
    assert len({str(sensible(messages, {"model": model})) for model in "abcdefgh"}) > 4


class Mood(StrEnum):
    GLAD = "glad"
    SAD = "sad"


class Part(BaseModel):
    name: str
    share: float = Field(ge=0, le=1)


class Report(BaseModel):
    mood: Mood
    parts: list[Part] = Field(min_length=2)
    tags: list[str]
    kind: Literal["report"]
    final: bool
    note: str | None
    count: int


def test_a_schema_of_ones_own(llm):
    """Custom tasks ask for JSON of any shape."""
    [row] = run(TextGeneration(structured_output=Report), llm, ROWS[:1])
    Report.model_validate_json(row["generation"])


def test_chats_with_parts_and_without_messages():
    """Pictures have no text, and a conversation may be empty."""
    picture = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What is that?"}]
    assert "What is that" in str(sensible([{"role": "user", "content": picture}], {}))
    assert sensible([], {})
