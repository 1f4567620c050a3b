"""What a task instance has paid, counted once, and what it may not pay any more."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_distil.conversation import Answer, Embed, Usage
from airflow_distil.datasets.log import Fact, Kind
from airflow_distil.datasets.manifest import Identity
from airflow_distil.engine import budget as budget_module
from airflow_distil.engine import facts as facts_module
from airflow_distil.engine.budget import FIRST, Budget, _parts
from airflow_distil.exceptions import BadRow, BudgetExceeded, Fatal, Stopped, TaskDefinitionError, Transient
from airflow_distil.tasks import TextGeneration
from tests.unit.engine.lab import Lab, Model, TwoTurns, ask, many, questions
from tests.unit.engine.test_failures import Background, Held

EACH = 12  # tokens of one answer of `Model`


def priced(*args, **options):
    """A model of which ten answers cost a dollar, and twelve tokens each."""
    return Model(*args, input_price=10_000.0, output_price=0.0, **options)


class TestStop:
    def test_in_tokens(self, lab):
        """A loop in a DAG spent a month's money in a night."""
        model = Model()
        with pytest.raises(BudgetExceeded) as caught:
            lab.job(many(100), model, max_total_tokens=20 * EACH).run()
        assert model.calls == 20
        assert len(lab.facts()) == 20
        assert caught.value.final
        message = str(caught.value)
        assert (
            "max_total_tokens=240 is used up: all attempts of this task instance paid 200 + 40 tokens for 20 answers" in message
        )
        assert "20 of 100 rows are done" in message
        assert "raise the limit and clear" in message

    def test_in_dollars(self, lab):
        """The same, by what it costs."""
        model = priced()
        with pytest.raises(BudgetExceeded, match=r"max_cost_usd=1.5 is used up: .* 150 \+ 30 tokens and \$1.50 for 15 answers"):
            lab.job(many(100), model, max_cost_usd=1.5).run()
        assert model.calls == 15

    def test_the_first_of_both_counts(self, lab):
        """With both limits set, only one was looked at."""
        with pytest.raises(BudgetExceeded, match="max_total_tokens=60 is used up"):
            lab.job(many(100), priced(), max_cost_usd=100.0, max_total_tokens=5 * EACH).run()
        with pytest.raises(BudgetExceeded, match="max_cost_usd=2 is used up"):
            lab.job(many(100), priced(), max_cost_usd=2.0, max_total_tokens=10**6).run()

    def test_enough_is_enough(self, lab):
        """A run that needs exactly what it may spend was stopped before its last row."""
        manifest = lab.job(many(50), priced(), max_cost_usd=5.0, max_total_tokens=50 * EACH).run()
        assert (manifest.ok, manifest.cost_usd, manifest.paid.cost_usd) == (50, pytest.approx(5.0), pytest.approx(5.0))

    def test_on_with_a_higher_limit_pays_nothing_twice(self, lab):
        """The limit was raised, and everything was asked anew."""
        model = priced()
        for number, limit in enumerate((1.0, 2.5, 3.0)):
            with pytest.raises(BudgetExceeded):
                lab.job(many(40), model, ask=ask(number), max_cost_usd=limit).run()
            assert model.calls == round(10 * limit)
        manifest = lab.job(many(40), model, ask=ask(9), max_cost_usd=4.0).run()
        assert (manifest.ok, model.calls, manifest.paid.answers) == (40, 40, 40)

    def test_a_retry_with_the_same_limit_pays_nothing_more(self, lab):
        """Each of ten retries spent the whole budget again."""
        model = priced()
        for _ in range(3):
            with pytest.raises(BudgetExceeded, match="10 of 40 rows are done"):
                lab.job(many(40), model, max_cost_usd=1.0).run()
        assert model.calls == 10

    def test_other_runs_have_budgets_of_their_own(self, lab):
        """The second night found the money of the first one spent, and published nothing for ever."""
        model = priced()
        for night in range(3):
            identity = Identity(dag_id="dag", task_id="task", run_id=f"night {night}")
            manifest = lab.job(
                many(10 * (night + 1)), model, identity=identity, ask=identity.ask(0, str(night)), max_cost_usd=1.0
            ).run()
            assert (manifest.cost_usd, manifest.paid.cost_usd) == (pytest.approx(night + 1), pytest.approx(1.0))

    def test_is_no_part_of_the_work(self, lab):
        """Raising it made another fingerprint, and a dataset that was there already was made again."""
        first = lab.job(many(3), priced(), max_cost_usd=5.0).run()
        again = lab.job(many(3), priced(), ask=ask(2), max_cost_usd=6.0, max_total_tokens=1000).run()
        assert (again.fingerprint, again.edition) == (first.fingerprint, first.edition)

    def test_what_is_on_its_way_arrives(self, lab):
        """The answers in flight were thrown away, although they are paid: nothing stops while one of them is missing."""
        model = Held(answered=2, max_concurrency=4)
        running = Background(lab.job(many(50), model, max_total_tokens=20 * EACH))
        assert model.waiting.wait(10)
        model.let_go.set()
        running.join()
        assert isinstance(running.error, BudgetExceeded)
        assert len(model.asked) == len(lab.facts()) == 20

    def test_a_stop_does_not_wait_for_room(self, lab, monkeypatch):
        """Requests that waited for room in the budget held up the end until Airflow killed the process."""
        monkeypatch.setattr("airflow_distil.engine.ask.GRACE", 60.0)
        model = Held(answered=1, max_concurrency=8)
        job = lab.job(many(50), model, max_total_tokens=10 * EACH)
        running = Background(job)
        assert model.waiting.wait(10)
        job.stop.request("test")
        model.let_go.set()
        running.join()
        assert isinstance(running.error, Stopped)
        assert len(model.asked) == len(lab.facts()) < 10

    def test_who_waits_for_room_holds_no_place_in_flight(self, lab):
        """Places were taken first: those who then waited for money left in the middle of the next cool-down."""
        noted = []

        def say(prompt, _):
            answered = model.calls - model.in_flight
            noted.append(answered + job.progress.asker.limiter.in_flight)
            return prompt

        model = Model(say, max_concurrency=16)
        job = lab.job(many(60), model, max_total_tokens=20 * EACH)
        with pytest.raises(BudgetExceeded):
            job.run()
        assert model.peak > 4
        assert max(noted) <= 20

    def test_a_fatal_error_is_not_taken_for_the_budget(self, lab):
        """A wrong key was reported as a budget that is used up."""
        model = priced(lambda prompt, _: Fatal("wrong key") if prompt == "question 5" else prompt)
        with pytest.raises(Fatal):
            lab.job(many(50), model, max_cost_usd=0.8).run()

    def test_a_failing_endpoint_does_not_hang(self, lab):
        """Requests that wait to be tried again kept their place in the budget, and those that waited for it the others'."""
        model = priced(lambda prompt, time: Transient("reset") if time < 2 else prompt, max_concurrency=2)
        assert lab.job(many(30), model, max_cost_usd=3.0).run().ok == 30

    def test_samples_of_one_call_are_counted_as_many(self, lab):
        """A call with n=5 was counted as one answer."""
        model = priced()
        with pytest.raises(BudgetExceeded):
            lab.job(many(20), model, TextGeneration(num_generations=5), max_cost_usd=2.0).run()
        assert len(model.asked) == 20

    def test_between_two_turns(self, lab):
        """What the first turn said is kept, and the second is asked when there is money again."""
        model = priced()
        with pytest.raises(BudgetExceeded):
            lab.job(many(10), model, TwoTurns(), max_cost_usd=1.5).run()
        assert lab.job(many(10), model, TwoTurns(), ask=ask(2), max_cost_usd=2.0).run().ok == 10
        assert max(Counter(model.asked).values()) == 1


