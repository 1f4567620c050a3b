"""Generator tasks: exactly N rows out of numbered candidates, in every attempt the same ones."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr

from airflow_distil.conversation import Answer, Chat, Unparsed, Usage, user
from airflow_distil.datasets.source import numbered
from airflow_distil.exceptions import BadRow, TaskDefinitionError, TooManyFailures, Transient
from airflow_distil.tasks.generator import GeneratorTask
from tests.unit.engine.lab import Lab, Model, ask, prompt_of


class Names(GeneratorTask):
    """Asks for a name, with a number that is drawn; keeps each name once."""

    count: int
    _seen: set[str] = PrivateAttr(default_factory=set)

    @property
    def num_rows(self) -> int:
        return self.count

    @property
    def outputs(self) -> list[str]:
        return ["letter"]

    output_types = {"letter": str}

    def converse(self, input, rng):
        answer = yield Chat([user(f"candidate {input['candidate']} draws {rng.randrange(10**6)}")])
        if answer.text == "?":
            raise Unparsed("a question mark")
        return {"letter": answer.text}

    def accept(self, row):
        fresh = row["letter"] not in self._seen
        self._seen.add(row["letter"])
        return fresh


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("airflow_distil.engine.asking.FIRST_WAIT", 0.0)


def number(prompt: str) -> int:
    return int(prompt.split()[1])


def run(lab: Lab, task: GeneratorTask, model: Model, **options):
    return lab.run(None, model, task, **options)


def test_exactly_n_rows_no_duplicate_and_nothing_paid_in_vain(lab):
    """Distilabel 1.5.3: asked for 6 instructions, it published 10 rows of 6 distinct ones. And spare candidates cost money."""
    model = Model(lambda prompt, time: "abc"[number(prompt) // 4 % 3] if number(prompt) < 12 else f"n{number(prompt)}")
    rows = run(lab, Names(count=6), model)
    assert [row["letter"] for row in rows] == ["a", "b", "c", "n12", "n13", "n14"]
    assert [row["distil_row"] for row in rows] == list(range(6))
    assert len(model.asked) == 15
    manifest = lab.manifest()
    assert (manifest.rows, manifest.ok, manifest.lost) == (6, 6, {"rejected": 9})
    # The bill has the candidates that became no row, too.
    assert (manifest.input_tokens, manifest.output_tokens) == (150, 30)
    assert "candidate" not in rows[0]


def test_failed_and_unparsed_candidates_are_no_rows(lab):
    """One bad candidate failed the run, or came out as an empty row."""

    def say(prompt, time):
        return {1: BadRow("refused"), 2: "?", 4: Transient("gone")}.get(number(prompt), f"n{number(prompt)}")

    rows = run(lab, Names(count=4, max_parse_retries=0), Model(say), max_failure_ratio=0.0)
    assert [row["letter"] for row in rows] == ["n0", "n3", "n5", "n6"]
    assert lab.manifest().lost == {"failed": 2, "unparsed": 1}


def test_candidates_are_bounded(lab):
    """Distilabel 1.5.3: answers that never fit were asked for, and paid, for ever."""
    model = Model(lambda prompt, time: "always the same")
    with pytest.raises(TooManyFailures, match=r"20 candidates cannot make 3 rows: 1 were accepted .* rejected") as caught:
        run(lab, Names(count=3, max_candidates=20), model)
    assert caught.value.final
    # It ends as soon as the rest cannot make it: 19 rejected ones leave one for two rows.
    assert len(model.asked) == 19
    assert lab.names("_distil/manifests/") == []


def test_passing_failures_leave_it_to_the_next_attempt(lab):
    """An endpoint that was down for a while made the failure final."""
    down = [True]
    model = Model(lambda prompt, time: Transient("down") if down[0] else f"n{number(prompt)}")
    with pytest.raises(TooManyFailures, match="The next attempt asks the candidates with passing failures again") as caught:
        run(lab, Names(count=2, max_candidates=3), model)
    assert not caught.value.final
    down[0] = False
    assert [row["letter"] for row in run(lab, Names(count=2, max_candidates=3), model)] == ["n0", "n1"]


def test_more_candidates_after_too_few_pay_only_for_those(lab):
    """Raising max_candidates, as the message advises, paid for all of them again."""
    model = Model(lambda prompt, time: f"n{number(prompt) // 10}")
    with pytest.raises(TooManyFailures):
        run(lab, Names(count=3, max_candidates=15), model)
    before = len(model.asked)
    rows = run(lab, Names(count=3, max_candidates=30), model, ask=ask(2))
    assert [row["letter"] for row in rows] == ["n0", "n1", "n2"]
    assert len(set(model.asked)) == len(model.asked) == 21
    assert before < 21


def test_unparsed_candidates_stay_lost(lab):
    """Candidates that could not be read were paid again by each clear, and the rows after them moved."""
    model = Model(lambda prompt, time: "?" if number(prompt) % 3 == 1 and not time else f"n{number(prompt)}")
    task = {"max_parse_retries": 0}
    first = run(lab, Names(count=3, **task), model)
    assert [row["letter"] for row in first] == ["n0", "n2", "n3"]
    more = run(lab, Names(count=5, **task), model, ask=ask(2))
    assert [row["letter"] for row in more] == ["n0", "n2", "n3", "n5", "n6"]
    assert len(set(model.asked)) == len(model.asked) == 7


def test_a_task_that_makes_nothing_is_given_up(lab):
    """A model that answers nonsense was paid for ten candidates of each of a million rows."""
    model = Model(lambda prompt, time: "?")
    with pytest.raises(TooManyFailures, match="None of the first 50 candidates became a row") as caught:
        run(lab, Names(count=1000, max_parse_retries=0), model)
    assert caught.value.final
    assert len(model.asked) < 50 + 64


def test_a_finished_generator_asks_nothing_again(lab):
    """Distilabel 1.5.3: a resumed generator started again from zero; and a clear must not pay twice."""
    model = Model(lambda prompt, time: f"n{number(prompt) // 2}")
    first = run(lab, Names(count=5), model)
    calls = model.calls
    assert run(lab, Names(count=5), model, ask=ask(2)) == first
    assert model.calls == calls
    more = run(lab, Names(count=7), model, ask=ask(3))
    assert [row["letter"] for row in more] == [f"n{i}" for i in range(7)]
    assert model.calls == 13


@given(seed=st.integers(0, 2**32), losses=st.sets(st.integers(0, 60), max_size=25), count=st.integers(1, 30))
def test_any_order_of_answers_gives_the_same_rows(tmp_path_factory, seed, losses, count):
    """Candidates accepted in the order of their answers made another dataset in each attempt, and others paid for."""
    lab = Lab(tmp_path_factory.mktemp("scratch"))
    drawn = random.Random(seed)
    order = {k: drawn.randrange(5) for k in range(400)}

    def say(prompt, time):
        async def later():
            for _ in range(order[number(prompt)]):
                await asyncio.sleep(0)
            candidate = number(prompt)
            return Answer(text="?" if candidate in losses else f"n{candidate // 2}", usage=Usage(1, 1))

        return later()

    model = Model(say)
    rows = run(lab, Names(count=count, max_parse_retries=0), model)
    expected, candidate = [], 0
    while len(expected) < count:
        letter = f"n{candidate // 2}"
        if candidate not in losses and letter not in expected:
            expected.append(letter)
        candidate += 1
    assert [row["letter"] for row in rows] == expected
    assert Counter(model.asked).most_common(1)[0][1] == 1
    assert len(model.asked) == candidate
    lab.close()


def test_a_killed_generator_goes_on_with_the_same_candidates(lab):
    """A retry drew other candidates, and paid for all of them."""

    class Killed(Model):
        async def _one(self, request):
            prompt = prompt_of(request)
            self.asked.append(prompt)
            if len(self.asked) > 9:
                raise RuntimeError("killed")
            return Answer(text=f"n{number(prompt)}", usage=Usage(1, 1))

    first = Killed(max_concurrency=3)
    with pytest.raises(RuntimeError, match="killed"):
        run(lab, Names(count=20), first)
    second = Model(lambda prompt, time: f"n{number(prompt)}")
    rows = run(lab, Names(count=20), second)
    assert [row["letter"] for row in rows] == [f"n{i}" for i in range(20)]
    assert not set(first.asked[:9]) & set(second.asked)
    assert set(first.asked[9:]) <= set(second.asked)


def test_the_seed_decides_what_candidates_draw(lab):
    """A seed that is given at run time was ignored (distilabel 1.5.3), or a candidate drew as its neighbour did."""
    prompts = {}
    for seed in (1, 2, 1):
        other = Lab(lab.scratch / str(len(prompts)))
        model = Model(lambda prompt, time: f"n{number(prompt)}")
        run(other, Names(count=3, seed=seed), model)
        assert prompts.setdefault(seed, sorted(model.asked)) == sorted(model.asked)
        other.close()
    assert prompts[1] != prompts[2]


def test_a_generator_runs_by_itself():
    """Outside Airflow a generator has no rows to be called with."""
    task = Names(count=3, llm=Model(lambda prompt, time: f"n{number(prompt)}"))
    task.load()
    [rows] = task.process()
    assert rows == [{"letter": f"n{i}", "model_name": "parrot"} for i in range(3)]
    with pytest.raises(TaskDefinitionError, match="makes its rows itself"):
        next(task.process([{"a": 1}]))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_generations": 2}, "leave out num_generations"),
        ({"group_generations": True}, "one row of each candidate"),
        ({"input_mappings": {"candidate": "x"}}, "reads no source"),
        ({"max_candidates": 2}, "3 rows of at most max_candidates=2"),
    ],
)
def test_what_a_generator_cannot_do_is_refused(lab, fields, says):
    """A setting that has no meaning for a generator was accepted and ignored."""
    with pytest.raises(TaskDefinitionError, match=says):
        run(lab, Names(count=3, **fields), Model())


def test_accept_that_raises_names_the_task_and_the_candidate(lab):
    """A mistake in `accept` ended the run with a bare KeyError."""

    class Strict(Names):
        def accept(self, row):
            return row["lettre"]

    with pytest.raises(TaskDefinitionError, match="accept of task 'strict' raised over candidate 0: KeyError"):
        run(lab, Strict(count=1), Model(lambda prompt, time: "x"))


def test_progress_counts_rows_and_what_was_lost(lab):
    """Progress of a generator counted up to the cap on candidates, which no run ever reaches."""
    seen = []
    model = Model(lambda prompt, time: f"n{number(prompt) // 2}")
    lab.job(None, model, Names(count=4)).run(report=lambda progress: seen.append(progress.snapshot()))
    assert (seen[-1]["done"], seen[-1]["total"], seen[-1]["lost"]) == (4, 4, 3)


def test_numbered_source_streams():
    """A source of a million candidates was a list of a million."""
    source = numbered(2500)
    assert source.rows == 2500
    batches = list(source.batches())
    assert len(batches) > 1
    assert pa.Table.from_batches(batches)["candidate"].to_pylist() == list(range(2500))
