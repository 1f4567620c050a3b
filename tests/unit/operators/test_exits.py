"""Keys go in through connections and must not come out again, nor must what others wrote pass for our own words."""

from __future__ import annotations

import base64
import html
import json
import logging
import traceback
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import pytest
from aiohttp import web
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException
from airflow.serialization.serialized_objects import DagSerialization

from airflow_distil import open_dataset
from airflow_distil.engine.progress import REASON_LENGTH
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.operators import TextGenerationOperator
from airflow_distil.tasks import TextGeneration
from airflow_distil.testing import FakeLLM
from airflow_distil.testing.faults import Fault
from tests.conftest import HOME
from tests.contracts.stores.serving import Reply, serving
from tests.exits import everything_in, forms_of, frames_of
from tests.unit.operators.attempts import attempt, context, resolved

# Odd characters, so that each encoding changes them; recognisable, so that a find is no chance.
KEY = "sk-Exit+0123/4567?89==&x"
HEADER = "hdr/Exit+abcdef&ghijkl="
ROWS = [{"instruction": f"question {number}"} for number in range(3)]


@dataclass(frozen=True, kw_only=True)
class Echo:
    """A reply that repeats the headers of its request, in some form."""

    status: int = 400
    form: Any = str
    page: bool = False
    times: int | None = None
    when: Any = None

    async def strike(self, request: web.BaseRequest, _reply: bytes, /) -> web.StreamResponse:
        echo = " ".join(self.form(value) for name, value in request.headers.items() if name in {"Authorization", "X-Key"})
        if self.page:
            return web.Response(status=self.status, text=f"<html>{echo}</html>", content_type="text/html")
        body = json.dumps({"error": {"message": f"you sent {echo}", "code": None}})
        return web.Response(status=self.status, text=body, content_type="application/json", headers={"X-Echo": KEY})


FORMS = {
    "as such": str,
    "url": quote_plus,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of the key": lambda text: base64.b64encode(text.rpartition(" ")[2].encode()).decode(),
    "html": html.escape,
    "repr": repr,
    "json": lambda text: json.dumps({"sent": text}),
    "lines": lambda text: "\n".join(text.split()),
}


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr("airflow_distil.engine.asking.FIRST_WAIT", 0.0001)
    monkeypatch.setattr("airflow_distil.engine.asking.LONGEST_WAIT", 0.0001)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", str(tmp_path / "scratch"))
    return tmp_path


def connect(monkeypatch, host: str, **fields: Any) -> None:
    extra = {"model": "m", "headers": {"X-Key": HEADER}, **fields.pop("extra", {})}
    connection = {"conn_type": "distil_llm", "host": host, "password": KEY, "extra": extra, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_DISTIL_LLM_DEFAULT", json.dumps(connection))


def run(operator: TextGenerationOperator, of: Any) -> tuple[Any, BaseException | None]:
    operator.source = resolved(operator.source)
    try:
        return operator.execute(of), None
    except AirflowException as error:
        return None, error


def search(folders, caplog, operator, of, summary, error) -> dict[str, str]:
    """Return every place where the attempt left something, by name; no secret may be in any."""
    with DAG("exits", schedule=None) as dag:
        TextGenerationOperator(task_id="t", source=ROWS, task_display_name=repr(operator))
    places = {
        "log": caplog.text + "".join(f"{record.__dict__}" for record in caplog.records),
        "summary": str(summary),
        "xcoms": str(of["ti"].xcoms),
        "error": "".join(traceback.format_exception(error)) if error else "",
        "frames": frames_of(error) if error else "",
        "operator": repr(operator) + str(vars(operator.task)),
        "dag": json.dumps(DagSerialization.to_dict(dag), default=str),
        **{
            f"{folder} {number}": text
            for folder in (folders, HOME / "logs")
            for number, text in enumerate(everything_in(folder))
        },
    }
    for place, text in places.items():
        for secret in (KEY, HEADER):
            for form in forms_of(secret):
                at = str(text).find(form)
                assert at < 0, f"{place}: …{str(text)[max(0, at - 300) : at + 80]}…"
    return places


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 422, 429, 500, 503])
@pytest.mark.parametrize("page", [False, True], ids=["json", "page"])
def test_no_echo_of_an_endpoint_comes_out(folders, monkeypatch, caplog, form, status, page):
    """Endpoints and gateways repeat what they were sent, in all forms; many read error columns, logs, facts, manifests."""
    caplog.set_level(logging.DEBUG, "airflow_distil")
    monkeypatch.setattr("airflow_distil.engine.asking.TRIES", 2)
    monkeypatch.setattr("airflow_distil.engine.asking.PATIENCE", 0.01)
    with FakeLLM(faults=[Echo(status=status, form=FORMS[form], page=page)]) as server:
        connect(monkeypatch, server.base_url)
        operator, of = TextGenerationOperator(task_id="t", source=ROWS, max_failure_ratio=1, add_raw_input=True), context()
        summary, error = run(operator, of)
        places = search(folders, caplog, operator, of, summary, error)
    assert "***" in str(places)


