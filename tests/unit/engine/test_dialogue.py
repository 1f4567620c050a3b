"""Keys, seeds and replay of one conversation."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from random import Random
from types import SimpleNamespace

import pytest

from airflow_distil.conversation import Chat, Unparsed, user
from airflow_distil.datasets.log import Fact, Kind
from airflow_distil.engine.dialogue import Dialogue, Outcome, Speech, Turn, _Draws, answer_of, read_body
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks import TextGeneration
from tests.unit.engine.lab import TwoTurns

OURS, THEIRS = b"a" * 16, b"b" * 16


def speech(task, **options) -> Speech:
    return Speech(**{"task": task, "model": "m", "parameters": {}, "round": 1, "ask": OURS, "read": lambda row: row, **options})


class Twins:
    def __init__(self):
        self.seen = defaultdict(int)

    def __call__(self, name, ordinal, sample):
        self.seen[name] += 1
        return self.seen[name] - 1


def dialogue(task, text="a", *, ordinal=0, sample=0, twin=None, **options) -> Dialogue:
    return Dialogue(speech(task, **options), {"instruction": text}, ordinal, sample, twin or (lambda *_: 0))


class Log:
    """Facts as `find` gives them."""

    def __init__(self):
        self.facts: dict[bytes, list[Fact]] = defaultdict(list)

    def tell(self, turn: Turn, text=None, kind=Kind.ANSWER, ask=OURS, **body) -> None:
        content = {"text": text, **body}
        number = sum(map(len, self.facts.values()))
        self.facts[turn.key].append(
            Fact(turn.key, b"n" * 8, number, 1, ask, b"w" * 16, 0, 0, turn.step, kind, json.dumps(content).encode())
        )

    def __call__(self, key, ordinal=0, sample=0, *, own):
        facts = [fact for fact in self.facts[key] if not own or fact.ask == OURS]
        return facts[-1] if facts else None


def told(talk: Dialogue, log: Log, *texts: str, ask=OURS) -> Outcome:
    for text in texts:
        [turn] = talk.advance(log)
        log.tell(turn, text, ask=ask)
    outcome = talk.advance(log)
    assert isinstance(outcome, Outcome)
    return outcome


class Draws(TextGeneration):
    more: int = 0

    def converse(self, input, rng):
        prompt = f"{input['instruction']} {rng.random()}"
        for _ in range(self.more):
            rng.random()
        first = yield Chat([user(prompt)])
        second = yield Chat([user(f"{first.text} {rng.random()}")])
        return {"generation": second.text}


class TestKeys:
    def test_same_row_same_key(self):
        """In every process: the log is read by others."""
        [one] = dialogue(TextGeneration()).advance(Log())
        [other] = dialogue(TextGeneration(), ordinal=7).advance(Log())
        assert one.key == other.key
        assert one.key.hex() == "ecc2fe126673fef4f1bf6439609128b7"

    @pytest.mark.parametrize(
        "change",
        [
            {"text": "b"},
            {"sample": 1},
            {"twin": lambda *_: 1},
            {"round": 2},
            {"model": "other"},
            {"parameters": {"temperature": 1}},
        ],
    )
    def test_everything_that_matters_is_in_it(self, change):
        """Left out, an answer would be taken for another's."""
        [one] = dialogue(TextGeneration()).advance(Log())
        [other] = dialogue(TextGeneration(), **change).advance(Log())
        assert one.key != other.key

    def test_ask_is_not_in_it(self):
        """Answers hold for ever, whichever run asked."""
        [one] = dialogue(TextGeneration()).advance(Log())
        [other] = dialogue(TextGeneration(), ask=THEIRS).advance(Log())
        assert one.key == other.key

    def test_later_turns_depend_on_all_before(self):
        """The same question after another answer is another question."""

        class Fixed(TwoTurns):
            def converse(self, input, rng):
                draft = yield Chat([user(input["instruction"])])
                final = yield Chat([user("and?")])
                return {"draft": draft.text, "final": final.text}

        second = []
        for text in "ab":
            log, talk = Log(), dialogue(Fixed(), text)
            [turn] = talk.advance(log)
            log.tell(turn, "x")
            second += talk.advance(log)
        assert second[0].content == second[1].content
        assert second[0].key != second[1].key

    def test_list_counts_one_by_one(self):
        """Two equal requests of one list are two requests."""

        class Twice(TwoTurns):
            def converse(self, input, rng):
                one, two = yield [Chat([user("x")]), Chat([user("x")])]
                return {"draft": one.text, "final": two.text}

        log, talk = Log(), dialogue(Twice())
        first, second = talk.advance(log)
        assert first.key != second.key
        assert (first.step, second.step) == (0, 1)
        log.tell(second, "two")
        assert talk.advance(log) == [first]
        log.tell(first, "one")
        assert talk.advance(log).columns == {"draft": "one", "final": "two"}

    def test_twins_are_counted_by_first_request_and_sample(self):
        """Counted over all samples, the second row's twin number would depend on `num_generations`."""
        twins = Twins()
        keys = [
            dialogue(TextGeneration(), ordinal=row, sample=sample, twin=twins).advance(Log())[0].key
            for row in range(3)
            for sample in range(2)
        ]
        assert len(set(keys)) == 6
        assert sorted(twins.seen.values()) == [3, 3]


