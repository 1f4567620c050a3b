"""How a run ends when it must: at once, with everything that is paid written down."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from airflow_distil.datasets.commit import Commit
from airflow_distil.datasets.manifest import claim_name
from airflow_distil.engine import ask as ask_module
from airflow_distil.engine import facts as facts_module
from airflow_distil.engine import job as job_module
from airflow_distil.engine.ask import BAD_SHOWN
from airflow_distil.engine.asking import LONGEST_TOLD, TRIES
from airflow_distil.engine.selection import HOPELESS
from airflow_distil.exceptions import (
    BadRow,
    DestinationError,
    DistilError,
    Fatal,
    QuotaExceeded,
    RateLimited,
    Stopped,
    Superseded,
    TooManyFailures,
    Transient,
)
from airflow_distil.tasks import TextGeneration
from tests.unit.engine.lab import IDENTITY, Lab, Model, ask, many, questions

HANG = 10.0


class Held(Model):
    """A model that answers the first few questions, and holds the others until it is let go."""

    def __init__(self, answered: int, **options) -> None:
        super().__init__(**options)
        self.answered = answered
        self.waiting = threading.Event()
        self.let_go = threading.Event()
        self._seen = 0

    async def answer(self, request, n=1):
        self._seen += 1
        if self._seen > self.answered:
            self.waiting.set()
            while not self.let_go.is_set():  # noqa: ASYNC110 - set by another thread; waiting in one would hold up the loop's end
                await asyncio.sleep(0.005)
        return await super().answer(request, n)


class Background:
    """A job in a thread, as Airflow's main thread would wait for it."""

    def __init__(self, job) -> None:
        self.job = job
        self.error: BaseException | None = None
        self.manifest = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.manifest = self.job.run()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def join(self) -> None:
        self._thread.join(HANG)
        assert not self._thread.is_alive()


class TestWindow:
    def test_rows_go_on_beside_one_that_hangs(self, lab):
        """A run that begins the next rows when all others have ended waits for the slowest each time."""
        others = threading.Event()

        async def last(prompt):
            await asyncio.to_thread(others.wait, HANG)
            return prompt

        def say(prompt, time):
            if prompt == "question 299":
                others.set()
            return last(prompt) if prompt == "question 0" else prompt

        run = Background(lab.job(many(300), Model(say, max_concurrency=4)))
        run.join()
        assert run.manifest.ok == 300
        assert others.is_set()

    def test_rows_begin_several_at_a_time_and_never_too_many(self, lab, monkeypatch):
        """To be woken for each row costs as much as a part of its call; and what is begun and not asked takes memory."""
        begun = []
        begin = ask_module.AskPass._begin

        def noted(self, ordinal, row):
            begun.append(self.selection._open)
            return begin(self, ordinal, row)

        monkeypatch.setattr(ask_module.AskPass, "_begin", noted)
        lab.run(many(300), Model(max_concurrency=4))
        assert max(begun) == ask_module.WINDOW_LEAST
        refilled = [now for before, now in itertools.pairwise(begun) if now <= before]
        assert refilled
        assert max(refilled) <= ask_module.WINDOW_LEAST - 7, "eight are free, and one of them is taken"


class TestFatal:
    def test_stops_at_once_and_keeps_what_is_paid(self, lab):
        """A wrong key in row 5 is a wrong key in row 5 million."""
        model = Model(lambda prompt, _: Fatal("no quota") if prompt == "question 10" else prompt, max_concurrency=2)
        with pytest.raises(Fatal, match="no quota"):
            lab.job(many(500), model).run()
        assert model.calls < 30
        answered = [prompt for prompt in model.asked if prompt != "question 10"]
        assert len(lab.facts()) == len(answered)

    def test_is_not_written_down_as_the_rows_fault(self, lab):
        """With a new key the row must be asked."""
        with pytest.raises(Fatal):
            lab.job(questions("a"), Model(lambda *_: Fatal("wrong key"))).run()
        assert lab.facts() == []
        assert lab.run(questions("a"), Model())[0]["distil_status"] == "ok"

    def test_answers_on_their_way_are_kept(self, lab):
        """They are paid, whatever happened to their neighbour."""

        async def slow(prompt):
            await asyncio.sleep(0.2)
            return prompt

        model = Model(lambda prompt, _: Fatal("no quota") if prompt == "question 3" else slow(prompt))
        with pytest.raises(Fatal):
            lab.job(many(4), model).run()
        assert len(lab.facts()) == 3