class Uneven(Model):
    """A model whose answers cost what their question says; remembers how many were in flight when each was asked."""

    def __init__(self, **options) -> None:
        super().__init__(self._cost, input_price=1e6, output_price=0.0, **options)

    async def _cost(self, prompt: str, _time: int) -> Answer:
        await asyncio.sleep(random.random() / 1000)
        return Answer(text=prompt, usage=Usage(int(prompt), 0))


class TestOvershoot:
    @pytest.mark.parametrize("seed", range(5))
    def test_is_one_call_or_what_those_in_flight_cost_more_than_all_before(self, lab, seed):
        """With 200 in flight, a budget was passed by 200 answers."""
        random.seed(seed)
        costs = [random.choice([1, 5, 10, 40]) for _ in range(2000)]
        model = Uneven(max_concurrency=64)
        limit = 3000
        with pytest.raises(BudgetExceeded):
            lab.job(questions(*map(str, costs)), model, max_cost_usd=float(limit)).run()
        spent = sum(map(int, model.asked))
        # The dearest question comes early, so that from then on nothing is dearer than all before.
        assert limit <= spent < limit + max(costs)

    def test_is_bounded_when_answers_become_dearer(self, lab):
        """Rows that are sorted by their length: each answer is the dearest so far."""
        costs = [1.02**number for number in range(400)]
        model = Uneven(max_concurrency=32)
        limit = 2000
        with pytest.raises(BudgetExceeded):
            lab.job(questions(*(str(int(cost) + 1) for cost in costs)), model, max_cost_usd=float(limit)).run()
        spent = sum(map(int, model.asked))
        dearest = max(map(int, model.asked))
        before = int(costs[max(0, len(model.asked) - 1 - model.peak)])
        assert spent < limit + max(dearest, model.peak * (dearest - before))

    def test_counts_what_leaves_at_the_price_of_that_moment(self, lab):
        """Rows that waited for a place in flight had been let through when answers were cheap, and left when they were not."""
        model = Uneven(max_concurrency=4)
        with pytest.raises(BudgetExceeded):
            lab.job(questions(*["1"] * 20, *["1000"] * 200), model, max_cost_usd=2000.0).run()
        assert sum(map(int, model.asked)) <= 2000 + 4 * 1000

    def test_of_an_unknown_beginning_is_a_few_calls(self, lab):
        """Before the first answer nobody knows what one costs; the whole window was sent to find out."""
        model = Held(answered=0, max_concurrency=100)
        running = Background(lab.job(many(100), model, max_total_tokens=3 * EACH))
        assert model.waiting.wait(10)
        model.let_go.set()
        running.join()
        assert isinstance(running.error, BudgetExceeded)
        assert len(model.asked) == model._seen <= FIRST

    @given(
        limit=st.floats(1, 200),
        costs=st.lists(st.one_of(st.none(), st.floats(0, 20)), min_size=1, max_size=60),
        order=st.randoms(use_true_random=False),
    )
    def test_holds_in_every_order(self, limit, costs, order):
        """Whatever answers cost and whenever they arrive: one call more, or what those in flight are dearer."""
        budget = Budget(Model(), max_cost_usd=limit)
        waiting, in_flight, spent, excess, dearest = list(costs), [], 0.0, 0.0, None
        while waiting or in_flight:
            if waiting and budget._dollars.has_room(len(in_flight), 1):
                in_flight.append((waiting.pop(), dearest))
                if order.random() < 0.6:
                    continue
            elif not in_flight:
                break
            cost, expected = in_flight.pop(order.randrange(len(in_flight)))
            budget._dollars.add(_parts(cost))
            if cost is not None:
                spent += cost
                dearest = max(cost, dearest or 0.0)
                excess += max(0.0, cost - (limit / FIRST if expected is None else expected))
        assert spent <= limit + 1e-6 + max(excess, *(cost or 0.0 for cost in costs))
        if waiting:
            assert budget._dollars.total >= budget._dollars.limit


