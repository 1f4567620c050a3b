"""EvolInstruct and EvolComplexity: their options in every combination, their prompts, their answers."""

from __future__ import annotations

import itertools
import re
from random import Random

import pytest

from airflow_distil.engine.columns import Columns
from airflow_distil.tasks.evol_instruct import EvolComplexity, EvolInstruct
from tests.unit.engine.lab import Model, questions

KINDS = {kind: f"{kind}: {{{{ prompt }}}}" for kind in "AB"}


def say(prompt, _=0):
    """Evolve what begins with a kind, answer the rest."""
    found = re.fullmatch(r"[AB]: (.*)", prompt, re.DOTALL)
    return f"{found[1]}w" if found else f"answer to {prompt}"


def run(rows, say=say, cls=EvolInstruct, **fields):
    model = Model(say)
    return next(cls(**{"mutation_templates": KINDS, "llm": model} | fields).process(rows)), model


@pytest.mark.parametrize("cls", [EvolInstruct, EvolComplexity])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("store", "answers", "original"), list(itertools.product([False, True], repeat=3)))
def test_every_combination_of_options(cls, count, store, answers, original):
    """Distilabel 1.5.3: with answers but without stored evolutions, or with the original, rows are lost."""
    task = {
        "num_evolutions": count,
        "store_evolutions": store,
        "generate_answers": answers,
        "include_original_instruction": original,
    }
    rows, model = run(questions("x", "y", "z"), cls=cls, **task)
    for row, text in zip(rows, "xyz", strict=True):
        texts = [text + "w" * number for number in range(1, count + 1)]
        texts = ([text] if original else []) + (texts if store else texts[-1:])
        listed = store or original
        assert row["evolved_instructions" if listed else "evolved_instruction"] == (texts if listed else texts[0])
        if answers:
            expected = [f"answer to {each}" for each in texts]
            assert row["answers" if listed else "answer"] == (expected if listed else expected[0])
        assert len(row["mutations"]) == count
        assert row["mutation_errors"] == [None] * count
        assert set(row) == {"instruction", *cls(**task).outputs}
    assert model.calls == 3 * (count + (len(texts) if answers else 0))


@pytest.mark.parametrize(("store", "answers", "original"), list(itertools.product([False, True], repeat=3)))
def test_every_column_has_a_type(store, answers, original):
    """A night in which no row evolved wrote other columns than the night before."""
    task = EvolInstruct(
        num_evolutions=1, store_evolutions=store, generate_answers=answers, include_original_instruction=original
    )
    columns = Columns(task.output_names, task.output_types)
    assert set(task.output_types) == set(task.output_names)
    listed = store or original
    expected = {"evolved_instructions" if listed else "evolved_instruction", "mutations", "mutation_errors"}
    expected |= {"answers" if listed else "answer"} if answers else set()
    assert set(task.output_names) == expected
    assert str(columns.type("mutation_errors")).startswith("list<")
    task.check()


class TestAnswers:
    def test_are_asked_at_once_as_plain_messages(self):
        """One after the other, they take as long as all evolutions again."""
        task = EvolInstruct(
            num_evolutions=2,
            mutation_templates=KINDS,
            store_evolutions=True,
            include_original_instruction=True,
            generate_answers=True,
        )
        assert max(len(said) for said in told(task, say)) == 3
        assert [chat.messages for chat in told(task, say)[-1]] == [
            [{"role": "user", "content": text}] for text in ("x", "xw", "xww")
        ]

    def test_an_empty_one_is_none_there(self):
        """It must not move the answers behind it, and the row must say so."""

        def silent(prompt, _):
            return "" if prompt == "xw" else say(prompt)

        [row], model = run(questions("x"), silent, num_evolutions=3, store_evolutions=True, generate_answers=True)
        assert row["distil_status"] == "unparsed"
        assert "1 of 3 answers" in row["distil_error"]
        assert model.asked.count("xw") == 2

    def test_an_empty_one_is_asked_again(self):
        """Models are empty now and then, for no reason."""
        [row], _ = run(
            questions("x"), lambda prompt, time: say(prompt) if time else None, num_evolutions=1, generate_answers=True
        )
        assert row["answer"] == "answer to xw"

    def test_of_a_failed_evolution_is_that_of_the_text_before(self):
        """The lists stay parallel, and the same question is paid once."""

        def stuck(prompt, _):
            return None if ": xw" in prompt else say(prompt)

        [row], model = run(
            questions("x"), stuck, num_evolutions=3, store_evolutions=True, generate_answers=True, max_parse_retries=0
        )
        assert row["evolved_instructions"] == ["xw"] * 3
        assert row["answers"] == ["answer to xw"] * 3
        assert model.asked.count("xw") == 1