WRONG: dict[str, dict[str, Any]] = {
    "password in the host": {"host": f"https://user:{KEY}@127.0.0.1:9/v1"},
    "password with a slash in the host": {"host": "http://user:" + KEY + "@127.0.0.1:9/v1", "port": 9},
    "password without a scheme": {"host": f"user:{KEY}@127.0.0.1"},
    "key in the query": {"host": f"http://127.0.0.1:9/v1?key={quote_plus(KEY)}"},
    "signature in the query": {"host": f"http://127.0.0.1:9/v1?sig={KEY}"},
    "unreachable": {"host": "http://127.0.0.1:9/v1"},
    "no such scheme": {"host": f"ftp://user:{KEY}@h"},
    "unknown field": {"extra": {"timeoutt": KEY}},
    "key as a number": {"extra": {"timeout": KEY}},
    "headers as text": {"extra": {"headers": f"X-Key: {HEADER}"}},
    "header that is none": {"extra": {"headers": {"X Key\n": HEADER}}},
    "azure without a version": {"extra": {"backend": "azure", "api_version": ""}},
    "local with headers": {"extra": {"backend": "transformers"}},
    "device": {"extra": {"device": "cpu"}},
    "another type": {"conn_type": "postgres"},
    "pydanticai": {"conn_type": "pydanticai", "extra": {"model": "anthropic:claude"}},
}


@pytest.mark.parametrize("case", WRONG)
def test_no_mistake_in_a_connection_shows_its_key(folders, monkeypatch, caplog, case):
    """Whoever writes a connection makes mistakes, and the message about one is the first thing that goes into a ticket."""
    caplog.set_level(logging.DEBUG, "airflow_distil")
    monkeypatch.setattr("airflow_distil.engine.asking.TRIES", 2)
    connect(monkeypatch, **{"host": "http://127.0.0.1:9/v1", **WRONG[case]})
    operator, of = TextGenerationOperator(task_id="t", source=ROWS), context()
    summary, error = run(operator, of)
    assert error is not None
    search(folders, caplog, operator, of, summary, error)


SUMMARY = {"format": "airflow-distil/1", "uri": "gs://b/x", "manifest": "gs://b/x/_distil/manifests/000001.json", "sha256": "0"}
SIGNED = f"https://b.s3.amazonaws.com/x.jsonl?X-Amz-Signature={KEY}"
URIS: dict[str, dict[str, Any]] = {
    "source": {"source": f"s3://AKIA:{KEY}@bucket/x.jsonl"},
    "source without a scheme": {"source": f"AKIA:{KEY}@bucket/x.jsonl"},
    "presigned source": {"source": SIGNED},
    "glob": {"source": f"gs://user:{KEY}@bucket/*.jsonl"},
    "list": {"source": ["gs://bucket/x", f"gs://user:{KEY}@bucket/x"]},
    "list as text": {"source": f"['gs://user:{KEY}@bucket/x']"},
    "summary": {"source": [SUMMARY | {"uri": f"gs://user:{KEY}@bucket"}]},
    "manifest of a summary": {"source": [SUMMARY | {"manifest": SIGNED}]},
    "data of a summary": {"source": [{**SUMMARY, "manifest": None, "data_uri": f"gs://user:{KEY}@bucket"}]},
    "destination": {"destination": f"gs://user:{KEY}@bucket"},
    "destination with a token": {"destination": f"gs://bucket/x?token={KEY}"},
    "destination of https": {"destination": f"https://user:{KEY}@host/x"},
    "dataset_root": {"root": f"s3://AKIA:{KEY}@bucket"},
}


@pytest.mark.parametrize("case", URIS)
def test_no_uri_with_a_secret_is_repeated(folders, monkeypatch, caplog, case):
    """A URI is in messages, rendered fields, XComs and manifests. It is refused, with where the secret belongs."""
    arguments = {"source": ROWS, **URIS[case]}
    if root := arguments.pop("root", None):
        monkeypatch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", root)
    with FakeLLM() as server:
        connect(monkeypatch, server.base_url)
        with pytest.raises((TaskDefinitionError, AirflowException), match=r"connection|not complete") as raised:
            attempt(TextGenerationOperator(task_id="t", **arguments))
        assert not server.requests
    assert not any(form in "".join(traceback.format_exception(raised.value)) + caplog.text for form in forms_of(KEY))
    if case in {"source", "presigned source", "glob", "list", "destination"}:
        # Before it is in the serialized DAG.
        with pytest.raises(TaskDefinitionError, match=r"^Task 't': (source|destination) carries credentials .* connection"):
            TextGenerationOperator(task_id="t", **arguments)