class TestLog:
    def test_says_why_while_it_happens(self, lab, caplog):
        """Ninety rows failed one after the other, and the reason was told when the task had ended."""
        told = []

        def refuse(prompt, _):
            told.append([each.getMessage() for each in caplog.records if each.levelname == "WARNING"])
            return BadRow(f"refused {prompt}")

        lab.job(questions(*"abcdefgh"), Model(refuse, max_concurrency=1)).run()
        assert told[2][0] == "Row 0 failed: refused a"
        assert sum(message.startswith("Row ") for message in told[-1]) == BAD_SHOWN

    def test_says_why_it_asks_again(self, lab, caplog):
        """For half a minute a host that is not there looked like one that is slow."""
        passing = iter([Transient("nobody there"), Transient("nobody there"), "at last"])
        lab.run(questions("a"), Model(lambda *_: next(passing)))
        said = [each.levelname for each in caplog.records if "nobody there" in each.getMessage()]
        assert said.count("WARNING") == 1


class TestNobodyAnswers:
    """A server that is not there: by the ratio alone, a million rows took twelve hours to fail."""

    def test_is_said_after_fifty_rows(self, lab):
        model = Model(lambda *_: Transient("connection refused"), max_concurrency=4)
        with pytest.raises(TooManyFailures, match=f"None of the first {HOPELESS} rows .*connection refused") as caught:
            lab.run(many(2000), model, max_failure_ratio=0.05)
        assert not caught.value.final
        assert len(set(model.asked)) < HOPELESS + 2 * ask_module.WINDOW_LEAST

    def test_what_is_known_is_no_sign_of_life(self, lab):
        """A retry found the answers of the first one, and took all night to find out that there would be no others."""
        ending = Model(lambda prompt, _: Fatal("no such key") if prompt == "question 60" else prompt, max_concurrency=1)
        with pytest.raises(Fatal):
            lab.run(many(2000), ending)
        with pytest.raises(TooManyFailures, match="None of the first"):
            lab.run(many(2000), Model(lambda *_: Transient("reset"), max_concurrency=4), max_failure_ratio=0.05)

    @pytest.mark.parametrize("said", ["an answer", BadRow("too long")])
    def test_one_reply_and_the_ratio_decides(self, lab, said):
        model = Model(lambda prompt, _: said if prompt == "question 10" else Transient("reset"), max_concurrency=4)
        with pytest.raises(TooManyFailures, match=r"of 1500 rows are more than max_failure_ratio=0\.05"):
            lab.run(many(1500), model, max_failure_ratio=0.05)

    def test_samples_of_one_row_are_one(self, lab):
        """One call for 64 samples was lost, and the run was stopped."""
        model = Model(lambda prompt, _: Transient("reset") if prompt == "question 0" else prompt, max_concurrency=4)
        rows = lab.run(many(100), model, TextGeneration(num_generations=64), max_failure_ratio=0.05)
        assert sum(row["distil_status"] == "failed" for row in rows) == 64

    def test_who_takes_everything_gets_it(self, lab):
        assert len(lab.run(many(100), Model(lambda *_: Transient("reset")), max_failure_ratio=1.0)) == 100


