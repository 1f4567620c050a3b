"""What all evolving tasks share: seeds, failed evolutions, resuming, accounts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_distil.conversation import Answer
from airflow_distil.datasets.source import open_source
from airflow_distil.exceptions import BadRow, Fatal, TaskDefinitionError
from airflow_distil.tasks.evol_instruct import EvolInstruct
from airflow_distil.tasks.evol_quality import EvolQuality
from tests.unit.engine.lab import Lab, Model, questions

# A prompt of these is "<kind>: <text>", so that the model, and the tests, can see both.
KINDS = {kind: f"{kind}: {{{{ prompt }}}}" for kind in "ABCDE"}
QUALITIES = {kind: f"{kind}: {{{{ instruction }}}} / {{{{ response }}}}" for kind in "ABCDE"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "scratch")
    yield lab
    lab.close()


def grown(prompt: str, _: int = 0) -> str:
    """Evolve: the text, and the kind behind it."""
    kind, text = re.fullmatch(r"(\w): (?:.* / )?(.*)", prompt, re.DOTALL).groups()
    return f"{text} {kind.lower()}"


def evol(count: int = 4, **fields) -> EvolInstruct:
    return EvolInstruct(num_evolutions=count, mutation_templates=KINDS, **fields)


class TestSeed:
    def test_same_seed_same_prompts_in_any_order_and_at_any_speed(self, lab, tmp_path):
        """Distilabel 1.5.3: the seed is never used, and a retry asks other questions."""
        rows = questions(*(f"question {number}" for number in range(12)))
        asked = []
        for given, concurrency in ((rows, 1), (rows[::-1], 16), (rows[5:], 3)):
            other = Lab(tmp_path / str(concurrency))
            model = Model(grown, max_concurrency=concurrency)
            other.run(given, model, evol())
            other.close()
            asked.append(set(model.asked))
        assert asked[0] == asked[1]
        assert asked[2] < asked[0]
        model = Model(grown)
        lab.run(rows, model, evol(seed=43))
        assert set(model.asked) != asked[0]

    def test_kinds_do_not_depend_on_the_position_of_a_row(self, lab):
        """Distilabel 1.5.3: EvolQuality seeds anew for each batch: in every batch, row 3 gets the kinds of row 3."""
        rows = [{"instruction": f"i{number}", "response": f"r{number}"} for number in range(60)]
        task = EvolQuality(num_evolutions=3, mutation_templates=QUALITIES)
        out = lab.run(rows, Model(grown), task)
        picks = [tuple(row["mutations"]) for row in out]
        for size in (5, 10, 20, 30):
            assert picks[:size] != picks[size : 2 * size]
        assert {kind for pick in picks for kind in pick} == set("ABCDE")
        # And two rows that are the same, wherever they stand, are evolved the same way.
        twice = next(EvolQuality(llm=Model(grown), **task.model_dump()).process([rows[7], *rows[:3], rows[7]]))
        assert tuple(twice[0]["mutations"]) == tuple(twice[4]["mutations"]) == picks[7]

    def test_samples_differ(self, lab):
        """Four generations of one row that are evolved the same way are one."""
        out = lab.run(questions("question"), Model(grown), evol(num_generations=8))
        assert len({tuple(row["mutations"]) for row in out}) > 4

    def test_the_order_of_the_templates_is_of_no_account(self):
        """A dict that comes back from JSON may be sorted otherwise; the night's prompts would be others."""
        rows = questions(*(f"question {number}" for number in range(5)))
        one, two = (
            next(EvolInstruct(num_evolutions=4, mutation_templates=given, llm=Model(grown)).process(rows))
            for given in (KINDS, dict(reversed(KINDS.items())))
        )
        assert one == two


