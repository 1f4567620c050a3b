"""An answer is paid once: whatever ended the attempt before, the next one asks what is missing and nothing else."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import pytest

from airflow_distil.conversation import Chat, user
from airflow_distil.datasets.log import Kind, Scratch
from airflow_distil.engine import facts as facts_module
from airflow_distil.engine.workspace import FACTS
from airflow_distil.exceptions import BadRow, DestinationError, Fatal, TaskDefinitionError, TooManyFailures, Transient
from airflow_distil.tasks import TextGeneration
from tests.unit.engine.lab import Lab, Model, TwoTurns, ask, many, questions


def dies_after(count: int, say=lambda prompt: f"{prompt}!"):
    """Answer so many times, then be gone."""
    answered = itertools.count(1)

    def answer(prompt, _):
        return say(prompt) if next(answered) <= count else Fatal("quota gone")

    return answer


def crash(lab: Lab, rows, count: int, task=None, **options) -> Model:
    model = Model(dies_after(count), max_concurrency=1)
    with pytest.raises(Fatal):
        lab.job(rows, model, task, **options).run()
    return model


class TestRetry:
    def test_asks_what_is_missing(self, lab):
        """A retry that starts over pays twice."""
        first = crash(lab, many(40), 15)
        second = Model()
        rows = lab.run(many(40), second)
        assert len(second.asked) == 25
        assert not set(second.asked) & set(first.asked[:15])
        assert [row["generation"] for row in rows] == [f"question {n}!" for n in range(40)]

    def test_on_another_host_too(self, lab, tmp_path):
        """What is only in the scratch folder of a lost host is lost."""
        crash(lab, many(40), 15)
        lab.scratch = tmp_path / "another host"
        second = Model()
        lab.run(many(40), second)
        assert len(second.asked) == 25

    def test_after_many_crashes(self, lab):
        """Each attempt goes on from all before it, not from the last only."""
        asked = []
        for count in (5, 1, 0, 7):
            asked += crash(lab, many(30), count).asked[:count]
        last = Model()
        lab.run(many(30), last)
        assert sorted(asked + last.asked) == sorted(f"question {n}" for n in range(30))

    def test_of_a_published_dataset_asks_nothing(self, lab):
        """A worker that was lost after publication is retried by Airflow."""
        first = lab.job(many(5), Model()).run()
        again = Model()
        assert lab.job(many(5), again).run().sha256 == first.sha256
        assert again.calls == 0
        assert len(lab.names("_distil/claims/")) == 1

    def test_bad_rows_are_not_asked_again(self, lab):
        """Airflow retries three times; a refused prompt is refused three times, and paid."""
        calls = Model(lambda prompt, _: BadRow("too long") if prompt == "question 3" else prompt)
        with pytest.raises(TooManyFailures):
            lab.job(many(10), calls, max_failure_ratio=0.0).run()
        again = Model()
        with pytest.raises(TooManyFailures) as caught:
            lab.job(many(10), again, max_failure_ratio=0.0).run()
        assert "question 3" not in again.asked
        assert caught.value.final

    def test_transient_failures_are_asked_again(self, lab):
        """They are no facts: the server may be back."""
        down = Model(lambda prompt, _: Transient("502") if prompt == "question 3" else prompt)
        with pytest.raises(TooManyFailures) as caught:
            lab.job(many(10), down, max_failure_ratio=0.0).run()
        assert not caught.value.final
        up = Model()
        lab.run(many(10), up, max_failure_ratio=0.0)
        assert "question 3" in up.asked
        assert all(fact.kind is not Kind.TRANSIENT for fact in lab.facts())

    def test_between_the_turns_of_a_conversation(self, lab):
        """Resumed at its start, a conversation pays its first turns again."""
        first = crash(lab, many(6), 8, TwoTurns())
        second = Model()
        rows = lab.run(many(6), second, TwoTurns())
        assert len(second.asked) == 12 - 8
        assert not set(second.asked) & set(first.asked[:8])
        assert [row["final"] for row in rows] == [f"better: question {n}!!" for n in range(6)]
        assert [len(row["distil_metadata"]) for row in rows] == [2] * 6

    def test_samples_that_are_missing(self, lab):
        """A row of four of which two are known asks for two."""
        task = TextGeneration(num_generations=4)
        model = Model(dies_after(6), honours_n=False, max_concurrency=1)
        with pytest.raises(Fatal):
            lab.job(many(3), model, task).run()
        second = Model()
        rows = lab.run(many(3), second, task)
        assert len(second.asked) == 12 - 6
        assert [row["distil_sample"] for row in rows] == [0, 1, 2, 3] * 3

    def test_reask_in_the_middle(self, lab):
        """An answer that was of no use is a fact too: asking the first question again would bring it a second time."""

        class Number(TextGeneration):
            def format_output(self, output, input):
                return {"generation": str(int(output))}

        model = Model(dies_after(1, lambda prompt: "seven"), max_concurrency=1)
        with pytest.raises(Fatal):
            lab.job(questions("a"), model, Number()).run()
        second = Model(lambda prompt, _: "7")
        [row] = lab.run(questions("a"), second, Number())
        assert row["generation"] == "7"
        assert ["cannot be used" in prompt for prompt in second.asked] == [True]


class TestClear:
    def test_without_failures_asks_nothing(self, lab):
        """People clear finished tasks by the hundred."""
        first = lab.job(many(5), Model()).run()
        again = Model()
        assert lab.job(many(5), again, ask=ask(2)).run().sha256 == first.sha256
        assert again.calls == 0

    def test_asks_exactly_the_failed_and_unparsed_rows(self, lab):
        """Clearing is how people ask for them; the others are paid."""
        bad = {"question 2": BadRow("filtered"), "question 4": Transient("502"), "question 6": None}
        first = lab.job(
            many(9), Model(lambda prompt, _: bad.get(prompt, f"{prompt}!")), TextGeneration(max_parse_retries=0)
        ).run()
        assert (first.ok, first.failed, first.unparsed) == (6, 2, 1)
        model = Model()
        second = lab.job(many(9), model, TextGeneration(max_parse_retries=0), ask=ask(2)).run()
        assert sorted(model.asked) == ["question 2", "question 4", "question 6"]
        assert (second.edition, second.ok, second.failed, second.unparsed) == (2, 9, 0, 0)
        assert [row["generation"] for row in lab.rows(second)] == [f"question {n}!" for n in range(9)]

    def test_unparsed_again_is_final_for_this_ask(self, lab):
        """A retry of the clear must not ask a third time."""
        task = TextGeneration(max_parse_retries=0)
        lab.job(many(2), Model(lambda prompt, _: None if prompt == "question 1" else prompt), task).run()
        crash(lab, many(2), 0, task, ask=ask(2))
        model = Model(lambda *_: None)
        lab.job(many(2), model, task, ask=ask(2)).run()
        assert model.asked == ["question 1"]
        again = Model()
        lab.job(many(2), again, task, ask=ask(2)).run()
        assert again.calls == 0

    def test_crashed_clear_goes_on_with_its_own_answers(self, lab):
        """The retry of a clear falls back to the unparsed answer of the ask before, or asks once more what it just paid."""
        task = TextGeneration(max_parse_retries=0)
        lab.job(many(6), Model(lambda *_: None), task).run()
        crash(lab, many(6), 2, task, ask=ask(2))
        model = Model()
        rows = lab.run(many(6), model, task, ask=ask(2))
        assert len(model.asked) == 4
        assert {row["distil_status"] for row in rows} == {"ok"}

    def test_of_unparsed_conversations_asks_all_turns(self, lab):
        """The draft may be what was wrong with it."""

        class Strict(TwoTurns):
            def converse(self, input, rng):
                columns = yield from super().converse(input, rng)
                return {name: None if "bad" in (columns["final"] or "") else text for name, text in columns.items()}

        lab.run(questions("a", "b"), Model(lambda prompt, _: "bad" if prompt == "better: a!" else f"{prompt}!"), Strict())
        model = Model(lambda prompt, _: f"{prompt}?")
        rows = lab.run(questions("a", "b"), model, Strict(), ask=ask(2))
        assert model.asked == ["a", "better: a?"]
        assert [row["final"] for row in rows] == ["better: a??", "better: b!!"]

    def test_regenerate_asks_everything_and_its_retry_nothing_twice(self, lab):
        """A new round has no answers yet; a crash in it keeps those it got."""
        lab.run(many(6), Model())
        crash(lab, many(6), 4, ask=ask(2), on_existing="regenerate")
        model = Model(lambda prompt, _: f"{prompt} anew")
        rows = lab.run(many(6), model, ask=ask(2), on_existing="regenerate")
        assert len(model.asked) == 2
        assert sorted(row["generation"].endswith("anew") for row in rows) == [False] * 4 + [True] * 2
        assert lab.manifest().round == 2

    def test_fail_asks_nothing(self, lab):
        """Nothing may be spent before the refusal."""
        lab.run(many(2), Model())
        model = Model()
        with pytest.raises(DestinationError, match="on_existing is 'fail'"):
            lab.job(many(2), model, ask=ask(2), on_existing="fail").run()
        assert model.calls == 0


class TestChangedRows:
    def test_row_inserted_at_the_front_asks_one(self, lab):
        """Facts found by position would all be another row's."""
        lab.run(many(8), Model())
        model = Model()
        rows = lab.run([*questions("new"), *many(8)], model, ask=ask(2))
        assert model.asked == ["new"]
        assert [row["generation"] for row in rows] == ["new!", *(f"question {n}!" for n in range(8))]

    def test_reordered_and_dropped_rows_ask_nothing(self, lab):
        """An upstream without ORDER BY gives another order each night."""
        lab.run(many(8), Model())
        shuffled = many(8)
        random.Random(1).shuffle(shuffled)
        model = Model()
        rows = lab.run(shuffled[:6], model, ask=ask(2))
        assert model.calls == 0
        assert [row["generation"] for row in rows] == [f"{row['instruction']}!" for row in shuffled[:6]]

    def test_changed_prompt_of_half_of_the_rows_asks_that_half(self, lab):
        """A conditional in the prompt changes some rows only."""
        lab.run(many(10), Model())
        template = "{{ instruction }}{% if instruction[-1] in '02468' %} please{% endif %}"
        model = Model()
        lab.run(many(10), model, TextGeneration(template=template), ask=ask(2))
        assert sorted(model.asked) == [f"question {n} please" for n in range(0, 10, 2)]

    def test_limit_then_all_asks_the_rest(self, lab):
        """People try ten rows first."""
        lab.run(many(10), Model(), limit=3)
        model = Model()
        rows = lab.run(many(10), model)
        assert len(model.asked) == 7
        assert [row["distil_row"] for row in rows] == list(range(10))

    def test_another_model_asks_everything(self, lab):
        """Its answers are not the other's."""
        lab.run(many(3), Model(model="small"))
        large = Model(model="large")
        lab.run(many(3), large, ask=ask(2))
        assert len(large.asked) == 3