class TestUnknown:
    def test_price_is_refused_before_the_first_call(self, lab):
        """A budget in dollars without a price is no budget."""
        model = Model()
        with pytest.raises(TaskDefinitionError, match="Set input_price and output_price"):
            lab.job(many(5), model, max_cost_usd=1.0).run()
        assert model.calls == 0

    def test_price_of_nothing_is_not_missing(self):
        """Embeddings have no output, so a price for input is all there is to know."""
        budget = Budget(Model(input_price=1.0), max_cost_usd=1.0)
        assert asyncio.run(budget.admit(1, Embed("x")))

    def test_price_does_not_matter_if_nothing_is_asked(self, lab):
        """All answers are in the log; to refuse them for want of a price would be absurd."""
        lab.run(many(3), Model())
        manifest = lab.job(many(2), Model(), ask=ask(2), max_cost_usd=1.0).run()
        assert (manifest.ok, manifest.cost_usd) == (2, None)

    def test_tokens_stop_it_soon(self, lab):
        """A server that does not count: the limit was never reached."""
        model = Model(lambda prompt, _: Answer(text=prompt))
        with pytest.raises(BudgetExceeded, match="cannot be kept"):
            lab.job(many(100), model, max_total_tokens=10_000).run()
        assert FIRST <= len(lab.facts()) == len(model.asked) <= 2 * FIRST

    def test_a_few_without_a_count_do_not(self, lab):
        """One reply without `usage` in the middle of the night is no reason to stop; it counts as the dearest so far."""
        model = Model(lambda prompt, _: Answer(text=prompt) if prompt.endswith("7") else f"{prompt}!")
        manifest = lab.job(many(50), model, max_total_tokens=10_000).run()
        assert (manifest.ok, manifest.paid.answers, manifest.paid.input_tokens) == (50, 50, None)
        with pytest.raises(BudgetExceeded, match="5 of them without a count"):
            lab.job([*many(50), *questions("more")], model, ask=ask(2), max_total_tokens=50 * EACH).run()

    def test_price_then_known_price_now(self, lab):
        """Answers from before there was a price cost nothing, so the whole budget was spent beside them."""
        lab.run(many(10), Model())
        model = priced()
        with pytest.raises(BudgetExceeded):
            lab.job(many(40), model, ask=ask(2), max_cost_usd=2.0).run()
        assert model.calls == 10