class TestTransient:
    def test_is_tried_again_and_again(self, lab):
        """One lost connection in a million calls is a Tuesday."""
        model = Model(lambda prompt, time: Transient("reset"), max_concurrency=1)
        manifest = lab.job(questions("a"), model).run()
        assert len(model.asked) == TRIES
        assert (manifest.failed, lab.rows(manifest)[0]["distil_error"]) == (1, "reset")

    def test_passes(self, lab):
        """The number of tries is in the row's metadata."""
        tries = iter([Transient("reset"), RateLimited("slow down"), RateLimited("slow", 0.0), "fine"])
        [row] = lab.run(questions("a"), Model(lambda *_: next(tries)))
        assert (row["generation"], row["distil_metadata"][0]["attempts"]) == ("fine", 4)

    def test_place_is_given_back_while_waiting(self, lab, monkeypatch):
        """A burst of 503s filled the window with sleepers, and nothing moved for a minute."""
        monkeypatch.setattr("airflow_distil.engine.asking._backoff", lambda tried: 0.3)
        order = []

        def say(prompt, _):
            order.append(prompt)
            return Transient("503") if prompt == "question 0" and order.count(prompt) == 1 else prompt

        lab.run(many(10), Model(say, max_concurrency=1))
        assert order[-1] == "question 0"
        assert len(order) == 11

    def test_model_without_an_answer_is_asked_again(self, lab):
        """An LLM that returned no answer at all was asked for ever, without a pause."""

        class Silent(Model):
            async def answer(self, request, n=1):
                await super().answer(request, n)
                return []

        model = Silent()
        assert lab.job(questions("a"), model).run().failed == 1
        assert model.calls == TRIES

    def test_endpoint_that_says_in_an_hour_ends_the_attempt(self, lab, monkeypatch):
        """The others would wait an hour for a place, and the worker's slot with them; the next attempt comes back instead."""
        monkeypatch.setattr(ask_module, "GRACE", 0.05)
        model = Model(lambda prompt, _: RateLimited("daily limit", LONGEST_TOLD + 1) if prompt == "question 5" else prompt)
        began = time.monotonic()
        with pytest.raises(QuotaExceeded, match="daily limit") as caught:
            lab.job(many(100), model).run()
        assert time.monotonic() - began < HANG
        assert not caught.value.final
        assert 0 < len(lab.facts()) < 100


class TestTooManyFailures:
    def test_is_final_when_all_are_permanent(self, lab):
        """A retry would end the same way."""
        model = Model(lambda prompt, _: BadRow("filtered") if int(prompt.split()[1]) < 2 else prompt, max_concurrency=1)
        with pytest.raises(TooManyFailures, match=r"2 failed and 0 unparsed of 20 rows.*2 × filtered \(row 0, 1\)") as caught:
            lab.job(many(20), model, max_failure_ratio=0.05).run()
        assert caught.value.final

    def test_is_retryable_while_some_may_pass(self, lab):
        """The server may be back for the next attempt."""
        bad = {"question 0": BadRow("filtered"), "question 1": Transient("502")}
        model = Model(lambda prompt, _: bad.get(prompt, prompt))
        with pytest.raises(TooManyFailures) as caught:
            lab.job(many(3), model, max_failure_ratio=0.5).run()
        assert not caught.value.final

    def test_stops_as_soon_as_it_cannot_be_met(self, lab):
        """A prompt that no row can answer must not be paid for a million rows."""
        model = Model(lambda *_: None, max_concurrency=1)
        with pytest.raises(TooManyFailures):
            lab.job(many(1000), model, TextGeneration(max_parse_retries=0), max_failure_ratio=0.01).run()
        assert model.calls < 60

    def test_exactly_the_ratio_is_allowed(self, lab):
        """`max_failure_ratio=0.05` of 20 rows is one row."""
        model = Model(lambda prompt, _: BadRow("no") if prompt == "question 7" else prompt)
        assert lab.job(many(20), model, max_failure_ratio=0.05).run().failed == 1

    def test_skipped_rows_do_not_dilute_the_ratio(self, lab, tmp_path):
        """2 of 10 asked rows failed, before 90 skipped ones came by, and the dataset was published."""
        bad = {f"question {n}": BadRow("upstream") for n in range(10, 100)}
        lab.run(many(100), Model(lambda prompt, _: bad.get(prompt, prompt)))
        second = Lab(tmp_path / "second")
        model = Model(lambda prompt, _: BadRow("no") if prompt in {"question 0", "question 1"} else prompt)
        task = TextGeneration(output_mappings={"generation": "again"})
        with pytest.raises(TooManyFailures, match="of 10 rows"):
            second.job(lab.summary(), model, task, max_failure_ratio=0.05).run()
        second.close()

    def test_nothing_is_published(self, lab):
        """Half a dataset is no dataset."""
        with pytest.raises(TooManyFailures):
            lab.job(many(3), Model(lambda *_: BadRow("no")), max_failure_ratio=0.0).run()
        assert lab.names("_distil/manifests/") == []
        assert lab.names("data/") == []