class TestRandomness:
    def prompts(self, text="a", answer="xyz", *, task=None, **options) -> list[str]:
        log, talk = Log(), dialogue(task or Draws(), text, **options)
        [first] = talk.advance(log)
        log.tell(first, answer)
        [second] = talk.advance(log)
        return [first.request.messages[0]["content"], second.request.messages[0]["content"].split()[-1]]

    def test_depends_on_seed_inputs_sample_and_step(self):
        """And on nothing else: not the ordinal, the round, the ask, nor what was drawn before."""
        base = self.prompts()
        assert base == self.prompts(ordinal=5, ask=THEIRS, round=3, twin=lambda *_: 4)
        assert base[1] == self.prompts(answer="a much longer answer")[1]
        assert base == self.prompts(task=Draws(more=7))
        assert base[0].split()[1] != base[1]
        assert base != self.prompts(sample=1)
        assert base != self.prompts(text="b")
        assert base != self.prompts(task=Draws(seed=43))

    def test_columns_that_the_task_does_not_read_do_not_matter(self):
        """An id column that is made anew each night would change every draw."""
        one = Dialogue(speech(Draws()), {"instruction": "a", "id": 1}, 0, 0, lambda *_: 0).advance(Log())
        other = Dialogue(speech(Draws()), {"instruction": "a", "id": 2}, 0, 0, lambda *_: 0).advance(Log())
        assert one == other