class TestFailedEvolution:
    def test_is_kept_visible_and_the_next_starts_from_the_text_before(self, lab):
        """Distilabel 1.5.3: nothing marks a failed evolution; a refusal becomes the instruction and is evolved further."""

        def second_fails(prompt, _):
            return "I'm sorry, but I can't." if len(prompt.split()) == 3 or "cannot be used" in prompt else grown(prompt)

        model = Model(second_fails)
        [row] = lab.run(questions("q"), model, evol(3, store_evolutions=True, max_parse_retries=0))
        first = f"q {row['mutations'][0].lower()}"
        assert row["evolved_instructions"] == [first, first, first]
        assert row["mutation_errors"][0] is None
        assert all("refusal" in error for error in row["mutation_errors"][1:])
        assert row["distil_status"] == "ok"
        assert [prompt.partition(": ")[2] for prompt in model.asked] == ["q", first, first]

    def test_is_asked_again_with_the_reason_first(self, lab):
        """One unlucky answer is no reason to give up an evolution."""
        model = Model(lambda prompt, _: "q, grown" if "cannot be used" in prompt else "q")
        [row] = lab.run(questions("q"), model, evol(1))
        assert (row["evolved_instruction"], row["mutation_errors"]) == ("q, grown", [None])
        assert "the text is the same as before" in model.asked[1]

    @pytest.mark.parametrize("bad", [None, "", "...", "I cannot assist with that.", "#Rewritten Prompt#:\n\n#Given Prompt#: x"])
    @pytest.mark.parametrize("when", [0, 1, 2])
    def test_none_at_any_time_loses_that_evolution_only(self, lab, bad, when):
        """Distilabel 1.5.3: one None, in the middle or at the end, and the batch of fifty rows is lost."""
        rows = questions("a", "b", "c")

        def say(prompt, _):
            return bad if re.fullmatch(rf"\w: b( \w){{{when}}}", prompt) else grown(prompt)

        out = lab.run(rows, Model(say), evol(3, store_evolutions=True, max_parse_retries=0))
        assert [row["distil_status"] for row in out] == ["ok"] * 3 if when else ["ok", "unparsed", "ok"]
        assert [error is None for error in out[0]["mutation_errors"]] == [True] * 3
        assert out[0]["evolved_instructions"][-1].count(" ") == 3
        if when:
            assert [error is None for error in out[1]["mutation_errors"]] == [index < when for index in range(3)]
            assert [text.count(" ") for text in out[1]["evolved_instructions"]] == [min(index + 1, when) for index in range(3)]

    def test_a_none_in_the_last_evolution_is_no_response(self, lab):
        """Distilabel 1.5.3: EvolQuality stores the None of the last evolution as the response, without a flag."""
        task = EvolQuality(num_evolutions=2, mutation_templates=QUALITIES, max_parse_retries=0)
        model = Model(lambda prompt, _: grown(prompt) if prompt.endswith("/ r") else None)
        [row] = lab.run([{"instruction": "i", "response": "r"}], model, task)
        assert row["evolved_response"] == f"r {row['mutations'][0].lower()}"
        assert row["mutation_errors"] == [None, "there is no text in it"]

    def test_none_that_succeeded_is_no_evolution(self, lab):
        """An instruction that nothing was done to was published as an evolved one."""
        [row] = lab.run(questions("q"), Model(lambda prompt, _: None), evol(2, generate_answers=True, max_parse_retries=0))
        assert (row["distil_status"], row["evolved_instruction"], row["answer"]) == ("unparsed", None, None)
        assert row["mutation_errors"] == ["there is no text in it"] * 2
        assert len(row["mutations"]) == 2
        assert len(row["distil_metadata"]) == 2  # and no answer was asked for
        assert "no evolution succeeded" in row["distil_error"]

    def test_what_breaks_off_is_none(self, lab):
        """Instructions of half a sentence, of every model with a low max_tokens."""
        [row] = lab.run(questions("q"), Model(lambda *_: Answer("q and th", finish_reason="length")), evol(1))
        assert "breaks off" in row["mutation_errors"][0]

    def test_a_refused_request_fails_its_row_only(self, lab):
        """The provider's filter at one evolution of one row."""
        model = Model(lambda prompt, _: BadRow("filtered") if "b " in prompt else grown(prompt))
        assert [row["distil_status"] for row in lab.run(questions("a", "b"), model, evol(2))] == ["ok", "failed"]


