"""EvolInstructGenerator and EvolComplexityGenerator: candidates, driven by hand as the engine drives them, and in a run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from airflow_distil.conversation import Answer, Unparsed
from airflow_distil.datasets.source import numbered
from airflow_distil.exceptions import Fatal, TaskDefinitionError, TooManyFailures
from airflow_distil.tasks.evol_generators import (
    FRESH_START,
    EvolComplexityGenerator,
    EvolInstructGenerator,
    _seed_words,
)
from tests.unit.engine.lab import Lab, Model

KINDS = {FRESH_START: "fresh: {{ words | join(' ') }}", "A": "A: {{ prompt }}", "B": "B: {{ prompt }}"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "scratch")
    yield lab
    lab.close()


def say(prompt, _=0):
    """A fresh start gives a short text, a mutation 10 characters more, anything else is answered."""
    if prompt.startswith("fresh: "):
        return prompt.replace("fresh: ", "Tell of ")
    found = re.fullmatch(r"[AB]: (.*)", prompt, re.DOTALL)
    return f"{found[1]} 123456789" if found else f"answer to {prompt}"


def make(**fields) -> EvolInstructGenerator:
    return EvolInstructGenerator(
        **{"num_instructions": 5, "min_length": 50, "max_length": 80, "mutation_templates": KINDS} | fields
    )


def tell(task, candidate=0, say=say):
    """Tell one candidate's conversation by hand; return its prompts, and its columns or what it raised."""
    rng = Random(candidate)
    talk, prompts = task.converse({"candidate": candidate}, rng), []
    said = next(talk)
    while True:
        chats = said if isinstance(said, list) else [said]
        texts = [chat.messages[-1]["content"] for chat in chats]
        prompts += texts
        answers = [Answer(say(text, prompts.count(text) - 1)) for text in texts]
        try:
            said = talk.send(answers if isinstance(said, list) else answers[0])
        except StopIteration as end:
            return prompts, end.value
        except Unparsed as unparsed:
            return prompts, unparsed