class TestStop:
    def test_keeps_what_is_paid(self, lab, monkeypatch):
        """SIGTERM after two hours of a run must not throw two hours away."""
        monkeypatch.setattr(ask_module, "GRACE", 0.05)
        model = Held(7, max_concurrency=4)
        run = Background(lab.job(many(50), model))
        assert model.waiting.wait(HANG)
        run.job.stop.request("SIGTERM")
        run.join()
        assert isinstance(run.error, Stopped)
        assert "SIGTERM" in str(run.error)
        assert len(lab.facts()) == 7
        again = Model()
        lab.run(many(50), again)
        assert len(again.asked) == 43

    def test_answers_on_their_way_arrive(self, lab):
        """They are paid; Airflow gives five seconds."""
        model = Held(7, max_concurrency=4)
        run = Background(lab.job(many(50), model))
        assert model.waiting.wait(HANG)
        run.job.stop.request("SIGTERM")
        model.let_go.set()
        run.join()
        assert isinstance(run.error, Stopped)
        assert 8 <= len(lab.facts()) <= 11
        assert len(lab.facts()) == model.calls

    def test_before_the_start_asks_nothing(self, lab):
        """The signal can come while the source is opened."""
        model = Model()
        job = lab.job(many(5), model)
        job.stop.request("SIGTERM")
        with pytest.raises(Stopped):
            job.run()
        assert model.calls == 0

    def test_while_it_writes_publishes_nothing(self, lab):
        """The write pass of a large dataset takes minutes too."""
        job = lab.job(many(5), Model())
        pass_of_writing = job_module.WritePass.batches

        def batches(self):
            job.stop.request("SIGTERM")
            yield from pass_of_writing(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job_module.WritePass, "batches", batches)
            with pytest.raises(Stopped):
                job.run()
        assert lab.names("_distil/manifests/") == []
        assert len(lab.facts()) == 5

    def test_deadline_stops_it(self, lab, monkeypatch):
        """Airflow's own timeout would cut it off without a flush."""
        monkeypatch.setattr(ask_module, "GRACE", 0.05)
        model = Held(3, max_concurrency=4)
        with pytest.raises(Stopped, match="execution_timeout"):
            lab.job(many(50), model).run(deadline=time.monotonic() + 0.5)
        assert len(lab.facts()) == 3

    def test_signal_handler_that_raises_stops_it(self, lab, monkeypatch):
        """Airflow's timeout raises in the main thread, in the middle of whatever it does."""
        monkeypatch.setattr(ask_module, "GRACE", 0.05)
        monkeypatch.setattr(job_module, "REPORT_EVERY", 0.05)
        model = Held(3, max_concurrency=4)

        class Timeout(BaseException):
            pass

        def report(_):
            if model.waiting.is_set():
                raise Timeout

        with pytest.raises(Timeout):
            lab.job(many(50), model).run(report=report)
        assert len(lab.facts()) == 3


