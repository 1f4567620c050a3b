"""The operators, the decorator, `open_dataset` and `publish` in DAGs that Airflow runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.models.asset import AssetEvent
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_distil import open_dataset
from airflow_distil.testing import FakeLLM
from airflow_distil.testing.faults import Fault
from tests.exits import everything_in, forms_of
from tests.system.dagtest import clear, database_text, load, run

DAGS = Path(__file__).with_name("dags")
EXAMPLES = Path(__file__).parents[2] / "dags"
KEY, HEADER = "sk-5ecret0key0that0nobody0may0see", "h3ader-s3cret-too"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, airflow_db):
    """A folder that DAG files find by the environment, with a dataset root and the files that they read."""
    folder = tmp_path_factory.mktemp("operators")
    (folder / "2026-01-01.jsonl").write_text('{"instruction": "from a file"}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTIL_TEST_FOLDER", str(folder))
        patch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(folder / "root"))
        patch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", str(folder / "scratch"))
        yield folder


@pytest.fixture(scope="module")
def dags(folder, airflow_db):
    """The DAGs of `dags/operators.py`."""
    return load(airflow_db, DAGS / "operators.py")


@pytest.fixture(scope="module")
def llm():
    """A model that repeats what it is told, or gives a verdict as JSON."""

    def answer(messages):
        text = messages[-1]["content"]
        return {"verdict": "fine", "score": 0.5} if "JSON" in text else f"<{text}>"

    with FakeLLM(answer) as llm, llm.as_connection():
        yield llm


@pytest.fixture(scope="module")
def straight(dags, llm):
    """The finished run of the DAG without mapping."""
    return run(dags["straight"])


@pytest.fixture(scope="module")
def mapped(dags, llm):
    """The finished run of the DAG with mapping."""
    return run(dags["mapped"])


def column(summary, name):
    return open_dataset(summary).to_table().column(name).to_pylist()


def test_every_kind_of_task_runs_to_its_end(straight):
    """An operator that only works when it is called by hand."""
    assert set(straight.states.values()) == {"success"}
    assert straight.state == "success"
    assert {name for name, xcom in straight.xcoms.items() if isinstance(xcom, dict)} == {
        "text", "chat", "own", "structured", "schema", "summarise", "both", "mixed",
    }  # fmt: skip


def test_row_text_with_braces_reaches_the_model_as_it_is(straight, mapped):
    """Literal rows in a template field are rendered: `6 * 7` became 42 before the model saw it."""
    text = straight.xcoms["text"]
    assert column(text, "question") == ["What is {{ 6 * 7 }}?", "Why {% raw %}?"]
    assert column(text, "generation") == ["<Q: What is {{ 6 * 7 }}?>", "<Q: Why {% raw %}?>"]
    assert column(straight.xcoms["chat"], "generation") == ["<{{ ds }}>"]
    assert column(mapped.xcoms["sources"][0], "generation") == ["<{{ 1 + 1 }} a>", "<b>"]
    assert column(mapped.xcoms["fields"][0], "generation") == ["<{{ ds }}>"]
    assert column(mapped.xcoms["own"][0], "shout") == ["<SHOUT: X {{ DS }}!>"]
    assert column(mapped.xcoms["upstream_rows"][0], "generation") == ["<{{ ds }} one>"]
    assert column(mapped.xcoms["echo"][0], "echo") == ["<echo {{ ds }}>"]


def test_default_args_of_the_dag_reach_the_task(straight):
    """`columns` came from the DAG's default_args; without them the template would see another column."""
    assert straight.xcoms["text"]["ok"] == 2


def test_a_task_class_from_the_dag_file_and_a_chain_with_mappings(straight):
    """A class of a DAG file lives in a module with a made-up name, and its rows come from another task."""
    assert column(straight.xcoms["own"], "shout") == ["<SHOUT: <Q: WHAT IS {{ 6 * 7 }}?>?!>", "<SHOUT: <Q: WHY {% RAW %}?>?!>"]
    assert "generation" in straight.xcoms["own"]["columns"]