class TestAccounts:
    def test_one_entry_per_request(self, lab):
        """Distilabel 1.5.3: each row carries the statistics of its whole batch, and the answers' replace the evolutions'."""
        model = Model(lambda prompt, _: grown(prompt) if re.match(r"\w: ", prompt) else "an answer")
        task = evol(3, generate_answers=True, store_evolutions=True)
        rows = lab.run(questions("a", "b", "c", "d"), model, task)
        assert [len(row["distil_metadata"]) for row in rows] == [6] * 4
        assert model.calls == sum(len(row["distil_metadata"]) for row in rows)
        spent = sum(entry["input_tokens"] for row in rows for entry in row["distil_metadata"])
        assert spent == 10 * model.calls == lab.summary()["input_tokens"]

    def test_rows_are_left_as_they_were(self):
        """Distilabel 1.5.3: it changes the rows that it was given."""
        given = questions("a")
        next(EvolInstruct(num_evolutions=1, mutation_templates=KINDS, llm=Model(grown)).process(given))
        assert given == questions("a")

    def test_metadata_of_the_task_before_stays(self, lab, tmp_path):
        """Distilabel 1.5.3: it replaces the metadata of the task before, and with it what that one cost."""
        lab.job(questions("a"), Model(grown), evol(2)).run()
        upstream = lab.summary()
        second = Lab(tmp_path / "second")
        task = evol(1, input_mappings={"instruction": "evolved_instruction"}, output_mappings=OTHERS)
        stores = {"source": open_source(upstream, stores=lambda uri: lab.store)}
        [row] = second.rows(second.job([{"no": "source"}], Model(grown), task, **stores).run())
        second.close()
        assert len(row["distil_metadata"]) == 3
        assert row["evolved again"].startswith(row["evolved_instruction"])


OTHERS = {"evolved_instruction": "evolved again", "mutations": "more mutations", "mutation_errors": "more errors"}


class TestResume:
    @pytest.mark.parametrize("done", [1, 2, 3])
    def test_goes_on_at_the_evolution_that_is_missing(self, lab, done):
        """Killed between the second and the third of four evolutions, the first two were paid again, as other prompts."""
        answered = itertools.count()
        first = Model(lambda prompt, _: grown(prompt) if next(answered) < done else Fatal("killed"), max_concurrency=1)
        with pytest.raises(Fatal):
            lab.job(questions("q"), first, evol()).run()
        second = Model(grown)
        [row] = lab.run(questions("q"), second, evol())
        whole = Model(grown)
        [expected] = next(EvolInstruct(num_evolutions=4, mutation_templates=KINDS, llm=whole).process(questions("q")))
        assert first.asked[:done] + second.asked == whole.asked
        assert len(second.asked) == 4 - done
        assert row["evolved_instruction"] == expected["evolved_instruction"]
        assert row["mutations"] == expected["mutations"]

    def test_after_a_failed_evolution(self, lab):
        """What failed is a fact as well: it is not tried again, and what follows it stays the same."""

        def say(prompt, _):
            return None if len(prompt.split()) == 3 else grown(prompt)

        answered = itertools.count()
        first = Model(lambda prompt, time: say(prompt, time) if next(answered) < 3 else Fatal("killed"), max_concurrency=1)
        with pytest.raises(Fatal):
            lab.job(questions("q"), first, evol(max_parse_retries=0)).run()
        second = Model(say)
        [row] = lab.run(questions("q"), second, evol(max_parse_retries=0))
        assert len(second.asked) == 1
        assert [error is None for error in row["mutation_errors"]] == [True, False, False, False]


class TestDefinition:
    @pytest.mark.parametrize("given", [True, {"type": "object"}])
    def test_free_text_has_no_schema(self, given):
        """An option that is taken and does nothing."""
        with pytest.raises(TaskDefinitionError, match="Leave structured_output out"):
            evol(structured_output=given).check()

    @pytest.mark.parametrize(("text", "kind"), [(None, TypeError), (["parts"], TypeError), (" ", ValueError)])
    def test_a_row_without_a_text_fails_before_it_costs(self, lab, text, kind):
        """Its repr would be evolved; from nothing, anything."""
        model = Model(grown)
        out = lab.run([{"instruction": text}, {"instruction": text}], model, evol())
        assert [row["distil_status"] for row in out] == ["failed"] * 2
        assert kind.__name__ in out[0]["distil_error"]
        assert model.calls == 0

    def test_at_least_one_evolution(self):
        """None at all is a copy."""
        with pytest.raises(ValueError, match="num_evolutions"):
            EvolInstruct(num_evolutions=0)
        with pytest.raises(ValueError, match="num_evolutions"):
            EvolInstruct()
