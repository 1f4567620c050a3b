"""A look at a task before it runs: real prompts, real answers, and figures that say how sure they are."""

from __future__ import annotations

import math
import random
import re
from html.parser import HTMLParser
from itertools import pairwise
from statistics import fmean

import pytest

from airflow_distil.conversation import Answer, Chat, Usage, user
from airflow_distil.datasets.source import numbered, open_source
from airflow_distil.engine import trial
from airflow_distil.engine.estimate import Estimate, estimated, spread
from airflow_distil.engine.preview import Preview, Sample
from airflow_distil.engine.trial import try_out
from airflow_distil.exceptions import BadRow, Fatal, TaskDefinitionError
from airflow_distil.tasks import GeneratorTask, Task, TextGeneration
from tests.unit.engine.lab import Model, TwoTurns, many, questions


def look(source, model=None, task=None, **options) -> Preview:
    return try_out(task or TextGeneration(), model, open_source(source), **options)


class TestEstimate:
    def test_covers_the_truth_as_often_as_it_says(self):
        """An interval by the normal distribution covers 80 % of the time with three rows, not 95 %."""
        rng = random.Random(7)
        population = [rng.gauss(100, 30) for _ in range(5000)]
        covered = 0
        for _ in range(2000):
            found = estimated([population[at] for at in spread(len(population), 3, rng)], len(population))
            covered += found.low <= sum(population) <= found.high
        assert 0.935 < covered / 2000 < 0.965

    def test_of_all_rows_is_exact(self):
        """Where everything was measured, there is nothing to be unsure of."""
        assert estimated([1, 2, 3], 3) == Estimate(6, 6, 6)

    def test_of_one_row_has_no_interval(self):
        """One row says nothing about how rows differ."""
        assert estimated([5], 10) == Estimate(50)

    def test_nor_of_rows_that_are_alike(self):
        """Ten short rows said exactly what a source with a few long ones would cost."""
        assert estimated([5, 5, 5], 10) == Estimate(50)

    def test_is_not_less_than_what_was_measured(self):
        """With three very unequal rows, the lower end was negative."""
        assert estimated([1, 1, 1000], 10).low == 1002

    def test_goes_on_where_the_table_ends(self):
        """The quantile jumped between 31 and 32 rows."""
        from airflow_distil.engine.estimate import _quantile

        values = [_quantile(freedom) for freedom in range(1, 200)]
        assert all(0 < before - after < 8.5 for before, after in pairwise(values))
        assert values[30] == pytest.approx(2.0395, abs=0.005)
        assert values[-1] == pytest.approx(1.972, abs=0.001)

    @pytest.mark.parametrize(("rows", "count"), [(1, 1), (3, 5), (10, 3), (1000, 7), (5, 0)])
    def test_rows_come_from_all_parts_and_are_the_same_each_time(self, rows, count):
        """The first rows of a sorted file are its shortest; other rows each time make figures that cannot be compared."""
        chosen = spread(rows, count, random.Random(1))
        assert chosen == spread(rows, count, random.Random(1)) == sorted(set(chosen))
        assert len(chosen) == min(rows, count)
        assert all(rows * at // len(chosen) <= row < rows * (at + 1) // len(chosen) for at, row in enumerate(chosen))

    def test_each_row_is_as_likely(self):
        """Rows at the edges of the parts were never drawn."""
        rng = random.Random(3)
        drawn = [row for _ in range(3000) for row in spread(10, 3, rng)]
        assert set(drawn) == set(range(10))


class TestPrompts:
    def test_are_those_that_a_run_sends(self):
        """A preview of something else than what is paid for."""
        rows = many(50)
        found = look(rows, Model(), rows=4)
        assert [sample.prompts for sample in found.samples] == [(f"[user] question {sample.row}",) for sample in found.samples]
        assert found.rows == 50
        assert len({sample.row * 4 // 50 for sample in found.samples}) == 4

    def test_nobody_is_asked_without_ask(self):
        """A look must be free, unless it is asked for."""
        model = Model()
        look(many(5), model)
        assert model.calls == 0

    def test_of_all_samples_that_differ(self):
        """Of a task that draws its prompts, only the first sample's were shown."""

        class Draws(Task):
            @property
            def inputs(self):
                return ["instruction"]

            @property
            def outputs(self):
                return ["text"]

            def converse(self, input, rng):
                answer = yield Chat([user(f"{input['instruction']} {rng.random()}")])
                return {"text": answer.text}

        model = Model()
        [sample] = look(questions("a"), model, Draws(num_generations=3)).samples
        assert len(set(sample.prompts)) == 3
        [asked] = look(questions("a"), model, Draws(num_generations=3), ask=1).samples
        assert sorted(asked.prompts) == sorted(sample.prompts)

    def test_rows_that_upstream_gave_up_cost_nothing(self):
        """They were asked in the preview, and are not in the run."""
        rows = [{"instruction": "a", "distil_status": "failed", "distil_error": "x"}] * 3 + [
            {"instruction": "b", "distil_status": "ok", "distil_error": None}
        ]
        model = Model()
        found = look(rows, model, ask=4)
        assert [sample.status for sample in found.samples] == ["skipped"] * 3 + ["ok"]
        assert (model.calls, found.calls.total, found.input_tokens.total) == (1, 1, 10)

    def test_a_row_that_cannot_be_asked_about_says_why(self):
        """One odd row out of five made the preview fail."""
        rows = [{"instruction": None}, {"instruction": "b"}]
        found = look(rows, task=TextGeneration(template="{{ instruction.strip() }}"))
        assert (found.samples[0].status, found.samples[1].status) == ("failed", None)
        assert "cannot be asked" in found.samples[0].error

    def test_columns_are_checked(self):
        """The message about a column that is missing came when the run was paid for."""
        with pytest.raises(TaskDefinitionError, match="reads 'instruction'"):
            look([{"question": "a"}])

    @pytest.mark.parametrize("options", [{"rows": 0}, {"rows": True}, {"ask": -1}, {"ask": "3"}, {"rows": 2.5}])
    def test_arguments_are_checked(self, options):
        """rows=0 showed nothing, without a word."""
        with pytest.raises(TaskDefinitionError, match=r"preview: (rows|ask) is"):
            look(many(3), Model(), **options)

    def test_asking_needs_a_model(self):
        """It was passed over in silence."""
        with pytest.raises(TaskDefinitionError, match="needs a model"):
            look(many(3), ask=1)


class TestAnswers:
    def test_are_read_as_in_a_run(self):
        """An answer that the task cannot read looked fine in the preview."""

        class Number(TextGeneration):
            output_types = {"generation": int}

            def format_output(self, output, input):
                return {"generation": int(output)}

        model = Model(lambda prompt, _: "many" if "again" in prompt or prompt.endswith("1") else "7")
        found = look(many(2), model, Number(), ask=2)
        assert [sample.status for sample in found.samples] == ["ok", "unparsed"]
        assert found.samples[0].outputs == ({"generation": 7},)
        assert "invalid literal" in found.samples[1].error
        assert found.samples[1].answers == ("many", "many")

    def test_all_turns_are_shown_and_counted(self):
        """The second turn is where the money goes."""
        found = look(many(10), Model(input_price=1e6, output_price=1e6), TwoTurns(), rows=3, ask=2)
        asked = [sample for sample in found.samples if sample.answers]
        assert len(asked) == 2
        assert asked[0].prompts == (f"[user] question {asked[0].row}", f"[user] better: question {asked[0].row}!")
        assert (found.calls.total, found.input_tokens.total, found.output_tokens.total) == (20, 200, 40)
        assert found.cost_usd == Estimate(240)
        assert "cost:          about $240" in repr(found)
        assert "no figure of theirs differs" in repr(found)

    def test_samples_that_share_a_call_are_one_call(self):
        """With n=4, the preview said four times as many calls as the run made."""
        task = TextGeneration(num_generations=4)
        assert look(many(10), Model(), task, ask=2).calls.total == 10
        assert look(many(10), Model(honours_n=False), task, ask=2).calls.total == 40

    def test_totals_follow_from_the_rows_that_were_asked(self):
        """The estimate of a source whose rows differ."""
        rng = random.Random(5)
        sizes = [rng.randrange(1, 100) for _ in range(500)]
        model = Model(lambda prompt, _: Answer(text="x", usage=Usage(int(prompt), 1)), input_price=1e6, output_price=0)
        found = look(questions(*map(str, sizes)), model, rows=20, ask=20)
        assert found.input_tokens.total == pytest.approx(500 * fmean(int(s.prompts[0].split()[1]) for s in found.samples))
        assert found.input_tokens.low < sum(sizes) < found.input_tokens.high
        assert found.cost_usd.total == found.input_tokens.total

    def test_unknown_stays_unknown(self):
        """Without a price, or without a count, there is no figure that one could believe."""
        found = look(many(4), Model(), ask=2)
        assert (found.cost_usd, found.price, found.input_tokens.total) == (None, (None, None), 40)
        assert "cost:          unknown" in repr(found)
        found = look(many(4), Model(lambda *_: Answer(text="x"), input_price=1.0, output_price=1.0), ask=2)
        assert (found.cost_usd, found.input_tokens, found.output_tokens, found.calls.total) == (None, None, None, 4)

    def test_half_a_price_is_said(self):
        """The price of input was shown, and the cost was unknown."""
        assert "set output_price" in repr(look(many(4), Model(input_price=1.0), ask=2))
        assert "set output_price" not in repr(look(many(4), Model(input_price=1.0, output_price=1.0), ask=2))

    def test_a_refused_row_does_not_make_all_unknown(self):
        """One of three was filtered: the others still say what a row costs."""
        model = Model(
            lambda prompt, _: BadRow("too long") if prompt.endswith("1") else prompt, input_price=1.0, output_price=1.0
        )
        found = look(many(3), model, ask=3)
        assert [sample.status for sample in found.samples] == ["ok", "failed", "ok"]
        assert (found.samples[1].answers, found.samples[1].error, found.input_tokens.total) == ((None,), "too long", 20)

    def test_nobody_answered(self):
        """A server that was down made a bill of $0.00, and its error was shown as what the model said."""
        model = Model(lambda *_: BadRow("nobody there"), input_price=1.0, output_price=1.0)
        found = look(many(3), model, ask=2)
        assert (found.calls, found.input_tokens, found.output_tokens, found.cost_usd) == (None, None, None, None)
        shown = repr(found)
        assert "None of the rows that were asked (2) was answered" in shown
        assert "failed: nobody there" in shown
        assert "answer:" not in shown

    def test_a_wrong_key_is_raised(self):
        """It was shown as a row that failed."""
        with pytest.raises(Fatal):
            look(many(3), Model(lambda *_: Fatal("wrong key")), ask=2)

    def test_what_upstream_paid_is_not_counted_again(self):
        """The metadata of a chained row has the bill of all tasks before."""
        entry = {"task": "text_generation", "model": "m", "input_tokens": 1000, "output_tokens": 1000, "cost_usd": 5.0}
        rows = [{"instruction": "a", "distil_status": "ok", "distil_metadata": [entry, entry]}] * 2
        found = look(rows, Model(), ask=2)
        assert (found.input_tokens.total, len(found.samples[0].prompts)) == (20, 1)

    def test_nothing_is_left_behind(self, tmp_path, monkeypatch):
        """The answers of a preview, in a temporary folder of a shared host."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        look(many(3), Model(), ask=2)
        assert list(tmp_path.iterdir()) == []

    def test_more_are_asked_than_shown_is_all_shown(self):
        """ask=8 beside the default of 5 rows asked 5."""
        model = Model()
        assert len(look(many(20), model, ask=8).samples) == model.calls == 8


class TestWithoutAnswers:
    def test_calls_and_input_are_guessed_and_say_so(self):
        """A figure without its origin is taken for a measurement."""
        found = look(many(100), Model(input_price=1.0, output_price=1.0), TextGeneration(num_generations=2))
        assert found.calls == Estimate(200)
        assert found.input_tokens.total == pytest.approx(200 * len("[user] question 10") / trial.BYTES_PER_TOKEN, rel=0.1)
        assert (found.output_tokens, found.cost_usd) == (None, None)
        assert "guessed" in found.notes[0]

    def test_turns_are_not(self):
        """How often a task asks shows only when it is answered."""
        found = look(many(10), Model(), TwoTurns())
        assert (found.calls, found.input_tokens) == (None, None)
        assert "ask=3" in found.notes[0]


class Numbers(GeneratorTask):
    """Asks for numbers; accepts none of them."""

    output_types = {"number": int}

    @property
    def num_rows(self):
        return 30

    @property
    def outputs(self):
        return ["number"]

    def converse(self, input, rng):
        answer = yield Chat([user(f"candidate {input['candidate']} {rng.random()}")])
        return {"number": answer.text}

    def accept(self, row):
        return False


def test_a_generator_shows_its_first_candidates(lab):
    """It has no source to draw rows from, and its preview must not run until 30 of them are accepted."""
    model = Model(lambda prompt, _: "12")
    found = try_out(Numbers(), model, numbered(300), rows=3, ask=2)
    assert (found.rows, found.calls.total, model.calls) == (30, 30, 2)
    assert [sample.row for sample in found.samples] == [0, 1, 2]
    assert [sample.outputs for sample in found.samples if sample.answers] == [({"number": 12},)] * 2
    assert "each candidate" in str(found.notes)
    # The same prompts as in a run.
    run = Model(lambda prompt, _: Fatal("enough"), max_concurrency=1)
    with pytest.raises(Fatal):
        lab.job(None, run, Numbers()).run()
    assert f"[user] {run.asked[0]}" in [prompt for sample in found.samples for prompt in sample.prompts]


class Tags(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


EVIL = "<script>alert(1)</script> & <img src=x onerror=alert(2)> \x1b[31mred\x1b[0m \u202egnorw"


def test_row_text_is_data():
    """A row of the source ran as a script in the notebook of whoever looked at it, or coloured a terminal."""

    class Named(TextGeneration):
        pass

    model = Model(lambda prompt, _: EVIL, model=f"m{EVIL}")
    found = look([{"instruction": EVIL, "x": EVIL}] * 2, model, Named(), ask=1, rows=2)
    page = Tags(found._repr_html_())
    assert page.tags <= {"div", "b", "table", "tr", "th", "td", "ul", "li", "details", "summary", "pre"}
    assert page.text.count("<script>alert(1)</script>") >= 3
    for shown in (repr(found), found._repr_html_()):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", shown)


def test_a_book_is_not_printed_whole():
    """A prompt of 50 MB in a terminal."""
    found = look(questions("word " * 100_000), rows=1)
    assert len(repr(found)) < 3000
    assert "500,007 characters" in repr(found)
    assert len(found._repr_html_()) < 50_000


def test_lines_stay_lines():
    """A prompt of many lines was shown as one."""
    found = look(questions("one\ntwo"), rows=1)
    assert "    [user] one\n    two\n" in repr(found) + "\n"


def test_repr_of_a_sample_without_figures():
    """What nobody asked has no tokens, and no zero dollars either."""
    assert "tokens" not in repr(look(many(1), Model(), rows=1)).splitlines()[-3]
    assert Sample(0, ()).cost_usd is None
    assert math.isclose(estimated([0.1, 0.1], 10).total, 1.0)