def test_structured_output_is_sent_and_checked(straight, llm):
    """A pydantic model or a schema that is not sent, or sent as its repr."""
    formats = [body["response_format"] for body in llm.requests if "JSON" in body["messages"][-1]["content"]]
    names = sorted(each["json_schema"]["name"] for each in formats)
    assert names == ["Verdict", "text_generation"]
    assert {each["type"] for each in formats} == {"json_schema"}
    assert json.loads(column(straight.xcoms["structured"], "generation")[0]) == {"verdict": "fine", "score": 0.5}


def test_the_decorated_function_is_a_conversation(straight, folder):
    """Its second turn got another sample's first answer, or its columns another type."""
    summary = straight.xcoms["summarise"]
    assert summary["uri"] == f"file://{folder}/decorated"
    assert summary["rows"] == 4
    assert column(summary, "distil_sample") == [0, 1, 0, 1]
    assert column(summary, "summary")[2] == "<Shorter: <Summarise Why {% raw %}? True>>"
    assert summary["columns"]["length"] == "int64"
    assert [len(each) for each in column(summary, "distil_metadata")] == [3, 3, 3, 3]


def test_lists_hold_xcoms_and_rows(straight):
    """An XCom inside a list was not waited for, or reached the task as its repr."""
    assert column(straight.xcoms["both"], "question") == ["What is {{ 6 * 7 }}?", "Why {% raw %}?"] * 2
    assert column(straight.xcoms["mixed"], "question") == ["{{ 1 }}", "{{ 2 }}", "three"]


def test_progress_and_asset_event(straight):
    """What the UI and consumers of the asset read."""
    progress = straight.progress["summarise"]
    assert (progress["done"], progress["total"], progress["ok"], progress["phase"]) == (4, 4, 4, "published")
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_dag_id == "straight")).all()
    assert [(event.source_task_id, event.extra) for event in events] == [("text", straight.xcoms["text"])]


def test_mapped_instances_have_destinations_of_their_own(mapped, folder):
    """Two instances in one folder supersede each other for ever."""
    assert mapped.state == "success"
    assert [mapped.xcoms["sources"][index]["uri"] for index in range(3)] == [
        f"file://{folder}/mapped/2026-01-01/map-0000{index}" for index in range(3)
    ]
    assert column(mapped.xcoms["sources"][2], "generation") == ["<from a file>"]


def test_a_mapped_upstream_is_one_source_in_order(mapped):
    """What a mapped upstream gives is a lazy sequence, which is no list."""
    assert column(mapped.xcoms["reduce"], "reduced") == ["<<{{ 1 + 1 }} a>>", "<<b>>", "<<c>>", "<<from a file>>"]
    per_summary = mapped.xcoms["per_summary"]
    assert [column(per_summary[index], "third")[-1] for index in range(3)] == [
        "<Per: <b>>",
        "<Per: <c>>",
        "<Per: <from a file>>",
    ]


def test_fields_models_and_tasks_can_be_mapped_over(mapped):
    """Arguments that are known at run time only must still reach the task."""
    assert [mapped.xcoms["fields"][index]["rows"] for index in range(3)] == [1, 2, 3]
    assert [mapped.xcoms["chained"][index]["model"] for index in range(2)] == ["four", "4"]
    assert [mapped.xcoms["own"][index]["model"] for index in range(2)] == ["m1", "m2"]
    assert [column(mapped.xcoms["tasks"][index], "shout") for index in range(2)] == [["<SHOUT: X1>"], ["<SHOUT: X2>"]]


def test_native_rendering_keeps_names_text_and_lists_lists(dags, llm, folder):
    """A model named "4" became a number; a list of summaries became its text."""
    asked = len(llm.requests)
    done = run(dags["native"])
    assert done.state == "success"
    assert done.xcoms["first"]["uri"] == f"file://{folder}/native/7"
    assert column(done.xcoms["listed"], "second") == ["<<{{ 1 }}>>"] * 2
    assert [done.xcoms["number"][index]["model"] for index in range(2)] == ["4", "5"]
    assert {type(body["model"]) for body in llm.requests[asked:]} == {str}