class TestCandidate:
    def test_starts_from_words_and_grows_into_the_window(self):
        """The text of a fresh start is what is evolved, until it is long enough."""
        for candidate in range(20):
            prompts, row = tell(make(), candidate)
            assert 50 <= len(row["instruction"]) <= 80
            assert prompts[0].startswith("fresh: ")
            assert row["mutations"] == [FRESH_START, *(prompt[0] for prompt in prompts[1:])]
            assert len(row["instruction"]) - 10 < 50 or len(prompts) == 1

    def test_starts_with_one_to_four_of_the_words(self):
        """Always the same number, and the instructions resemble each other."""
        words = [tell(make(), candidate)[0][0].removeprefix("fresh: ").split() for candidate in range(60)]
        assert {len(each) for each in words} == {1, 2, 3, 4}
        assert all(len(set(each)) == len(each) and set(each) <= set(_seed_words()) for each in words)

    def test_a_fresh_start_is_never_wrapped_in_another(self):
        """Distilabel 1.5.3: "… words: Write one question containing one or more of these words: …"."""
        for candidate in range(20):
            prompts, _ = tell(make(), candidate)
            assert [prompt.startswith("fresh: ") for prompt in prompts] == [True] + [False] * (len(prompts) - 1)
            assert all("fresh" not in prompt for prompt in prompts[1:])

    def test_that_never_grows_is_given_up(self):
        """Distilabel 1.5.3: evolves, and bills, for ever if no answer falls into the window."""
        swap = itertools.count()
        prompts, lost = tell(make(max_evolutions=7), say=lambda *_: f"text {next(swap)}")
        assert isinstance(lost, Unparsed)
        assert "min_length is 50" in lost.reason
        assert lost.partial["instruction"]
        assert len(prompts) == 8

    def test_that_only_fails_is_given_up(self):
        """Refusals count as evolutions, too."""
        prompts, lost = tell(make(max_evolutions=9), say=lambda prompt, _: "Tell of it." if prompt[0] == "f" else None)
        assert "min_length is 50; the last evolutions failed: there is no text in it" in lost.reason
        assert len(prompts) == 1 + 3 * 2

    def test_too_long_is_asked_again_then_dropped(self, monkeypatch):
        """Evolution takes no words away: an over-long text would be evolved until the end, in vain."""
        monkeypatch.setattr("airflow_distil.tasks.evol_generators.PATIENCE", 40)

        def verbose(prompt, time):
            return "word " * 40 + prompt[0] if prompt.startswith("A: ") or "cannot be used" in prompt else say(prompt)

        for candidate in range(10):
            prompts, row = tell(make(max_evolutions=40), candidate, verbose)
            assert len(row["instruction"]) <= 80
            assert "A" not in row["mutations"]
            assert len([prompt for prompt in prompts if prompt.startswith("A: ")]) == sum(
                "the text is too long: 201 characters, and 80 are the most" in prompt for prompt in prompts
            )

    def test_a_fresh_start_that_is_too_long_or_nothing_is_lost(self):
        """There is no text before it to go on from."""
        for bad, reason in (("word " * 40, "too long"), (None, "no text"), ("I'm sorry, but I can't.", "refusal")):
            prompts, lost = tell(make(), say=lambda *_, bad=bad: bad)
            assert reason in lost.reason
            assert len(prompts) == 2

    def test_none_in_between_loses_one_evolution(self):
        """Distilabel 1.5.3: a None ends the whole pipeline."""
        _, row = tell(make(max_parse_retries=0), 3, lambda prompt, time: None if prompt[0] == "A" else say(prompt))
        assert 50 <= len(row["instruction"]) <= 80
        assert set(row["mutations"]) == {FRESH_START, "B"}

    def test_answer(self):
        """Of the instruction as it is published."""
        _, row = tell(make(generate_answers=True))
        assert row["answer"] == f"answer to {row['instruction']}"
        _, lost = tell(make(generate_answers=True), say=lambda prompt, _: None if prompt[:5] == "Tell " else say(prompt))
        assert lost.reason == "the answer is empty"
        assert lost.partial["instruction"]

    def test_bounds_are_in_characters_and_belong_to_the_window(self):
        """Distilabel 1.5.3 documents bytes and measures characters."""
        for text, fits in (("ü" * 50, True), ("ü" * 80, True), ("ü" * 49, False), ("ü" * 81, False)):
            _, row = tell(make(max_evolutions=1, max_parse_retries=0), say=lambda *_, text=text: text)
            assert isinstance(row, dict) is fits


class TestAccept:
    def test_duplicates_are_refused(self):
        """Distilabel 1.5.3: asked for six, it gave ten rows of six instructions."""
        task = make()
        texts = ["Tell of ice.", "tell  of\nICE. ", "Tell of oil.", "Tell of ice."]
        assert [task.accept({"instruction": text}) for text in texts] == [True, False, True, False]
        assert task.fresh().accept({"instruction": "Tell of ice."})