class TestPaid:
    def test_differs_from_what_the_rows_cost_by_answers_that_are_in_none(self, lab):
        """What was asked again after a clear was paid twice, and the bill showed it once."""
        said = {}

        def say(prompt, time):
            said[prompt] = time
            return None if time < 2 and prompt == "question 1" else prompt

        lab.job(many(4), priced(say), TextGeneration()).run()
        manifest = lab.job(many(4), priced(lambda prompt, _: prompt), TextGeneration(), ask=ask(2)).run()
        assert (manifest.ok, manifest.cost_usd) == (4, pytest.approx(0.4))
        assert (manifest.paid.answers, manifest.paid.cost_usd) == (6, pytest.approx(0.6))

    def test_failures_that_are_charged_count(self, lab):
        """A content filter charges for what it withholds: for the row, the edition and the budget."""
        filtered = BadRow("filtered", usages=[Usage(10, 2)])
        model = priced(
            lambda prompt, _: filtered if prompt == "question 1" else BadRow("too long") if "2" in prompt else prompt
        )
        manifest = lab.job(many(4), model).run()
        entry = lab.rows(manifest)[1]["distil_metadata"][0]
        assert (entry["input_tokens"], entry["output_tokens"], entry["cost_usd"]) == (10, 2, pytest.approx(0.1))
        assert (manifest.cost_usd, manifest.paid.cost_usd) == (pytest.approx(0.3), pytest.approx(0.3))
        assert manifest.paid.answers == 3
        # And again from the log, where the failure of an earlier ask is void, but paid.
        again = lab.job(many(4), priced(lambda prompt, _: prompt), ask=ask(2)).run()
        assert (again.paid.answers, again.cost_usd) == (5, pytest.approx(0.4))

    def test_a_call_for_many_that_was_withheld_is_not_made_again_for_each(self, lab):
        """Each of n samples was asked again, and withheld again, at full price."""
        model = priced(lambda *_: BadRow("filtered", usages=[Usage(5, 1), Usage(5, 1)]))
        manifest = lab.job(questions("a"), model, TextGeneration(num_generations=2)).run()
        assert (model.calls, manifest.failed, manifest.paid.input_tokens) == (1, 2, 10)

    def test_fewer_withheld_than_asked_for_are_paid_once(self, lab):
        """The third of three samples was billed for what the second had cost, but only after a resume."""
        model = priced(lambda *_: BadRow("filtered", usages=[Usage(5, 1), Usage(5, 1)]))
        manifest = lab.job(questions("a"), model, TextGeneration(num_generations=3)).run()
        again = lab.job(questions("a", "b"), Model(lambda *_: BadRow("no")), ask=ask(2)).run()
        assert (manifest.paid.answers, again.paid.answers, again.paid.input_tokens) == (2, 2, 10)

    def test_damaged_and_strange_claims_are_nobodys(self, lab):
        """A claim that somebody truncated stopped all attempts, for the sake of a sum."""
        for number in range(1, 4):
            lab.run(many(number), Model(), ask=ask(number))
        lab.store.delete("_distil/claims/000002.json")
        lab.store.put("_distil/claims/000002.json", b"{")
        assert lab.job(many(4), Model(), ask=ask(4)).run().paid.answers == 3

    def test_forged_numbers_take_little_memory(self):
        """A fact with the number 2**63 made room for 2**63 bits."""
        budget = Budget(Model())
        budget.belongs_to(frozenset([b"n" * 8]))
        for number in [0, 1, 2**64 - 1, 2**63, 1, 2**63]:
            fact = Fact(b"k" * 16, b"n" * 8, number, 1, b"a" * 16, b"w" * 16, 0, 0, 0, Kind.ANSWER, b"")
            budget.count(fact, {"usage": [1, 2]})
        assert budget.paid.answers == 4
        assert sum(map(len, budget._seen.values())) <= 3 * budget_module.BITS

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(plan=st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=6))
    def test_counts_each_paid_call_once_however_it_is_resumed(self, plan):
        """Copies of a fact (of a compaction, a scratch file, an upload whose reply was lost) counted twice, or not at all."""
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(facts_module, "MANY_SEGMENTS", 1)
            lab = Lab(Path(folder) / "scratch")
            try:
                self._resume(lab, plan, patch)
            finally:
                lab.close()

    def _resume(self, lab, plan, patch) -> None:
        """Run attempts that die after some answers, with copies of what they wrote, then one to the end."""
        rows, paid = many(30), 0
        for number, (answers, uploads, copies, again) in enumerate(plan):
            left = answers

            def say(prompt, _time):
                nonlocal left
                left -= 1
                return Fatal("killed") if left < 0 else prompt

            with pytest.MonkeyPatch.context() as crash:
                if not uploads:
                    # What is only in this host's scratch file, as after SIGKILL.
                    crash.setattr(facts_module.Facts, "flush", lambda self: None)
                    crash.setattr("airflow_distil.engine.workspace.Workspace.forget_earlier", lambda self: None)
                    crash.setattr("airflow_distil.engine.workspace.remove", lambda path: None)
                model = priced(say, max_concurrency=3)
                with suppress(Fatal):
                    lab.job(rows, model, ask=ask(number if again else 0)).run()
                paid += sum(1 for prompt in model.asked) - (left < 0) * -left
            if copies:
                for name in lab.names("_distil/log/"):
                    if "/compact-" not in name and name.endswith("1.arrow"):
                        lab.store.put(name.replace("1.arrow", f"{900 + number}.arrow"), lab.store.get(name))
        manifest = lab.job(rows + questions("the last"), priced(), ask=ask(99)).run()
        own = [fact for fact in lab.facts() if fact.kind is Kind.ANSWER]
        assert manifest.paid.answers == len({(fact.nonce, fact.number) for fact in own})
        assert manifest.paid.answers == paid + 31 - min(paid, 30)
        assert manifest.paid.input_tokens == 10 * manifest.paid.answers
        assert manifest.paid.cost_usd == pytest.approx(0.1 * manifest.paid.answers)