class TestTwins:
    def test_duplicate_rows_have_their_own_answers(self, lab):
        """Ten equal prompts with one answer are one sample ten times."""
        rows = lab.run(questions("a", "b", "a", "a"), Model())
        assert sorted(row["generation"] for row in rows) == ["a!", "a!1", "a!2", "b!"]

    def test_duplicate_rows_keep_their_answers(self, lab):
        """Answered in another order on the retry, twins would swap, and both passes disagree."""
        twins = questions(*"aabab")
        first = {row["distil_row"]: row["generation"] for row in lab.run(twins, Model())}
        model = Model(lambda *_: "asked again")
        second = lab.run([*twins, *questions("c")], model, ask=ask(2))
        assert model.asked == ["c"]
        assert {row["distil_row"]: row["generation"] for row in second[:5]} == first

    def test_crash_among_twins_asks_the_missing_ones(self, lab):
        """Three of five equal prompts are paid: two are missing, not five and not none."""
        crash(lab, questions(*"aaaaa"), 3)
        model = Model()
        rows = lab.run(questions(*"aaaaa"), model)
        assert model.asked == ["a", "a"]
        assert len(rows) == 5

    def test_one_more_twin_asks_one(self, lab):
        """The twin in front has the first one's key."""
        lab.run(questions("a", "a", "b"), Model())
        model = Model()
        lab.run(questions("a", "a", "a", "b"), model, ask=ask(2))
        assert model.asked == ["a"]