class TestSuperseded:
    def test_upload_finds_the_newer_attempt(self, lab, monkeypatch):
        """A cleared task that still runs pays twice for every row until it ends."""
        monkeypatch.setattr(ask_module, "UPLOAD_EVERY", 0.02)

        async def slow(prompt):
            await asyncio.sleep(0.05)
            return prompt

        model = Held(7, say=lambda prompt, _: slow(prompt), max_concurrency=4)
        run = Background(lab.job(many(50), model))
        assert model.waiting.wait(HANG)
        second = lab.job(many(50), Model(), ask=ask(2)).run()
        model.let_go.set()
        run.join()
        assert isinstance(run.error, Superseded)
        assert model.calls < 50
        assert lab.manifest().sha256 == second.sha256
        ids = {(fact.nonce, fact.number) for fact in lab.facts() if fact.claim == 1}
        assert len(ids) == model.calls, "what it paid is kept"

    def test_clock_jump_makes_it_look_before_it_asks(self, lab, monkeypatch):
        """A paused process wakes with answers to send; by its own clock nothing happened."""
        model = Held(7, max_concurrency=1)
        run = Background(lab.job(many(50), model))
        assert model.waiting.wait(HANG)
        begun = Commit(lab.store, IDENTITY, ask(2)).begin("other work")
        now = time.time
        monkeypatch.setattr(ask_module.time, "time", lambda: now() + 3600)
        model.let_go.set()
        run.join()
        assert isinstance(run.error, Superseded)
        assert begun.number == 2
        assert model.calls == 8

    def test_clock_jump_of_the_only_attempt_goes_on(self, lab, monkeypatch):
        """A laptop was closed over lunch."""
        model = Held(7, max_concurrency=1)
        run = Background(lab.job(many(20), model))
        assert model.waiting.wait(HANG)
        now = time.time
        monkeypatch.setattr(ask_module.time, "time", lambda: now() + 3600)
        model.let_go.set()
        run.join()
        assert run.error is None
        assert run.manifest.ok == 20

    def test_deleted_destination_stops_the_spending(self, lab, monkeypatch):
        """The uploading task died of it without a word, and the run paid on for a dataset that could not be published."""
        monkeypatch.setattr(ask_module, "UPLOAD_EVERY", 0.05)
        monkeypatch.setattr(ask_module, "GRACE", 0.05)
        model = Held(7, max_concurrency=4)
        run = Background(lab.job(many(50), model))
        assert model.waiting.wait(HANG)
        lab.store.delete(claim_name(1))
        run.join()
        assert isinstance(run.error, DestinationError)
        assert "deleted while it was being written" in str(run.error)