class TestDefinition:
    def test_kinds(self):
        """Of the papers, and FRESH_START."""
        harder = {"CONSTRAINTS", "DEEPENING", "CONCRETIZING", "INCREASED_REASONING_STEPS"}
        assert set(EvolInstructGenerator(num_instructions=1).mutation_templates) == {*harder, "BREADTH", FRESH_START}
        assert set(EvolComplexityGenerator(num_instructions=1).mutation_templates) == {*harder, FRESH_START}

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_the_words_stand_in_the_prompt(self, count):
        """And the sentence about them fits their number."""
        task = EvolInstructGenerator(num_instructions=1)
        found = set()
        for candidate in range(40):
            talk = task.converse({"candidate": candidate}, Random(candidate))
            prompt = next(talk).messages[0]["content"]
            words = re.search(r"occurs?: (.*)\n", prompt)[1].rstrip(".").split(", ")
            assert set(words) <= set(_seed_words())
            assert ("this word occurs" in prompt) is (len(words) == 1)
            found.add(len(words))
        assert count in found

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"mutation_templates": {"A": "{{ prompt }}"}}, "has no FRESH_START"),
            ({"mutation_templates": {FRESH_START: "{{ words }}"}}, "give at least one"),
            ({"mutation_templates": {FRESH_START: "{{ prompt }}", "A": "{{ prompt }}"}}, "FRESH_START.*uses prompt"),
            ({"mutation_templates": {FRESH_START: "{{ words }}", "A": "{{ words }}"}}, "A.*uses words"),
            ({"mutation_templates": {FRESH_START: "Ask me anything.", "A": "{{ prompt }}"}}, r"never uses \{\{ words \}\}"),
            ({"min_length": 81}, "min_length=81 is more than max_length=80"),
            ({"num_instructions": 0}, "num_instructions"),
        ],
    )
    def test_what_is_wrong_is_said_when_the_task_is_made(self, fields, message):
        """In the DAG file, not after the night."""
        with pytest.raises(ValueError, match=message):
            make(**fields)

    def test_what_makes_no_sense_is_refused(self):
        """Samples of a candidate, or JSON of a text."""
        with pytest.raises(TaskDefinitionError, match="structured_output"):
            make(structured_output=True).check()
        with pytest.raises(TaskDefinitionError, match="one row of each candidate"):
            make(num_generations=2).check()
        make().check()

    def test_words(self):
        """A phrase, a comment or a word that stands twice among the words."""
        words = _seed_words()
        assert len(words) == len(set(words)) > 400
        assert all(re.fullmatch("[a-z]{3,}", word) for word in words)


def job(lab: Lab, model: Model, task: EvolInstructGenerator):
    return lab.job([{"no": "source"}], model, task, source=numbered(task.candidates))


def run(lab: Lab, model: Model, task: EvolInstructGenerator):
    return lab.rows(job(lab, model, task).run())


class TestRun:
    def test_exactly_so_many_rows_without_duplicates(self, lab):
        """Distilabel 1.5.3: more rows than asked for, some of them twice, each with the tokens of its whole iteration."""
        model = Model(say, max_concurrency=4)
        rows = run(lab, model, make(num_instructions=12))
        assert len({row["instruction"] for row in rows}) == len(rows) == 12
        assert [row["distil_row"] for row in rows] == list(range(12))
        assert [len(row["distil_metadata"]) for row in rows] == [len(row["mutations"]) for row in rows]

    def test_seed(self, tmp_path):
        """Distilabel 1.5.3: a seed that is set after construction is ignored."""
        made = []
        for number, (seed, concurrency) in enumerate(((1, 1), (1, 8), (2, 1))):
            lab = Lab(tmp_path / str(number))
            rows = run(lab, Model(say, max_concurrency=concurrency), make(seed=seed))
            made.append([row["instruction"] for row in rows])
            lab.close()
        assert made[0] == made[1] != made[2]
        task = make(seed=1)
        task.seed = 2
        assert [row["instruction"] for row in next(type(task)(**task.model_dump(), llm=Model(say)).process())] == made[2]

    def test_resumes_where_it_was(self, lab):
        """Distilabel 1.5.3: a run that is resumed starts over."""
        answered = itertools.count()
        first = Model(lambda prompt, _: say(prompt) if next(answered) < 9 else Fatal("killed"), max_concurrency=1)
        with pytest.raises(Fatal):
            job(lab, first, make()).run()
        second = Model(say, max_concurrency=1)
        rows = run(lab, second, make())
        assert not set(first.asked[:9]) & set(second.asked)
        assert [row["instruction"] for row in rows] == [row["instruction"] for row in next(make(llm=Model(say)).process())]

    def test_ends_if_nothing_fits(self, lab):
        """Distilabel 1.5.3: it does not, and the bill neither."""
        model = Model(lambda *_: "short")
        with pytest.raises(TooManyFailures):
            job(lab, model, make(max_candidates=10)).run()
        assert model.calls < 10 * 30
