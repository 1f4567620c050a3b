"""EvolQuality: its options, its prompts, its rows. What it shares with EvolInstruct is tested in test_evolution."""

from __future__ import annotations

import itertools
import re
from random import Random

import pytest

from airflow_distil.tasks.evol_quality import EvolQuality
from tests.unit.engine.lab import Model

KINDS = {kind: f"{kind}: {{{{ instruction }}}} / {{{{ response }}}}" for kind in "AB"}


def say(prompt, _=0):
    return re.fullmatch(r"[AB]: .* / (.*)", prompt, re.DOTALL)[1] + "w"


def run(rows, say=say, **fields):
    model = Model(say)
    return next(EvolQuality(**{"mutation_templates": KINDS, "llm": model} | fields).process(rows)), model


def prompt_of(instruction: str, response: str, kind: str) -> str:
    template = EvolQuality(num_evolutions=1).mutation_templates[kind]
    task = EvolQuality(num_evolutions=1, mutation_templates={kind: template})
    return next(task.converse({"instruction": instruction, "response": response}, Random(0))).messages[0]["content"]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("store", "original"), list(itertools.product([False, True], repeat=2)))
def test_every_combination_of_options(count, store, original):
    """Distilabel 1.5.3: the original is left out, without a word, unless all evolutions are stored."""
    fields = {"num_evolutions": count, "store_evolutions": store, "include_original_response": original}
    rows, model = run([{"instruction": f"i{each}", "response": each} for each in "xyz"], **fields)
    for row, text in zip(rows, "xyz", strict=True):
        texts = [text + "w" * number for number in range(1, count + 1)]
        texts = ([text] if original else []) + (texts if store else texts[-1:])
        listed = store or original
        assert row["evolved_responses" if listed else "evolved_response"] == (texts if listed else texts[0])
        assert len(row["mutations"]) == count
        assert row["mutation_errors"] == [None] * count
        assert set(row) == {"instruction", "response", *EvolQuality(**fields).outputs}
        assert set(EvolQuality(**fields).output_types) == set(EvolQuality(**fields).output_names)
    assert model.calls == 3 * count


class TestPrompts:
    def test_kinds(self):
        """Of the paper: five."""
        prompts = EvolQuality(num_evolutions=1).mutation_templates
        assert set(prompts) == {"HELPFULNESS", "RELEVANCE", "DEEPENING", "CREATIVITY", "DETAILS"}
        assert len(set(prompts.values())) == 5

    @pytest.mark.parametrize("kind", EvolQuality(num_evolutions=1).mutation_templates)
    @pytest.mark.parametrize("text", ["<RESPONSE>", "<PROMPT>", "{{ response }}", "{{ 7*7 }}", "{% raw %}"])
    def test_row_text_is_data(self, kind, text):
        """Distilabel 1.5.3: the response is put wherever the instruction says <RESPONSE>."""
        plain = prompt_of("INSTRUCTION", "ANSWER", kind)
        assert prompt_of(f"What is {text}?", "ANSWER", kind) == plain.replace("INSTRUCTION", f"What is {text}?")
        assert prompt_of("INSTRUCTION", f"It is {text}.", kind) == plain.replace("ANSWER", f"It is {text}.")

    def test_the_instruction_is_seen_at_every_evolution(self):
        """From the second on, the response was improved without knowing what it answers."""
        _, model = run([{"instruction": "why?", "response": "x"}], num_evolutions=3)
        assert [prompt[3:] for prompt in model.asked] == ["why? / x", "why? / xw", "why? / xww"]

    @pytest.mark.parametrize(
        "given", [{}, {"A": "{{ response }}"}, {"A": "{{ instruction }}"}, {"A": "{{ instruction }}{{ response }}{{ prompt }}"}]
    )
    def test_own_templates_are_checked_when_the_task_is_made(self, given):
        """A template that does not show the response asks for a new one."""
        with pytest.raises(ValueError, match="mutation_templates"):
            EvolQuality(num_evolutions=1, mutation_templates=given)


def test_the_words_of_the_instruction_may_be_used():
    """An instruction about given prompts has answers about given prompts."""
    rows = [{"instruction": "What is a given prompt?", "response": "A text."}]
    [row], _ = run(rows, lambda *_: "A given prompt is a text.", num_evolutions=1)
    assert row["evolved_response"] == "A given prompt is a text."


@pytest.mark.parametrize("column", ["instruction", "response"])
def test_a_row_without_a_text_fails(column):
    """The response to nothing, or nothing as a response."""
    for bad in (None, "", 3):
        [row], model = run([{"instruction": "i", "response": "r"} | {column: bad}], num_evolutions=1)
        assert row["distil_status"] == "failed"
        assert column in row["distil_error"]
        assert model.calls == 0