class TestUploads:
    def test_a_segment_that_is_full_with_the_last_answer_does_not_hold_up_the_end(self, lab, monkeypatch):
        """`wait_for` of Python 3.11 swallowed the cancellation of that moment: the run waited for its uploads for ever."""
        monkeypatch.setattr(ask_module, "SEGMENT_BYTES", 1)
        for rows in (1, 2, 3):
            running = Background(lab.job(many(rows), Model(), ask=ask(rows)))
            running.join()
            assert running.manifest.ok == rows

    def test_before_its_time_goes_only_what_is_full(self, lab, monkeypatch):
        """Of a fast run every other segment was a small one, for each resume to open."""
        for module in (ask_module, facts_module):
            monkeypatch.setattr(module, "SEGMENT_BYTES", 5000)
        monkeypatch.setattr(ask_module, "UPLOAD_EVERY", HANG)
        sizes = []
        encode = facts_module.encode_segment

        def weigh(facts, *covers):
            facts = list(facts)
            sizes.append(sum(len(fact.body) for fact in facts))
            return encode(facts, *covers)

        monkeypatch.setattr(facts_module, "encode_segment", weigh)
        lab.run(many(300), Model(lambda prompt, _: prompt + "x" * 100, max_concurrency=4))
        *before, _rest = sizes
        assert len(before) > 5
        # The rest of each is what its frame has beside the body.
        assert min(before) > 5000 / 2

    def test_an_upload_has_ended_when_the_run_has(self, lab, monkeypatch):
        """One that went on beside what follows put facts twice, and read a file that was closed."""
        monkeypatch.setattr(ask_module, "UPLOAD_EVERY", 0.01)
        uploading, may_end = threading.Event(), threading.Event()
        put = lab.store.put
        under_way = []

        def slow(name, data):
            if "/log/" in name:
                under_way.append(name)
                uploading.set()
                may_end.wait(HANG)
                assert under_way == [name]
                under_way.remove(name)
            put(name, data)

        class Rude(Model):
            async def aclose(self):
                assert await asyncio.to_thread(uploading.wait, HANG)
                threading.Timer(0.05, may_end.set).start()
                raise OSError("cannot close")

        async def patient(prompt):
            await asyncio.to_thread(uploading.wait, HANG)
            return prompt

        monkeypatch.setattr(lab.store, "put", slow)
        model = Rude(lambda prompt, time: patient(prompt) if prompt == "question 29" else prompt)
        run = Background(lab.job(many(30), model))
        run.join()
        assert isinstance(run.error, DistilError | OSError)
        assert not under_way
        assert len(lab.facts()) == 30

    def test_store_that_hiccups_loses_nothing(self, lab, monkeypatch):
        """One 503 in a night must not fail the night."""
        monkeypatch.setattr(ask_module, "UPLOAD_EVERY", 0.02)
        put = lab.store.put
        failures = iter([OSError("503"), OSError("503")])

        def flaky(name, data):
            if "/log/" in name and (error := next(failures, None)):
                raise error
            put(name, data)

        monkeypatch.setattr(lab.store, "put", flaky)
        model = Held(7, max_concurrency=2)
        run = Background(lab.job(many(30), model))
        assert model.waiting.wait(HANG)
        while not lab.facts():
            time.sleep(0.01)
        model.let_go.set()
        run.join()
        assert run.error is None
        assert len({fact.key for fact in lab.facts()}) == 30

    def test_lost_reply_of_an_upload_does_not_stop_the_log(self, lab, monkeypatch):
        """The name was taken, by us, with fewer facts in it: every later upload of the attempt failed on it."""
        monkeypatch.setattr(ask_module, "UPLOAD_EVERY", 0.02)
        put = lab.store.put
        lost = threading.Event()

        def lose(name, data):
            put(name, data)
            if "/log/" in name and not lost.is_set():
                lost.set()
                raise OSError("the reply was lost")

        monkeypatch.setattr(lab.store, "put", lose)
        model = Held(7, max_concurrency=1)
        run = Background(lab.job(many(30), model))
        assert lost.wait(HANG)
        model.let_go.set()
        run.join()
        assert run.error is None
        assert len({(fact.nonce, fact.number) for fact in lab.facts()}) == 30
        again = Model()
        lab.run(many(30), again, TextGeneration(seed=1), ask=ask(2))
        assert again.calls == 0, "copies count once"

    def test_store_that_is_down_ends_the_run(self, lab, monkeypatch):
        """Paying on for what can only be kept on this host is a bet."""
        monkeypatch.setattr(ask_module, "UPLOAD_EVERY", 0.005)
        monkeypatch.setattr(ask_module, "GRACE", 0.05)
        put = lab.store.put

        def down(name, data):
            if "/log/" in name:
                raise OSError("503")
            put(name, data)

        monkeypatch.setattr(lab.store, "put", down)
        run = Background(lab.job(many(50), Held(7, max_concurrency=1)))
        run.join()
        assert isinstance(run.error, DestinationError)
        assert "kept on this host" in str(run.error)
        monkeypatch.setattr(lab.store, "put", put)
        again = Model()
        lab.run(many(50), again)
        assert len(again.asked) == 43

    def test_moment_without_the_store_is_not_a_minute(self, lab, monkeypatch):
        """With much to upload each new fact tried again at once, and all tries were used up within one hiccup."""
        monkeypatch.setattr(ask_module, "SEGMENT_BYTES", 1)
        monkeypatch.setattr(ask_module, "UPLOAD_EVERY", 0.3)
        put = lab.store.put
        tries = []

        def down(name, data):
            if "/log/" in name and len(tries) < 2:
                tries.append(name)
                raise OSError("503")
            put(name, data)

        async def slow(prompt):
            await asyncio.sleep(0.01)
            return prompt

        monkeypatch.setattr(ask_module, "UPLOAD_FAILURES", 2 + 1)
        monkeypatch.setattr(lab.store, "put", down)
        began = time.monotonic()
        lab.run(many(100), Model(lambda prompt, _: slow(prompt), max_concurrency=2))
        assert len(tries) == 2
        assert time.monotonic() - began > 0.3