class Drifting(TextGeneration):
    """Its prompt depends on how often it was made."""

    def format_input(self, input):
        return [user(f"{input['instruction']} {next(drift)}")]


class Changing(TextGeneration):
    """Its prompt depends on something outside, which tests change."""

    def format_input(self, input):
        return [user(f"{input['instruction']} {today[0]}")]


drift = itertools.count()
today = ["monday"]


class TestDrift:
    def test_first_run_stops_within_the_first_window(self, lab):
        """A clock in the prompt: no retry would recognise an answer, and each would pay for all."""
        model = Model(max_concurrency=4)
        with pytest.raises(TaskDefinitionError, match="does not make the same prompt twice") as caught:
            lab.job(many(500), model, Drifting()).run()
        assert model.calls <= 64
        assert "question 0" in str(caught.value)
        assert lab.names("_distil/manifests/") == []

    def test_resumed_run_stops_before_it_pays(self, lab):
        """Yesterday's date in the prompt: the retry after midnight would pay for everything again."""
        today[0] = "monday"
        crash(lab, many(30), 10, Changing())
        today[0] = "tuesday"
        model = Model()
        with pytest.raises(TaskDefinitionError, match=r"question 0 tuesday[\s\S]*question 0 monday"):
            lab.job(many(30), model, Changing()).run()
        assert model.calls == 0

    def test_what_is_added_at_the_end_is_shown(self, lab):
        """Of a long prompt, both beginnings were shown, which were the same."""

        class Longer(TextGeneration):
            def format_input(self, input):
                return [user("x" * 1000 + next(suffixes))]

        suffixes = iter(["", *map(str, range(1000, 2000))])
        with pytest.raises(TaskDefinitionError, match=r"x1\d\d\d"):
            lab.job(many(1), Model(max_concurrency=4), Longer()).run()

    def test_row_that_drifts_later_has_the_answer_to_what_was_asked(self, lab):
        """It is told once, from the prompt that was sent; what another prompt would have been given is in no dataset."""
        times = itertools.count()

        class Late(TextGeneration):
            def format_input(self, input):
                late = input["instruction"] == "question 90"
                return [user(f"{input['instruction']} {next(times) if late else ''}")]

        model = Model()
        rows = lab.run(many(100), model, Late())
        assert model.calls == len(rows) == 100
        assert rows[90]["generation"] == "question 90 0!"

    def test_changed_code_is_no_drift(self, lab):
        """Changing the prompt is what people do all day."""
        lab.run(many(3), Model())
        assert len(lab.run(many(3), Model(), TextGeneration(template="{{ instruction }}?"), ask=ask(2))) == 3

    def test_reordered_rows_are_no_drift(self, lab):
        """The source changed, so the row at this place is another."""
        lab.run(many(3), Model())
        assert len(lab.run(many(3)[::-1], Model(), ask=ask(2))) == 3

    def test_random_numbers_of_the_engine_do_not_drift(self, lab):
        """That is what `rng` is for."""

        class Draws(TextGeneration):
            def converse(self, input, rng):
                answer = yield Chat([user(f"{input['instruction']} {rng.random()} {rng.choice('abc')}")])
                more = yield Chat([user(f"{answer.text} {rng.random()}")])
                return {"generation": more.text}

        crash(lab, many(10), 12, Draws(num_generations=2))
        model = Model()
        rows = lab.run(many(10), model, Draws(num_generations=2))
        assert len(model.asked) == 40 - 12
        assert len({row["generation"] for row in rows}) == 20


