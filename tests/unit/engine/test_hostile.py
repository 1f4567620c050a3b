"""What a task, a row or an endpoint may do to us, and whom it may cost what: one row at most."""

from __future__ import annotations

import math
import threading
import time

import pytest

from airflow_distil.conversation import Chat, user
from airflow_distil.datasets.parts import PartWriter
from airflow_distil.exceptions import BadRow, Fatal, TaskDefinitionError
from airflow_distil.tasks import ChatGeneration, Task, TextGeneration
from airflow_distil.tasks.function import Function
from tests.unit.engine.lab import Model, TwoTurns, ask, many, questions


def test_reuse_after_an_aborted_regenerate_keeps_the_answers(lab):
    """A clear inherited the round that a failed `regenerate` had begun, and paid for every row again."""
    refused = Model(lambda prompt, _: BadRow("no") if prompt == "question 7" else prompt)
    lab.run(many(20), refused)
    with pytest.raises(Fatal):
        lab.run(many(20), Model(lambda *_: Fatal("wrong key")), ask=ask(2), on_existing="regenerate")
    again = Model()
    lab.run(many(20), again, ask=ask(3))
    assert again.asked == ["question 7"]
    anew = Model()
    lab.run(many(20), anew, ask=ask(4), on_existing="regenerate")
    assert len(anew.asked) == 20


@pytest.mark.parametrize("content", [b"bytes", math.nan, {1, 2}])
def test_a_prompt_that_json_cannot_say_costs_its_row(lab, content):
    """It was found by the client, taken for a bug, and ended the run at each try."""

    class Talks(ChatGeneration):
        def format_input(self, input):
            return [user(content if input["n"] == 1 else "fine")]

        @property
        def inputs(self):
            return ["n"]

    rows = lab.run([{"n": 0}, {"n": 1}, {"n": 2}], Model(), Talks())
    assert [row["distil_status"] for row in rows] == ["ok", "failed", "ok"]
    assert "cannot be asked about" in rows[1]["distil_error"]


def test_a_yield_that_is_no_request_is_named(lab):
    """`'str' object has no attribute 'model'` told nobody what to do."""

    class Says(TextGeneration):
        def converse(self, input, rng):
            yield "a prompt"

    with pytest.raises(TaskDefinitionError, match=r"yielded str; converse yields requests: Chat\(messages\)"):
        lab.run(many(1), Model(), Says())


def test_an_endpoint_that_refuses_n_is_asked_one_at_a_time(lab):
    """All samples of all rows failed, where the endpoint only meant that it does not take `n`."""

    class Single(Model):
        refused = 0

        async def answer(self, request, n=1):
            if n > 1:
                Single.refused += 1
                raise BadRow("'n' is not supported")
            return await super().answer(request, n)

    rows = lab.run(many(100), Single(), TextGeneration(num_generations=2), max_concurrency=1)
    assert {row["distil_status"] for row in rows} == {"ok"}
    assert Single.refused < 50


def test_a_bad_row_does_not_switch_n_off(lab):
    """One filtered prompt made every later row pay for its prompt once per sample."""
    model = Model(lambda prompt, _: BadRow("filtered") if prompt == "question 0" else prompt)
    lab.run(many(10), model, TextGeneration(num_generations=2), max_concurrency=1)
    assert model.calls == 1 + 2 + 9


def test_functions_draw_different_numbers_for_different_rows(lab):
    """A function that names no inputs got the same random numbers for every row: a dataset without variety."""

    def draw(row, rng):
        text = yield f"{row['instruction']} {rng.random()}"
        return {"text": text}

    model = Model()
    lab.run(many(5), model, Function(function=draw, columns={"text": str}))
    assert len({prompt.rpartition(" ")[2] for prompt in model.asked}) == 5


def test_a_task_that_changes_its_row_changes_its_own_copy(lab):
    """The second sample saw the first one's edits, and the check for drift stopped a task that does not drift."""

    class Edits(TextGeneration):
        def format_input(self, input):
            input["instruction"] += "?"
            input["tags"].append("seen")
            return [user(f"{input['instruction']} {input['tags']}")]

    model = Model()
    rows = lab.run([{"instruction": "a", "tags": ["x"]}], model, Edits(num_generations=2))
    assert set(model.asked) == {"a? ['x', 'seen']"}
    assert rows[0]["tags"] == ["x"]