def test_mapping_over_one_summary_says_what_to_write(dags, llm, capfd):
    """Airflow maps over the summary's keys; the message must not be about URIs."""
    asked = len(llm.requests)
    done = run(dags["one_summary_expanded"])
    assert set(done.states["wrongly"].values()) == {"failed"}
    assert len(llm.requests) == asked + 1
    assert "Pass it whole, without mapping: source=upstream.output" in capfd.readouterr().out


def test_a_clear_asks_exactly_what_is_not_ok(folder, airflow_db):
    """Clearing a finished task in the UI paid for all rows again, or none of the failed ones."""
    first_time = {"row 2": "maybe", "row 4": "maybe"}
    bad = Fault(status=400, times=1, when=lambda messages: messages[-1]["content"].endswith("row 5"))

    def answer(messages):
        text = messages[-1]["content"].removeprefix("One word: ")
        return first_time.pop(text, text.upper())

    dag = load(airflow_db, DAGS / "edited.py")["edited"]
    with FakeLLM(answer, faults=[bad]) as llm, llm.as_connection():
        done = run(dag).xcoms["classify"]
        assert (done["ok"], done["unparsed"], done["failed"], len(llm.requests)) == (3, 2, 1, 6)
        done = clear(dag).xcoms["classify"]
        assert (done["ok"], done["edition"]) == (6, 2)
        asked = [body["messages"][-1]["content"].removeprefix("One word: ") for body in llm.requests[6:]]
        assert sorted(asked) == ["row 2", "row 4", "row 5"]
        assert clear(dag).xcoms["classify"] == done
        assert len(llm.requests) == 9

        edited = folder / "edited.py"
        edited.write_text((DAGS / "edited.py").read_text().replace('"maybe" else output', '"maybe" else f"{output}!"'))
        done = clear(load(airflow_db, edited)["edited"]).xcoms["classify"]
        assert len(llm.requests) == 9
    assert done["edition"] == 3
    assert column(done, "word") == [f"ROW {number}!" for number in range(6)]


def test_a_budget_stops_and_goes_on_when_it_is_raised(folder, airflow_db, capfd):
    """A budget that is spent was spent again by each retry, or after it was raised, by the clear."""

    def answer(messages):
        return "one"

    dag = load(airflow_db, DAGS / "budget.py")["budget"]
    # A dollar for each answer: it has one word.
    with FakeLLM(answer) as llm, llm.as_connection(input_price=0, output_price=1_000_000):
        stopped = run(dag)
        assert stopped.states["answers"] == "failed"  # with three retries left
        assert len(llm.requests) == 12
        said = capfd.readouterr().out
        assert "BudgetExceeded: max_cost_usd=12 is used up" in said
        assert "12 of 30 rows are done" in said
        raised = folder / "budget.py"
        raised.write_text((DAGS / "budget.py").read_text().replace("MAX_COST_USD = 12.0", "MAX_COST_USD = 30.0"))
        done = clear(load(airflow_db, raised)["budget"])
        assert done.states["answers"] == "success"
    asked = [body["messages"][-1]["content"] for body in llm.requests]
    assert sorted(asked) == sorted(f"row {number}" for number in range(30))
    summary = done.xcoms["answers"]
    assert (summary["ok"], summary["cost_usd"]) == (30, 30.0)
    assert summary["paid"] == {"answers": 30, "input_tokens": 60, "output_tokens": 30, "cost_usd": 30.0}
    assert done.progress["answers"]["max_cost_usd"] == 30.0


