"""A generator function as a task."""

from __future__ import annotations

import pytest

from airflow_distil.conversation import Answer, Chat, Complete, user
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks.function import Function
from tests.unit.engine.lab import Model


def run(function, *rows, model=None, columns=None, **fields):
    task = Function(function=function, columns=columns or {"out": str}, llm=model or Model(), **fields)
    return next(task.process(list(rows) or [{"q": "a"}]))


def test_text_in_text_out():
    """`text = yield prompt; return {...}` is all there is to learn."""

    def f(row):
        text = yield row["q"]
        return {"out": text.upper()}

    assert run(f) == [{"q": "a", "out": "A!", "model_name": "parrot"}]


def test_several_turns():
    """Each is asked when the one before is answered."""

    def f(row):
        draft = yield row["q"]
        better = yield [user(draft), user("better")]
        return {"out": f"{draft} {better}"}

    assert run(f)[0]["out"] == "a! better!"


def test_request_gets_the_whole_answer():
    """Whoever yields a request wants to know why it ended."""
    seen = []

    def f(row):
        answer = yield Chat([user(row["q"])])
        seen.append(answer)
        return {"out": answer.finish_reason}

    assert run(f)[0]["out"] == "stop"
    assert all(isinstance(answer, Answer) for answer in seen)


def test_list_is_asked_at_once_and_answered_in_order():
    """Prompts, messages and requests may be mixed."""

    def f(row):
        one, two, three = yield ["1", [user("2")], Chat([user("3")])]
        return {"out": f"{one} {two} {three.text}"}

    assert run(f)[0]["out"] == "1! 2! 3!"


def test_list_of_one_is_a_list():
    """Unpacked, the caller's `[text] = yield [prompt]` would fail."""

    def f(row):
        [text] = yield [row["q"]]
        return {"out": text}

    assert run(f)[0]["out"] == "a!"


def test_random_numbers_are_given_to_those_who_take_them():
    """Unseeded ones would drift."""

    def f(row, rng):
        text = yield f"{row['q']} {rng.random()}"
        return {"out": text}

    assert run(f) == run(f)


def test_columns_of_the_dataset_are_all_there():
    """A function reads what it likes; `reads` only names what must be there."""

    def f(row):
        text = yield f"{row['q']} {row['x']}"
        return {"out": text}

    assert run(f, {"q": "a", "x": 1})[0]["out"] == "a 1!"
    with pytest.raises(TaskDefinitionError, match="reads 'missing'"):
        run(f, {"q": "a", "x": 1}, reads=["missing"])


def test_declared_types_hold():
    """A column of scores is a column of numbers."""

    def f(row):
        yield "x"
        return {"out": "3"}

    assert run(f, columns={"out": int})[0]["out"] == 3


def test_function_that_is_no_generator_is_refused():
    """`return llm(...)` is what people write first."""

    def f(row):
        return {"out": "x"}

    with pytest.raises(TaskDefinitionError, match="f must be a generator function"):
        run(f)


@pytest.mark.parametrize("said", [None, 3, {"role": "user"}])
def test_yield_of_something_else_is_named(said):
    """With the function's name, before anything is asked."""

    def f(row):
        yield said
        return {"out": "x"}

    with pytest.raises(TaskDefinitionError, match=r"f must yield text, messages or requests"):
        run(f)


def test_error_in_the_function_is_its_rows():
    """Other rows go on."""

    def f(row):
        text = yield row["q"]
        return {"out": str(1 / len(row["q"].replace("b", "")))} if text else {}

    rows = run(f, {"q": "a"}, {"q": "b"})
    assert [row["out"] for row in rows] == ["1.0", None]
    assert "ZeroDivisionError" in rows[1]["distil_error"]


def test_repr_is_the_same_in_each_process():
    """Airflow hashes it: with the function's address in it, the DAG would have a new version at each parse."""

    def f(row):
        yield "x"

    assert " at 0x" not in repr(Function(function=f, columns={"a": list[str]}))


def test_completion_is_a_request_too():
    """For base models."""

    def f(row):
        answer = yield Complete(row["q"])
        return {"out": answer.text}

    class Base(Model):
        async def _one(self, request):
            assert isinstance(request, Complete)
            return Answer(text=f"{request.prompt}…")

    assert run(f, model=Base())[0]["out"] == "a…"
