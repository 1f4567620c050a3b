"""What an attempt does between Airflow's context and the engine; what is wrong is named before anything is asked."""

from __future__ import annotations

import ast
import json
import os
import re
from types import SimpleNamespace

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_distil import open_dataset
from airflow_distil.engine.stop import Stop
from airflow_distil.operators import ChatGenerationOperator, DistilOperator, TextGenerationOperator
from airflow_distil.operators.attempt import run
from airflow_distil.tasks import Task
from airflow_distil.testing import FakeLLM
from airflow_distil.testing.faults import Fault
from tests.unit.operators.attempts import attempt, context

ROWS = [{"instruction": "one"}, {"instruction": "two"}]


def text(source=ROWS, **arguments):
    return TextGenerationOperator(task_id="task", source=source, **arguments)


def rows(summary):
    return open_dataset(summary).to_table().to_pylist()


class Upper(Task):
    """Reads and writes what a test says."""

    writes: str = "generation"

    @property
    def inputs(self):
        return ["instruction"]

    @property
    def outputs(self):
        return [self.writes]

    def format_input(self, input):
        return [{"role": "user", "content": input["instruction"].upper()}]

    def format_output(self, output, input):
        return {self.writes: output}


REFUSED = {
    "missing column": (
        {"source": [{"question": "?", "id": 1}]},
        r"reads 'instruction'.*columns are 'question', 'id'.*input_mappings",
    ),
    "missing mapped column": ({"input_mappings": {"instruction": "text"}}, r"reads 'text'.*columns are 'instruction'"),
    "collision": ({"source": [{"instruction": "a", "generation": "b"}]}, r"would overwrite 'generation'.*output_mappings=\{"),
    "our columns": ({"output_mappings": {"generation": "distil_row"}}, "'distil_row', which airflow-distil writes itself"),
    "no file": ({"source": "/not/there.jsonl"}, r"no file file:///not/there\.jsonl"),
    "no match": ({"source": "/not/*.jsonl"}, r"no files match file:///not/\*\.jsonl"),
    "no rows": ({"source": []}, "the source has no rows"),
    "empty uri": ({"source": ""}, "URI is empty"),
    "unknown scheme": ({"source": "ftp://host/x.csv"}, "unknown scheme ftp://"),
    "unknown format": ({"source": __file__}, r"\.py"),
    "rendered list": ({"source": "[{'instruction': 'a'}]"}, "looks like a list or dict rendered to text"),
    "one dict": ({"source": {"instruction": "a"}}, r"One row is \[row\]"),
    "columns that are not there": ({"source_columns": ["nope"]}, r"names \['nope'\].*columns are \['instruction'\]"),
    "unknown type": ({"schema": {"instruction": "varchar"}}, "'varchar' of column 'instruction' is no Arrow type"),
    "limit": ({"limit": 0}, "limit=0"),
    "unknown scheme to write": ({"destination": "s4://bucket/x"}, "unknown scheme s4://"),
    "unwritable destination": ({"destination": "/proc/distil"}, "file:///proc/distil cannot be read or written"),
    "native destination": ({"destination": 7}, "destination is 7, a int; it must be text"),
    "unknown parameter": ({"generation_kwargs": {"temprature": 1}}, "Did you mean 'temperature'"),
    "n": ({"generation_kwargs": {"n": 2}}, "use `num_generations`"),
    "model": ({"generation_kwargs": {"model": "x"}}, "use `model`"),
    "messages": ({"generation_kwargs": {"messages": []}}, "the task writes the messages"),
    "response_format": ({"generation_kwargs": {"response_format": {}}}, "use `structured_output`"),
    "stream": ({"generation_kwargs": {"extra_body": {"stream": True}}}, "answers are read whole"),
    "on_existing": ({"on_existing": "replace"}, "must be 'reuse', 'regenerate' or 'fail'"),
    "connection": ({"llm_conn_id": "nowhere"}, "There is no connection 'nowhere'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named_before_anything_is_asked(llm, case):
    """Ten thousand calls were paid before the first row was written and a column was found to be missing."""
    arguments, says = REFUSED[case]
    with pytest.raises(AirflowException, match=f"(?s){says}") as caught:
        attempt(text(**arguments))
    assert str(caught.value).startswith(f"{type(caught.value.__cause__).__name__}: ")
    assert llm.requests == []


def test_an_upstream_that_returned_nothing_is_named(llm):
    """A `source` that a template or an upstream task resolves to None was an error about types."""
    operator = text()
    operator.source = None
    with pytest.raises(AirflowException, match="did the upstream return nothing"):
        attempt(operator)
    assert llm.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(llm, tmp_path):
    """A permission error without a file name is a riddle."""
    (tmp_path / "secret.jsonl").write_text("{}")
    (tmp_path / "secret.jsonl").chmod(0)
    with pytest.raises(AirflowException, match=r"secret\.jsonl cannot be read"):
        attempt(text(f"{tmp_path}/secret.jsonl"))
    assert llm.requests == []


def test_a_broken_file_is_named_with_its_line(llm, tmp_path):
    """The engine asked the first half of a file whose second half is broken."""
    (tmp_path / "half.jsonl").write_text('{"instruction": "a"}\n{"instruction": \n')
    with pytest.raises(AirflowException, match=r"half\.jsonl.*2"):
        attempt(text(f"{tmp_path}/half.jsonl"))
    assert llm.requests == []


def test_no_destination_at_all_says_how_to_set_one(llm, monkeypatch):
    """Rows must never be written to where the worker happens to be."""
    monkeypatch.delenv("AIRFLOW__DISTIL__DATASET_ROOT")
    with pytest.raises(AirflowFailException, match="AIRFLOW__DISTIL__DATASET_ROOT"):
        attempt(text())
    assert llm.requests == []


def test_another_tasks_destination_is_refused(llm, tmp_path):
    """Two tasks that overwrite each other's dataset look like one that changes by itself."""
    attempt(text(destination=f"{tmp_path}/shared"))
    asked = len(llm.requests)
    with pytest.raises(AirflowFailException, match="belongs to task 'task' of DAG 'dag'; this is task 'other'"):
        attempt(text(destination=f"{tmp_path}/shared"), task_id="other")
    assert len(llm.requests) == asked


def test_the_mapping_that_a_collision_prints_works_when_it_is_pasted(llm):
    """Advice that fails in its turn; here with a mapping of the user's that it must keep."""
    source = [{"instruction": "a", "generation": "mine", "judge": "mine too"}]
    mappings = {"model_name": "judge"}
    with pytest.raises(AirflowFailException) as caught:
        attempt(text(source, output_mappings=mappings))
    printed = re.search(r"output_mappings=(\{.*?\})", str(caught.value))
    assert printed
    (row,) = rows(attempt(text(source, output_mappings=ast.literal_eval(printed[1]))))
    assert (row["generation"], row["judge"]) == ("mine", "mine too")
    assert row["text_generation_generation"].startswith("Answer")


def test_a_wrong_type_in_one_row_fails_that_row_with_its_ordinal(llm):
    """One number among texts stopped the whole dataset, or reached the model as text."""
    source = [{"instruction": "fine"}, {"instruction": 5}, {"instruction": "fine, too"}]
    assert [row["distil_status"] for row in rows(attempt(text(source, max_failure_ratio=0.4)))] == ["ok", "failed", "ok"]
    assert len(llm.requests) == 2
    with pytest.raises(AirflowFailException, match=r"TypeError.*\(row 1\)"):
        attempt(text(source, max_failure_ratio=0.3), run_id="another")
    chat = ChatGenerationOperator(
        task_id="task",
        source=[{"messages": [{"role": "user", "content": "hello"}]}, {"messages": "hello"}, {"messages": []}],
        max_failure_ratio=1,
    )
    assert [row["distil_status"] for row in rows(attempt(chat, task_id="chat"))] == ["ok", "failed", "failed"]
    assert len(llm.requests) == 3


def test_the_summary_says_where_and_what_and_is_small(llm):
    """Rows in an XCom end in the metadata database; a missing key breaks downstream and the UI."""
    source = [{"instruction": f"{number} " + "long text " * 1000} for number in range(20)]
    summary = attempt(text(source, model="named"))
    assert set(summary) == {
        "format",
        "uri",
        "manifest",
        "sha256",
        "data_uri",
        "edition",
        "rows",
        "ok",
        "unparsed",
        "failed",
        "skipped",
        "lost",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "paid",
        "model",
        "columns",
        "numbers",
        "page",
    }
    assert json.loads(json.dumps(summary)) == summary
    assert len(json.dumps(summary)) < 4000
    counts = {name: summary[name] for name in ("edition", "rows", "ok", "unparsed", "failed", "skipped")}
    assert counts == {"edition": 1, "rows": 20, "ok": 20, "unparsed": 0, "failed": 0, "skipped": 0}
    assert summary["input_tokens"] == sum(len(row["instruction"].split()) for row in source)
    assert (summary["model"], summary["cost_usd"]) == ("named", None)
    assert summary["uri"].endswith("/root/dag/task/run")
    assert summary["manifest"].startswith(summary["uri"])
    assert summary["data_uri"].startswith(summary["uri"])
    assert list(summary["columns"])[:3] == ["instruction", "generation", "model_name"]


def test_prices_become_cost_and_numbers_are_summed_up(tmp_path, monkeypatch):
    """A cost is known, or it is null; a guess would be believed."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path))

    class Count(Upper):
        output_types = {"generation": int}

        def format_output(self, output, input):
            return {"generation": len(input["instruction"])}

    with FakeLLM(answer="four words of answer") as llm, llm.as_connection(input_price=1_000_000, output_price=10_000_000):
        summary = attempt(
            DistilOperator(task_id="task", source=[{"instruction": "a b"}, {"instruction": "abcde"}], task=Count())
        )
    assert summary["cost_usd"] == 3 + 8 * 10
    assert summary["numbers"] == {"generation": {"min": 3, "max": 5, "mean": 4, "count": 2}}


class Counters(dict):
    """What was counted, by name."""

    def incr(self, name, count, *, tags):
        assert tags == {"dag_id": "dag", "task_id": "task"}
        assert isinstance(count, int)
        self[name] = self.get(name, 0) + count


@pytest.fixture
def counters(monkeypatch):
    """Airflow's metrics."""
    counters = Counters()
    monkeypatch.setattr("airflow.sdk.observability.stats.Stats", counters)
    return counters


def test_a_budget_that_is_spent_is_final_and_says_how_to_go_on(tmp_path, monkeypatch, counters):
    """Airflow's retries found it spent one after the other; and what one of them paid, the next counted again."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path))
    source = [{"instruction": f"row {number}"} for number in range(20)]
    with FakeLLM(answer="one") as llm, llm.as_connection(input_price=0, output_price=1_000_000):
        for number, limit in enumerate((9, 9, 14.0), 1):
            with pytest.raises(AirflowFailException, match=r"^BudgetExceeded: max_cost_usd=.* raise the limit and clear"):
                attempt(text(source, max_cost_usd=limit), try_number=number)
            assert len(llm.requests) == limit
        summary = attempt(text(source), try_number=4)
        assert attempt(text(source), try_number=5) == summary
    assert (summary["cost_usd"], summary["paid"]["cost_usd"], summary["paid"]["answers"]) == (20.0, 20.0, 20)
    # Over all attempts, each answer is counted once.
    assert counters == {
        "distil.answers": 20,
        "distil.tokens.input": 40,
        "distil.tokens.output": 20,
        "distil.cost.microusd": 20_000_000,
    }


def test_what_is_paid_is_counted_while_it_runs(llm, counters, monkeypatch):
    """Of an attempt that was killed after hours, nothing was in the metrics."""
    from airflow_distil.engine.budget import Paid
    from airflow_distil.operators.metrics import Metrics

    metrics, paid = Metrics(context()["ti"]), Paid()
    for number in range(1, 4):
        paid.add(10, None, 0.0000014)
        metrics.emit(paid)
        assert counters == {
            "distil.answers": number,
            "distil.tokens.input": 10 * number,
            "distil.cost.microusd": round(1.4 * number),
        }


def test_mapped_instances_write_below_their_index(llm, tmp_path):
    """Two instances in one folder would supersede each other for ever."""
    operator = text(destination=f"{tmp_path}/out/")
    summaries = [attempt(operator, map_index=index) for index in (0, 12)]
    assert [summary["uri"] for summary in summaries] == [f"file://{tmp_path}/out/map-{index}" for index in ("00000", "00012")]
    assert [row["distil_map"] for row in rows(summaries)] == [0, 0, 12, 12]


def test_default_destination_is_one_folder_for_each_part(llm):
    """A slash or a colon in a run id made folders that another run id could share."""
    summary = attempt(text(), run_id="manual__2026-01-01T00:00:00+00:00/x", task_id="group.task")
    assert summary["uri"].endswith("/root/dag/group.task/manual__2026-01-01T00%3A00%3A00%2B00%3A00%2Fx")
    assert len(rows(summary)) == 2


FAILURES = {
    "wrong key": (lambda: [Fault(status=401, times=None)], AirflowFailException, "Fatal"),
    "no such model": (lambda: [Fault(status=404, times=None)], AirflowFailException, "Fatal"),
    "refused rows": (lambda: [Fault(status=400, times=None)], AirflowFailException, "TooManyFailures"),
    "come back in an hour": (
        lambda: [Fault(status=429, times=None, headers={"Retry-After": "3600"})],
        AirflowException,
        "QuotaExceeded",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_only_what_would_fail_again_is_final(tmp_path, monkeypatch, case):
    """Airflow's retries are wasted on a wrong key; and without one, a provider's bad hour fails the night."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path))
    faults, expected, name = FAILURES[case]
    with FakeLLM(faults=faults()) as llm, llm.as_connection(), pytest.raises(AirflowException) as caught:
        attempt(text())
    assert type(caught.value) is expected
    assert str(caught.value).startswith(f"{name}: ")
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_ratio_decides_what_is_published(tmp_path, monkeypatch):
    """Half of a dataset was published, or a good one refused for one bad row in twenty."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path))
    source = [{"instruction": f"row {number}"} for number in range(20)]

    def refuses(count):
        return [Fault(status=400, times=None, when=lambda said: int(said[-1]["content"].split()[1]) < count)]

    with FakeLLM(faults=refuses(1)) as llm, llm.as_connection():
        summary = attempt(text(source))
    assert (summary["ok"], summary["failed"]) == (19, 1)
    with FakeLLM(faults=refuses(2)) as llm, llm.as_connection(), pytest.raises(AirflowFailException, match=r"2 failed.*0\.05"):
        attempt(text(source), run_id="worse")


def test_declared_assets_carry_the_summary(llm):
    """A consumer of the asset has to know which edition the event was about."""
    asset, said = Asset("dataset"), SimpleNamespace(extra=None)
    operator = text([{"instruction": "a"}], outlets=[asset])
    operator.source = [{"instruction": "a"}]
    given = context()
    given["outlet_events"] = {asset: said}
    summary = run(operator, given, Stop())
    assert said.extra == summary
    assert said.extra["uri"].endswith("/dag/task/run")
    assert given["ti"].xcoms["distil_progress"]["done"] == 1


def test_progress_that_cannot_be_pushed_does_not_end_the_run(llm):
    """An API server that is busy for a moment must not cost a dataset."""

    def fails(key, value):
        raise ConnectionError("busy")

    assert attempt(text(), xcom_push=fails)["ok"] == 2


def test_a_clear_asks_only_what_is_missing_and_a_retry_nothing_more(tmp_path, monkeypatch):
    """Clearing a finished task in the UI paid for everything again, or kept failed rows for ever."""
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path))
    source = [{"instruction": f"row {number}"} for number in range(5)]
    bad = Fault(status=400, times=1, when=lambda said: said[-1]["content"] == "row 3")
    with FakeLLM(faults=[bad]) as llm, llm.as_connection():
        first = attempt(text(source, max_failure_ratio=0.5))
        assert (first["ok"], first["failed"], len(llm.requests)) == (4, 1, 5)
        assert attempt(text(source, max_failure_ratio=0.5), try_number=2) == first
        assert len(llm.requests) == 5
        second = attempt(text(source, max_failure_ratio=0.5), try_number=2, max_tries=1, started="tuesday")
        assert (second["ok"], second["edition"], len(llm.requests)) == (5, 2, 6)
        assert attempt(text(source), max_tries=2, started="wednesday") == second
        assert len(llm.requests) == 6
        third = attempt(text(source, on_existing="regenerate"), max_tries=3)
        assert (third["edition"], len(llm.requests)) == (3, 11)
        with pytest.raises(AirflowFailException, match="on_existing is 'fail'"):
            attempt(text(source, on_existing="fail"), max_tries=4)
        assert len(llm.requests) == 11


def test_a_page_is_announced_before_anything_can_go_wrong(llm):
    """The link to a task that failed at once, or that is still running, led nowhere."""
    given = context(map_index=3)
    operator = text()
    operator.source = "/no/such/file.jsonl"
    with pytest.raises(AirflowException):
        run(operator, given, Stop())
    xcoms = given["ti"].xcoms
    assert xcoms["_link_DatasetLink"] == "/distil/page?dag_id=dag&run_id=run&task_id=task&map_index=3"
    assert (xcoms["distil_progress"]["phase"], xcoms["distil_progress"]["error"]) == ("failed", "SourceError")
    assert xcoms["distil_progress"]["destination"].endswith("/dag/task/run/map-00003")


def test_the_link_is_the_announced_page(llm, monkeypatch):
    """Airflow asks for the link when a task has ended: another address than before would be a second page."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://company.example/air/")
    given = context()
    given["ti"].run_id = "manual__2026-01-01T00:00:00+00:00"
    operator = text()
    operator.source = [{"instruction": "a"}]
    summary = run(operator, given, Stop())
    (link,) = operator.operator_extra_links
    key = SimpleNamespace(dag_id="dag", task_id="task", run_id=given["ti"].run_id, map_index=-1)
    assert link.get_link(operator, ti_key=key) == given["ti"].xcoms[link.xcom_key] == summary["page"]
    assert summary["page"].startswith(
        "https://company.example/air/distil/page?dag_id=dag&run_id=manual__2026-01-01T00%3A00%3A00%2B"
    )