def test_the_duckdb_example(airflow_db, folder):
    """The example of the documentation does not work, or joins rows that do not belong together."""
    dag = load(airflow_db, EXAMPLES / "duckdb_steps.py")["duckdb_steps"]

    def answer(messages):
        text = messages[-1]["content"]
        return f"question of {text.partition(chr(10))[0]}" if "question" in text else f"summary of {text.partition(': ')[2]}"

    with FakeLLM(answer) as llm, llm.as_connection():
        done = run(dag)
    assert done.state == "success"
    facts = column(done.xcoms["explode"], "fact")
    assert len(facts) == 6
    for joined in (done.xcoms["join"], done.xcoms["join_mapped"]):
        rows = open_dataset(joined).to_table().to_pylist()
        assert [row["fact"] for row in rows] == facts
        assert all(row["question"] == f"question of {row['fact']}" for row in rows)
        assert all(row["summary"] == f"summary of {row['fact']}" for row in rows)
    assert column(done.xcoms["keep_short"], "fact") == [fact for fact in facts if len(fact) < 30]


def connection(host, key=KEY, **extra):
    return json.dumps(
        {
            "conn_type": "distil_llm",
            "host": host,
            "password": key,
            "extra": {"model": "m", "headers": {"X-Key": HEADER}, **extra},
        }
    )


def test_the_key_is_nowhere(folder, airflow_db, monkeypatch, capfd):
    """A key in a log, an error column, an XCom, a manifest or the serialized DAG is a key for everybody."""
    monkeypatch.setattr("airflow_distil.engine.asking.FIRST_WAIT", 0.001)
    monkeypatch.setattr("airflow_distil.engine.asking.LONGEST_WAIT", 0.001)
    echo = {"error": {"message": f"cannot serve {KEY} with {HEADER}", "code": None}}
    refuses = Fault(status=400, times=None, body=echo, when=lambda messages: messages[-1]["content"].startswith("bad_rows"))
    with FakeLLM(faults=[refuses], api_key=KEY) as llm:
        hosts = {"works": llm.base_url, "wrong_key": llm.base_url, "bad_rows": llm.base_url, "typo": llm.base_url}
        hosts["unreachable"] = "http://127.0.0.1:9/v1"
        hosts["in_query"] = f"http://127.0.0.1:9/v1?key={KEY}"
        hosts["in_url"] = f"http://user:{KEY}@127.0.0.1:9/v1"
        for case, host in hosts.items():
            key = f"{KEY}-but-wrong" if case == "wrong_key" else KEY
            extra = {"timeoutt": KEY} if case == "typo" else {}
            monkeypatch.setenv(f"AIRFLOW_CONN_LEAK_{case.upper()}", connection(host, key, **extra))
        dag = load(airflow_db, DAGS / "leaks.py")["leaks"]
        done = run(dag)
    succeed, fail = ("works", "bad_rows", "unreachable"), ("wrong_key", "typo", "in_url", "in_query")
    assert done.states == {**dict.fromkeys(succeed, "success"), **dict.fromkeys(fail, "failed"), "mapped": {0: "success"}}
    printed = capfd.readouterr()
    searched = {
        "output": printed.out + printed.err,
        "database": database_text(airflow_db),
        "serialized": json.dumps(DagSerialization.to_dict(dag), default=str),
        "xcoms": str(done.xcoms),
    }
    found = list(everything_in(folder)) + list(everything_in(airflow_db / "logs"))
    # Had they been empty, nothing would have been found in them.
    assert "status 400" in str(column(done.xcoms["bad_rows"], "distil_error"))
    assert "status 401" in searched["output"]
    assert "Connect" in str(column(done.xcoms["unreachable"], "distil_error"))
    assert any(name.endswith(".arrow") and "cannot serve *** with ***" in text for name, text in found)
    assert {Path(name).suffix for name, _ in found} >= {".arrow", ".json", ".parquet"}
    assert "bad_rows 1" in searched["database"]
    for place, text in [*searched.items(), *found]:
        for form in forms_of(KEY) | forms_of(HEADER):
            assert form not in text, f"{place}: …{text[max(0, text.find(form) - 300) : text.find(form) + 50]}…"