class TestScratch:
    def test_of_a_killed_attempt_is_picked_up(self, lab, monkeypatch):
        """The last seconds before a kill were written to this host's disk, and nowhere else."""
        kill(lab, monkeypatch, many(20), 12)
        assert lab.facts() == []
        model = Model()
        lab.run(many(20), model)
        assert len(model.asked) == 8
        assert {fact.claim for fact in lab.facts()} == {1, 2}

    def test_is_gone_after_it_was_picked_up(self, lab, monkeypatch):
        """A worker's disk would fill up with the scratch of a year."""
        kill(lab, monkeypatch, many(5), 3)
        lab.run(many(5), Model())
        assert folders(lab) == []

    def test_is_kept_when_the_log_could_not_be_read(self, lab, monkeypatch):
        """It was deleted though nobody had taken its facts over: they were paid a second time."""
        kill(lab, monkeypatch, many(20), 12)
        with monkeypatch.context() as patch:
            patch.setattr(facts_module.Facts, "_read_all", lambda *_: (_ for _ in ()).throw(OSError("503")))
            with pytest.raises(DestinationError, match="503"):
                lab.job(many(20), Model()).run()
        model = Model()
        lab.run(many(20), model)
        assert len(model.asked) == 8

    def test_that_ends_in_half_a_fact_is_picked_up(self, lab, monkeypatch):
        """A kill in the middle of a write."""
        kill(lab, monkeypatch, many(20), 12)
        [folder] = folders(lab)
        with (folder / FACTS).open("r+b") as file:
            file.truncate((folder / FACTS).stat().st_size - 5)
        model = Model()
        lab.run(many(20), model)
        assert len(model.asked) == 9

    def test_of_another_destination_is_left_alone(self, lab, tmp_path, monkeypatch):
        """Workers share one scratch folder."""
        kill(lab, monkeypatch, many(5), 3)
        other = Lab(lab.scratch)
        other.run(many(5), Model())
        other.close()
        assert len(folders(lab)) == 1

    def test_twice_killed_its_facts_are_counted_once(self, lab, monkeypatch):
        """The second attempt copied the first one's facts into its own scratch, then died too."""
        kill(lab, monkeypatch, many(20), 6)
        kill(lab, monkeypatch, many(20), 5)
        model = Model()
        lab.run(many(20), model)
        assert len(model.asked) == 9
        ids = [(fact.nonce, fact.number) for fact in lab.facts()]
        assert len(ids) == len(set(ids)) == 20

    def test_kept_when_the_last_upload_failed(self, lab, monkeypatch):
        """The store was down at the end: what is paid is on this host, and the next attempt takes it along."""
        put = lab.store.put

        def down(name, data):
            if "/log/" in name:
                raise OSError("503")
            put(name, data)

        monkeypatch.setattr(lab.store, "put", down)
        crash(lab, many(20), 12)
        monkeypatch.setattr(lab.store, "put", put)
        model = Model()
        lab.run(many(20), model)
        assert len(model.asked) == 8


def folders(lab: Lab) -> list[Path]:
    return [folder for family in lab.scratch.iterdir() for folder in family.iterdir()]


def kill(lab: Lab, monkeypatch, rows, count: int) -> None:
    """Crash an attempt, and leave what a killed process leaves: its scratch on disk, nothing of it uploaded."""
    saved = lab.scratch.parent / f"saved {random.random()}"
    with monkeypatch.context() as patch:
        patch.setattr(facts_module.Facts, "flush", lambda _: None)
        close = facts_module.Facts.close

        def keep(self):
            shutil.copytree(lab.scratch, saved)
            close(self)

        patch.setattr(facts_module.Facts, "close", keep)
        crash(lab, rows, count)
    shutil.rmtree(lab.scratch)
    shutil.move(saved, lab.scratch)
    for folder in folders(lab):
        scratch = Scratch(folder / FACTS)
        assert scratch.size
        scratch.close()
