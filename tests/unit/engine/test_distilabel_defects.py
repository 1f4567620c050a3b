"""Defects that were measured in distilabel 1.5.3's base contract of tasks, each shown not to be here.

Those of rows, mappings and metadata are in `test_job.py`, those of generators in `test_generator.py`, those of single tasks in
the tests of the tasks; each says "distilabel 1.5.3".
"""

from __future__ import annotations

import json

import pytest

from airflow_distil.conversation import user
from airflow_distil.exceptions import BadRow
from airflow_distil.tasks import ComplexityScorer, Task, TextGeneration
from tests.unit.engine.lab import Model, many, questions


class Prompted(Task):
    """Reads `instruction`, wherever the mapping says that it is."""

    @property
    def inputs(self):
        return ["instruction"]

    @property
    def outputs(self):
        return ["generation", "model_name"]

    def format_input(self, input):
        return [user(input["instruction"].upper())]

    def format_output(self, output, input):
        if "B" in (output or ""):
            raise ValueError("no b, please")
        return {"generation": f"{output} of {input['instruction']}"}


def test_a_client_with_free_keyword_arguments_runs():
    """Distilabel 1.5.3: an LLM whose `generate` took **kwargs made `kwargs` a required parameter, and nothing ran."""

    class Free(Model):
        async def answer(self, request, n=1, **kwargs):
            return await super().answer(request, n)

    task = TextGeneration(llm=Free())
    task.load()
    [[row]] = task.process(questions("hello"))
    assert row["generation"] == "hello!"


@pytest.mark.parametrize("grouped", [False, True])
def test_too_few_answers_drop_no_row(lab, grouped):
    """Distilabel 1.5.3: answers were zipped with rows; an endpoint that gave fewer than asked for dropped rows silently."""

    class Short(Model):
        async def answer(self, request, n=1):
            return (await super().answer(request, n))[:1]

    task = TextGeneration(num_generations=3, group_generations=grouped)
    rows = lab.run(many(4), Short(), task)
    assert len(rows) == (4 if grouped else 12)
    assert all(row["distil_status"] == "ok" for row in rows)


def test_no_answer_at_all_is_a_failed_row(lab, monkeypatch):
    """Distilabel 1.5.3: an empty list of generations made its row disappear."""
    monkeypatch.setattr("airflow_distil.engine.asking.FIRST_WAIT", 0.0)

    class Empty(Model):
        async def answer(self, request, n=1):
            answers = await super().answer(request, n)
            return [] if request.messages[-1]["content"] == "question 1" else answers

    rows = lab.run(many(3), Empty())
    assert [row["distil_status"] for row in rows] == ["ok", "failed", "ok"]


def test_an_unparsed_answer_keeps_its_tokens(lab):
    """Distilabel 1.5.3: token counts were lost with an answer that could not be read."""
    [row] = lab.run(questions("b"), Model(lambda prompt, time: "B"), Prompted(max_parse_retries=0))
    assert row["distil_status"] == "unparsed"
    assert [(each["input_tokens"], each["output_tokens"], each["raw_output"]) for each in row["distil_metadata"]] == [
        (10, 2, "B")
    ]


@pytest.mark.parametrize("grouped", [False, True])
def test_failed_rows_have_as_many_samples_as_others(lab, grouped):
    """Distilabel 1.5.3: a failed batch came back as one row each, whatever num_generations and group_generations said."""
    model = Model(lambda prompt, time: BadRow("no") if prompt == "question 1" else "fine")
    rows = lab.run(many(2), model, TextGeneration(num_generations=2, group_generations=grouped))
    shape = [(row["distil_row"], row["distil_sample"], row["distil_status"]) for row in rows]
    if grouped:
        assert shape == [(0, None, "ok"), (1, None, "failed")]
        assert rows[1]["generation"] == [None, None]
    else:
        assert shape == [(0, 0, "ok"), (0, 1, "ok"), (1, 0, "failed"), (1, 1, "failed")]


def test_the_raw_input_is_what_was_sent(lab):
    """Distilabel 1.5.3: the kept prompt was rendered again afterwards; with random choices it was another one."""

    class Random(Prompted):
        def converse(self, input, rng):
            from airflow_distil.conversation import Chat

            answer = yield Chat([user(f"{input['instruction']} {rng.random()}")])
            return {"generation": answer.text}

    model = Model()
    [row] = lab.run(questions("a"), model, Random(add_raw_input=True))
    sent = json.loads(row["distil_metadata"][0]["raw_input"])["messages"][0]["content"]
    assert [sent] == model.asked


@pytest.mark.parametrize("structured", [False, True])
def test_json_answers_put_nothing_into_other_columns(lab, structured):
    """Distilabel 1.5.3: keys of a JSON answer that nobody asked for spilled into the row, over its input columns."""
    said = {"scores": [{"item": 1, "score": 1}, {"item": 2, "score": 2}], "instructions": ["mine", "mine"], "extra": 1}
    task = ComplexityScorer(structured_output=structured, max_parse_retries=0)
    [row] = lab.run([{"instructions": ["a", "b"]}], Model(lambda prompt, time: json.dumps(said)), task)
    assert row["instructions"] == ["a", "b"]
    assert "extra" not in row
    assert row["scores"] in ([1.0, 2.0], None)


def test_json_is_read_whether_or_not_it_was_asked_for(lab):
    """Distilabel 1.5.3: the flag alone chose the reader, and a perfect JSON answer became None."""
    said = json.dumps({"scores": [{"item": 2, "score": 1}, {"item": 1, "score": 2}]})
    [row] = lab.run([{"instructions": ["a", "b"]}], Model(lambda prompt, time: said), ComplexityScorer())
    assert row["scores"] == [2.0, 1.0]