class TestReplay:
    def test_goes_as_far_as_the_facts(self):
        """One question at a time is missing, never one that is known."""
        log, talk = Log(), dialogue(TwoTurns())
        [first] = talk.advance(log)
        assert talk.advance(log) == [first]
        log.tell(first, "one")
        again = dialogue(TwoTurns())
        assert [turn.step for turn in again.advance(log)] == [1]
        outcome = told(again, log, "two")
        assert (outcome.status, outcome.columns) == ("ok", {"draft": "one", "final": "two"})
        assert [turn.step for turn, *_ in outcome.trace] == [0, 1]
        assert dialogue(TwoTurns()).advance(log).columns == outcome.columns

    def test_failure_ends_it(self):
        """The turns after it are not asked."""
        log, talk = Log(), dialogue(TwoTurns())
        [first] = talk.advance(log)
        log.tell(first, kind=Kind.BAD_ROW, error="too long")
        outcome = talk.advance(log)
        assert (outcome.status, outcome.error, outcome.transient) == ("failed", "too long", False)

    def test_transient_failure_is_told_apart(self):
        """It makes `TooManyFailures` retryable."""
        log, talk = Log(), dialogue(TwoTurns())
        [first] = talk.advance(log)
        log.tell(first, kind=Kind.TRANSIENT, error="502")
        assert talk.advance(log).transient

    def test_unparsed_of_another_ask_is_asked_anew(self):
        """All turns of it, each once."""
        log = Log()

        class Fussy(TwoTurns):
            def converse(self, input, rng):
                columns = yield from super().converse(input, rng)
                if columns["final"] == "bad":
                    raise Unparsed("bad", partial={"draft": columns["draft"]})
                return columns

        old = dialogue(Fussy())
        [first] = old.advance(log)
        log.tell(first, "one", ask=THEIRS)
        [second] = old.advance(log)
        log.tell(second, "bad", ask=THEIRS)
        talk = dialogue(Fussy())
        [turn] = talk.advance(log)
        assert (turn.step, turn.key) == (0, first.key)
        outcome = told(talk, log, "eins", "good")
        assert outcome.columns == {"draft": "eins", "final": "good"}
        # The write pass comes to the same end.
        assert dialogue(Fussy()).advance(log).columns == outcome.columns

    def test_unparsed_of_this_ask_is_the_end(self):
        """A retry that asked again would never end."""
        log, talk = Log(), dialogue(TextGeneration(max_parse_retries=0))
        [turn] = talk.advance(log)
        log.tell(turn, None)
        assert talk.advance(log).status == "unparsed"
        assert dialogue(TextGeneration(max_parse_retries=0)).advance(log).status == "unparsed"

    def test_good_answer_of_another_ask_holds(self):
        """It is paid."""
        log, talk = Log(), dialogue(TextGeneration())
        [turn] = talk.advance(log)
        log.tell(turn, "fine", ask=THEIRS)
        assert talk.advance(log).columns == {"generation": "fine"}

    def test_answer_is_given_whole(self):
        """Finish reason, usage and scores reach the task as they came."""
        log, talk = Log(), dialogue(TextGeneration())
        [turn] = talk.advance(log)
        log.tell(turn, "x", finish_reason="length", usage=[3, None], scores=[0.5], vector=[1.0], model="m-1", latency=0.5)
        answer = answer_of(read_body(log(turn.key, own=False)))
        assert (answer.finish_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("length", 3, None)
        assert (answer.scores, answer.vector, answer.model, answer.latency) == ([0.5], [1.0], "m-1", 0.5)


class TestMistakes:
    def test_empty_list_of_requests(self):
        """It would wait for ever for no answer."""

        class Empty(TwoTurns):
            def converse(self, input, rng):
                yield []

        with pytest.raises(TaskDefinitionError, match="empty list"):
            dialogue(Empty())

    def test_columns_that_are_no_dict(self):
        """Every row would be unparsed, with a message about attributes."""

        class Text(TwoTurns):
            def converse(self, input, rng):
                yield Chat([user("x")])
                return "text"

        log, talk = Log(), dialogue(Text())
        [turn] = talk.advance(log)
        log.tell(turn, "x")
        with pytest.raises(TaskDefinitionError, match="returned str, not a dict"):
            talk.advance(log)

    def test_nothing_returned_is_unparsed(self):
        """A branch without a return is about this answer, not about the task."""

        class Maybe(TwoTurns):
            def converse(self, input, rng):
                yield Chat([user("x")])

        log, talk = Log(), dialogue(Maybe())
        [turn] = talk.advance(log)
        log.tell(turn, "x")
        assert talk.advance(log).status == "unparsed"

    def test_error_before_the_first_request_is_the_rows(self):
        """A row without the text it should have."""

        class Broken(TwoTurns):
            def converse(self, input, rng):
                yield Chat([user(input["absent"])])

        outcome = dialogue(Broken()).advance(Log())
        assert (outcome.status, outcome.error) == ("failed", "the row cannot be asked about: KeyError: 'absent'")

    def test_what_cannot_be_sent_is_the_rows(self):
        """A date among the messages stopped the client, and with it the run."""

        class Dated(TwoTurns):
            def converse(self, input, rng):
                yield Chat([user(dt.date(2026, 1, 1))])

        outcome = dialogue(Dated()).advance(Log())
        assert outcome.status == "failed"
        assert "not JSON serializable" in outcome.error

    def test_full_disk_is_not_the_rows(self):
        """The twins are counted on disk: all rows would fail, for good, because of a disk that is full tonight."""

        def full(*_):
            raise OSError("No space left on device")

        with pytest.raises(OSError, match="No space left"):
            dialogue(TextGeneration(), twin=full)

    def test_yield_of_something_else_is_the_tasks(self):
        """Every row would fail with an attribute error."""

        class Text(TwoTurns):
            def converse(self, input, rng):
                yield "just text"

        with pytest.raises(TaskDefinitionError, match="yielded str"):
            dialogue(Text())

    def test_task_that_changes_its_row_changes_a_copy(self):
        """The second sample, and the write pass, would see another row."""

        class Popping(TwoTurns):
            def converse(self, input, rng):
                answer = yield Chat([user(input["nested"].pop())])
                return {"draft": answer.text, "final": answer.text}

        row = {"instruction": "a", "nested": ["x"]}
        one = Dialogue(speech(Popping()), row, 0, 0, lambda *_: 0).advance(Log())
        assert one == Dialogue(speech(Popping()), row, 0, 0, lambda *_: 0).advance(Log())
        assert row["nested"] == ["x"]

    def test_error_after_an_answer_is_unparsed(self):
        """The answer was what it could not work with; it is kept."""

        class Broken(TwoTurns):
            def converse(self, input, rng):
                answer = yield Chat([user("x")])
                return {"draft": answer.text[100]}

        log, talk = Log(), dialogue(Broken())
        [turn] = talk.advance(log)
        log.tell(turn, "x")
        outcome = talk.advance(log)
        assert (outcome.status, outcome.error) == ("unparsed", "IndexError: string index out of range")
        assert len(outcome.trace) == 1

    def test_row_without_a_question_is_ok(self):
        """A conversation may end before it begins: a row that needs no model."""

        class Known(TwoTurns):
            def converse(self, input, rng):
                if False:
                    yield
                return {"draft": "known", "final": "known"}

        assert dialogue(Known()).advance(Log()).columns == {"draft": "known", "final": "known"}

    def test_columns_that_are_not_outputs_are_left_out(self):
        """Distilabel 1.5.3: a reply with an extra key overwrote an input column."""

        class Extra(TwoTurns):
            def converse(self, input, rng):
                answer = yield Chat([user("x")])
                return {"draft": answer.text, "instruction": "overwritten"}

        log, talk = Log(), dialogue(Extra())
        assert told(talk, log, "x").columns == {"draft": "x", "final": None}


class TestDraws:
    """The random numbers that a task is given."""

    @pytest.mark.parametrize(
        "draw",
        [
            lambda rng: rng.random(),
            lambda rng: rng.gauss(),
            lambda rng: rng.choice("abc"),
            lambda rng: rng.sample(range(99), 5),
            lambda rng: rng.randbytes(3),
            lambda rng: rng.uniform(1, 2),
            lambda rng: rng.normalvariate(),
            lambda rng: rng.getstate(),
            lambda rng: rng.shuffle(items := list(range(9))) or items,
        ],
    )
    def test_they_are_those_of_the_seed(self, draw):
        """Seeded late, some methods drew from nothing, or from the step before."""
        rng = _Draws()
        for seed in (1, 2):
            rng.reseed(SimpleNamespace(seed=seed))
            assert draw(rng) == draw(Random(seed))
            rng.gauss()

    def test_a_task_may_seed_them_itself(self):
        """Its own seed was overwritten by ours at the next draw."""
        rng = _Draws()
        rng.reseed(SimpleNamespace(seed=1))
        rng.seed(42)
        assert rng.random() == Random(42).random()
        rng.reseed(SimpleNamespace(seed=1))
        rng.setstate(Random(7).getstate())
        assert rng.random() == Random(7).random()

    def test_another_row_between_two_steps_changes_nothing(self):
        """All rows of a run share one source of them."""

        class Drawing(TwoTurns):
            def converse(self, input, rng):
                yield Chat([user(f"{input['instruction']} {rng.random()}")])
                answer = yield Chat([user(f"{input['instruction']} {rng.random()}")])
                return {"draft": answer.text, "final": str(rng.random())}

        def last(rows):
            shared, log = speech(Drawing()), Log()
            talks = [Dialogue(shared, {"instruction": row}, 0, 0, lambda *_: 0) for row in rows]
            for _ in range(2):
                for talk in talks:
                    for turn in talk.advance(log):
                        log.tell(turn, "x")
            return [(talk.advance(log).columns["final"], talk.advance(log).trace[1].turn.key) for talk in talks]

        assert last(["a", "b"]) == [*last(["a"]), *last(["b"])]