def test_no_reply_of_a_store_comes_out(folders, monkeypatch, caplog):
    """S3 repeats an expired session token in its reply."""

    def refuse(request: Any) -> Reply:
        echo = html.escape(str(request.headers["x-amz-security-token"]))
        page = f"<Error><Code>ExpiredToken</Code><Message>It has expired</Message><Token-0>{echo}</Token-0></Error>"
        return Reply(400, page.encode())

    fields = {"login": "AKIA", "password": HEADER, "extra": {"aws_session_token": KEY, "region_name": "eu-west-1"}}
    with serving(refuse) as url, FakeLLM() as server:
        fields["extra"]["endpoint_url"] = url
        monkeypatch.setenv("AIRFLOW_CONN_MY_AWS", json.dumps({"conn_type": "aws", **fields}))
        connect(monkeypatch, server.base_url)
        operator, of = TextGenerationOperator(task_id="t", source="s3://my_aws@bucket/x.jsonl"), context()
        summary, error = run(operator, of)
    assert "cannot be read" in str(error)
    search(folders, caplog, operator, of, summary, error)


HOSTILE = [
    "{{ var.value.secret }}{% for x in range(9) %}x{% endfor %}",
    'Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 1',
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "fine\n[2026-01-01T00:00:00] {taskinstance.py:1} ERROR - forged\r\n::group::x\n::endgroup::",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "%s %d %(name)s {0} {name} {0.__class__}",
    "\u2028line\u0085line\u202eesrever",
    "'\"`;$(rm -rf /)\\",
    "null\0byte",
]


class Picky(TextGeneration):
    """Reads nothing, and says what it was given."""

    def format_output(self, output: str | None, input: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"cannot read {output} of {input['instruction']}")


def of_one_line(text: str) -> bool:
    return len(text.splitlines()) <= 1 and all(character.isprintable() or character in "\u200d\u3000\xa0" for character in text)


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("fate", ["ok", "unparsed", "failed", "too many"])
def test_what_others_wrote_is_only_data(folders, monkeypatch, caplog, hostile, fate):
    """Text of a row, an answer or an endpoint's error passed for a line of the log, a template, a terminal's command."""
    caplog.set_level(logging.DEBUG, "airflow_distil")
    refuses = [Fault(status=400, times=None, body={"error": {"message": hostile, "code": hostile}})]
    source = folders / "rows.jsonl"
    source.write_text(json.dumps({"instruction": hostile, "n": 1}) + "\n")
    with FakeLLM(
        answer=lambda messages: messages[-1]["content"], faults=refuses if fate in {"failed", "too many"} else []
    ) as llm:
        connect(monkeypatch, llm.base_url)
        ratio = 0 if fate == "too many" else 1
        operator, of = TextGenerationOperator(task_id="t", source=str(source), max_failure_ratio=ratio), context()
        operator.task = Picky() if fate == "unparsed" else operator.task
        summary, error = run(operator, of)
        assert [message["content"] for message in llm.requests[0]["messages"]] == [hostile]
    for record in caplog.records:
        assert of_one_line(record.getMessage()), record.getMessage()
    words = max(hostile.split(), key=len)
    assert words not in str(of["ti"].xcoms)
    if fate == "too many":
        assert isinstance(error, AirflowException)
        assert of_one_line(str(error))
        return
    assert error is None
    assert words not in json.dumps(summary)
    [row] = open_dataset(summary).to_table().to_pylist()
    assert row["instruction"] == hostile
    assert row["distil_status"] == fate
    assert row["generation"] == (hostile if fate == "ok" else None)
    assert fate == "ok" or of_one_line(row["distil_error"])
    [reasons] = [json.loads(path.read_text())["reasons"] for path in (folders / "root").rglob("_distil/manifests/*.json")]
    assert all(map(of_one_line, reasons))
    assert all(len(reason) <= REASON_LENGTH for reason in reasons)


@pytest.mark.parametrize("hostile", [name.replace("/", "|").replace("\0", "") for name in HOSTILE])
@pytest.mark.parametrize("content", [b'{"instruction": "a"}\n', b"{broken", b"\xff\xfe"])
def test_names_of_files_are_only_data(folders, monkeypatch, caplog, hostile, content):
    """Whoever may upload a file chooses its name, and messages name files."""
    caplog.set_level(logging.DEBUG, "airflow_distil")
    (folders / "in").mkdir()
    (folders / "in" / f"{hostile}.jsonl").write_bytes(content)
    with FakeLLM() as llm:
        connect(monkeypatch, llm.base_url)
        operator, of = TextGenerationOperator(task_id="t", source=f"{folders}/in/*.jsonl"), context()
        summary, error = run(operator, of)
    assert (error is None) == content.endswith(b"\n")
    for shown in [record.getMessage() for record in caplog.records] + [str(error or "")]:
        assert of_one_line(shown), shown
    assert max(hostile.split(), key=len) not in str(summary)