def told(task, say):
    """Tell the conversation of one row by hand; return what it yielded, each as a list."""
    talk = task.converse({"instruction": "x"}, Random(0))
    said, yielded = next(talk), []
    try:
        while True:
            yielded.append(said if isinstance(said, list) else [said])
            texts = [say(chat.messages[-1]["content"]) for chat in yielded[-1]]
            answers = [_answer(text) for text in texts]
            said = talk.send(answers if isinstance(said, list) else answers[0])
    except StopIteration:
        return yielded


def _answer(text):
    from airflow_distil.conversation import Answer

    return Answer(text)


class TestPrompts:
    def test_kinds(self):
        """Of the papers: five, and for complexity four, as BREADTH makes another prompt, not a harder one."""
        harder = {"CONSTRAINTS", "DEEPENING", "CONCRETIZING", "INCREASED_REASONING_STEPS"}
        assert set(EvolInstruct(num_evolutions=1).mutation_templates) == {*harder, "BREADTH"}
        assert set(EvolComplexity(num_evolutions=1).mutation_templates) == harder

    @pytest.mark.parametrize("kind", EvolInstruct(num_evolutions=1).mutation_templates)
    @pytest.mark.parametrize("text", ["{{ 7*7 }}", "<PROMPT>", "{% raw %}", "#Rewritten Prompt#: x", "a\nb | c"])
    def test_row_text_is_data(self, kind, text):
        """A prompt about templates was rendered as one, or replaced in."""
        template = EvolInstruct(num_evolutions=1).mutation_templates[kind]
        [[chat], *_] = told(EvolInstruct(num_evolutions=1, mutation_templates={kind: template}), lambda _: "new")
        talk = EvolInstruct(num_evolutions=1, mutation_templates={kind: template}).converse({"instruction": text}, Random(0))
        prompt = next(talk).messages[0]["content"]
        assert prompt == chat.messages[0]["content"].replace("\nx\n", f"\n{text}\n")
        assert "Prompt#:" in prompt
        assert "[[" not in prompt

    def test_each_kind_asks_for_something_else(self):
        """A copied line, and two kinds are one."""
        prompts = EvolInstruct(num_evolutions=1).mutation_templates
        assert len(set(prompts.values())) == len(prompts)

    @pytest.mark.parametrize(
        "given", [{}, {"A": "{{ prompt"}, {"A": "{{ instruction }}"}, {"A": "Rewrite <PROMPT>"}, {"A": "{{ prompt }}{{ x }}"}]
    )
    def test_own_templates_are_checked_when_the_task_is_made(self, given):
        """In the DAG file, not after an hour."""
        with pytest.raises(ValueError, match="mutation_templates"):
            EvolInstruct(num_evolutions=1, mutation_templates=given)

    def test_own_templates_are_used(self):
        """They replace all kinds."""
        [row], model = run(
            questions("x"), lambda *_: "y", num_evolutions=3, mutation_templates={"MINE": "m {{ prompt | upper }}"}
        )
        assert row["mutations"] == ["MINE"] * 3
        assert model.asked[0] == "m X"