def test_a_users_own_model_name_is_not_replaced(lab):
    """It vanished without a word: only the column of an upstream task of ours gives way."""
    with pytest.raises(TaskDefinitionError, match="model_name"):
        lab.run([{"instruction": "a", "model_name": "T-Ford"}], Model())
    (row,) = lab.run(
        [{"instruction": "a", "model_name": "T-Ford"}], Model(), TextGeneration(output_mappings={"model_name": "asked"})
    )
    assert (row["model_name"], row["asked"]) == ("T-Ford", "parrot")


def test_metadata_of_somebody_else_does_not_stop_the_write_pass(lab):
    """It raised after every call had been paid."""
    (row,) = lab.run([{"instruction": "a", "distil_metadata": ["theirs"]}], Model())
    assert len(row["distil_metadata"]) == 1


def test_many_generations_are_written_in_small_batches(lab, monkeypatch):
    """A source batch times a hundred generations was in memory at once."""
    sizes = []
    write = PartWriter.write
    monkeypatch.setattr(PartWriter, "write", lambda writer, batch: (sizes.append(batch.num_rows), write(writer, batch)))
    rows = lab.run(many(200), Model(), TextGeneration(num_generations=10))
    assert len(rows) == sum(sizes) == 2000
    assert max(sizes) < 600


def test_a_stop_does_not_wait_for_a_source_that_hangs(lab, monkeypatch):
    """Airflow kills five seconds after it asked; a read that hung for longer took the flush with it."""
    hung, released = threading.Event(), threading.Event()
    job = lab.job(many(2000), Model())
    batches = job.source.batches

    def hang():
        for number, batch in enumerate(batches()):
            if number == 1:
                hung.set()
                released.wait(60)
            yield batch

    monkeypatch.setattr(job.source, "batches", hang)
    threading.Thread(target=lambda: hung.wait(30) and job.stop.request("test"), daemon=True).start()
    began = time.monotonic()
    with pytest.raises(Exception, match="Stopped"):
        job.run()
    assert not released.is_set()
    assert time.monotonic() - began < 50
    released.set()


def test_a_schema_that_is_none_is_refused_before_any_call(lab):
    """Every row was asked, and asked again, and then unparsed."""
    with pytest.raises(TaskDefinitionError, match="not a JSON schema: 'objekt'"):
        lab.run(many(3), Model(), TextGeneration(structured_output={"type": "objekt"}))


def test_structured_answers_to_functions_are_checked(lab):
    """The schema was sent, and the answer believed."""

    def f(row):
        text = yield row["instruction"]
        return {"text": text}

    task = Function(function=f, columns={"text": str}, structured_output={"type": "object"})
    rows = lab.run(questions("{}", "no"), Model(lambda prompt, _: prompt), task)
    assert [row["distil_status"] for row in rows] == ["ok", "unparsed"]


def test_a_function_that_returns_nothing_costs_its_row(lab):
    """`if not text: return` ended the run."""

    def f(row):
        text = yield row["instruction"]
        if text == "b":
            return None
        return {"text": text}

    rows = lab.run(questions("a", "b"), Model(lambda prompt, _: prompt), Function(function=f, columns={"text": str}))
    assert [row["distil_status"] for row in rows] == ["ok", "unparsed"]


class Plain(Task):
    """No inputs, no schema."""

    @property
    def inputs(self):
        return []

    @property
    def outputs(self):
        return ["text"]

    def converse(self, input, rng):
        answer = yield Chat([user(f"{rng.random()}")])
        return {"text": answer.text}


def test_twins_without_inputs_still_have_answers_of_their_own(lab):
    """Two equal rows draw equal numbers and ask the same; each must get its own answer."""
    model = Model(lambda prompt, time: f"{prompt} {time}")
    rows = lab.run([{"a": 1}, {"a": 1}], model, Plain())
    assert len(set(model.asked)) == 1
    assert len({row["text"] for row in rows}) == 2


class Whole(TwoTurns):
    """Forgets that what it is sent is an Answer."""

    def converse(self, input, rng):
        draft = yield Chat([user(input["instruction"])])
        return {"draft": draft, "final": "x"}


def test_a_whole_answer_in_a_column_is_an_error(lab):
    """A column held the repr of an Answer, latency and all, and every row was ok."""
    with pytest.raises(TaskDefinitionError, match=r"returned a whole Answer as draft.*answer\.text"):
        lab.run(questions("a"), Model(), Whole())
