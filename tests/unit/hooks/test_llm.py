"""An Airflow connection, in all the shapes in which users write them, becomes a model."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from airflow.sdk import BaseHook, Connection

from airflow_distil.conversation import LLM, Chat, user
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.hooks.llm import LLMHook
from airflow_distil.llms import TransformersLLM
from airflow_distil.testing import FakeLLM

KEY = "sk-hook-0123456789"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def connect(monkeypatch):
    """Declare the connection `c`, as JSON, and give its hook."""

    def declared(conn_type: str = "distil_llm", extra: dict | None = None, **fields) -> LLMHook:
        monkeypatch.setenv("AIRFLOW_CONN_C", json.dumps({"conn_type": conn_type, "extra": extra or {}, **fields}))
        return LLMHook("c")

    return declared


def ask(llm: LLM) -> str | None:
    async def once() -> str | None:
        try:
            return (await llm.answer(Chat([user("hello")])))[0].text
        finally:
            await llm.aclose()

    return asyncio.run(once())


def test_is_an_airflow_hook():
    """The form's hook did not load, and the connection type was missing from the list."""
    assert issubclass(LLMHook, BaseHook)
    assert LLMHook().llm_conn_id == "distil_llm_default"


def test_asks_the_connections_endpoint():
    """Key, URL or model did not get from the connection to the wire."""
    with FakeLLM(api_key=KEY, models={"m"}) as server, server.as_connection("c", model="m"):
        assert "hello" in ask(LLMHook("c").get_conn())


def test_arguments_win_over_the_connection(connect):
    """A task's own model was ignored because the connection had a default."""
    hook = connect(host="http://h/v1", extra={"model": "default", "max_concurrency": 4})
    llm = hook.get_conn(model="mine", generation_kwargs={"temperature": 0.5}, max_concurrency=2)
    assert (llm.model, llm.parameters, llm.max_concurrency) == ("mine", {"temperature": 0.5}, 2)
    assert (hook.get_conn().model, hook.get_conn().max_concurrency) == ("default", 4)


def test_fields_of_the_form_arrive(connect):
    """Forms send numbers as text and empty fields as empty text."""
    extra = {
        "model": " m ",
        "backend": "",
        "timeout": "45",
        "max_concurrency": "8",
        "requests_per_minute": 600,
        "tokens_per_minute": "",
        "input_price": "0.15",
        "output_price": 0,
        "headers": '{"X-Team": "data"}',
        "api_version": None,
    }
    llm = connect(host="http://h/v1", extra=extra).get_conn()
    assert (llm.model, llm.backend, llm.timeout, llm.max_concurrency) == ("m", "openai", 45.0, 8)
    assert (llm.requests_per_minute, llm.tokens_per_minute) == (600.0, None)
    assert (llm.input_price, llm.output_price) == (0.15, 0.0)
    assert {name: value.get_secret_value() for name, value in llm._headers.items()} == {"X-Team": "data"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout", "soon"),
        ("timeout", 0),
        ("max_concurrency", 0),
        ("max_concurrency", 1.5),
        ("input_price", -1),
        ("headers", "X-Key: hidden-value"),
        ("headers", "[1]"),
        ("headers", {"X-Key": ["hidden-value"]}),
        ("backend", "anthropic"),
        ("max_concurency", 3),
    ],
)
def test_bad_fields_are_named(connect, field, value):
    """The error was a traceback of a parser, without field or connection, and quoted the headers."""
    with pytest.raises(TaskDefinitionError, match=field) as raised:
        connect(host="http://h/v1", extra={"model": "m", field: value}).get_conn()
    assert "'c'" in str(raised.value)
    assert "hidden-value" not in str(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "http://127.0.0.1:8000/v1"}, "http://127.0.0.1:8000/v1"),
        ({"host": "http://127.0.0.1:8000/v1/ "}, "http://127.0.0.1:8000/v1"),
        ({"host": "127.0.0.1:8000/v1"}, "http://127.0.0.1:8000/v1"),
        ({"host": "localhost", "port": 8000, "schema": "v1"}, "http://localhost:8000/v1"),
        ({"host": "vllm", "port": 8000, "schema": "/v1"}, "http://vllm:8000/v1"),
        ({"host": "llm.example.com", "schema": "http"}, "http://llm.example.com"),
        ({"host": "llm.example.com/v1"}, "https://llm.example.com/v1"),
        ({"host": "https://llm.example.com/v1", "schema": "v1"}, "https://llm.example.com/v1"),
        ({"host": "https://llm.example.com", "port": 8443, "schema": "v1"}, "https://llm.example.com:8443/v1"),
        ({"host": "https://llm.example.com:8443/v1", "port": 8443}, "https://llm.example.com:8443/v1"),
        ({"host": ""}, None),
        ({}, None),
    ],
)
def test_base_urls(connect, fields, url):
    """`http://127.0.0.1:8000/v1` in the host field, as the form asks for, became `https://http`."""
    assert connect(extra={"model": "m"}, **fields).get_conn().base_url == url


@pytest.mark.parametrize("uri", ["distil-llm://:{key}@{quoted}/?model=m", "distil-llm://http://:{key}@{place}/v1?model=m"])
def test_connections_as_uris(monkeypatch, uri):
    """Airflow takes a URI apart into host, port and schema, differently with a quoted host."""
    with FakeLLM(api_key=KEY) as server:
        place = server.url.removeprefix("http://")
        quoted = server.base_url.replace(":", "%3A").replace("/", "%2F")
        monkeypatch.setenv("AIRFLOW_CONN_C", uri.format(key=KEY, quoted=quoted, place=place))
        assert "hello" in ask(LLMHook("c").get_conn())


def test_openai_connections(connect):
    """Users of Airflow's OpenAI provider had to type their key again."""
    with FakeLLM(api_key=KEY) as server:
        kwargs = {"timeout": 7, "organization": "org", "default_headers": {"X-Team": "data"}, "max_retries": 9}
        hook = connect("openai", host=server.base_url, password=KEY, extra={"openai_client_kwargs": kwargs})
        llm = hook.get_conn(model="m")
        assert llm.timeout == 7
        assert set(llm._headers) == {"OpenAI-Organization", "X-Team"}
        assert "hello" in ask(llm)
        hook = connect(
            "openai", password="wrong", extra={"openai_client_kwargs": {"base_url": server.base_url, "api_key": KEY}}
        )
        assert "hello" in ask(hook.get_conn(model="m"))


@pytest.mark.parametrize("model", ["openai:gpt-4o", "openai-chat:gpt-4o", "gpt-4o"])
def test_pydanticai_connections(connect, model):
    """The provider's prefix went to the wire as a part of the model's name."""
    hook = connect("pydanticai", host="http://h/v1", password=KEY, extra={"model": model})
    assert hook.get_conn().model == "gpt-4o"
    assert hook.get_conn(model="openai:mine").model == "mine"


def test_pydanticai_of_another_provider(connect):
    """Anthropic's key went to OpenAI's endpoint."""
    with pytest.raises(TaskDefinitionError, match="anthropic:claude"):
        connect("pydanticai", password=KEY, extra={"model": "anthropic:claude"}).get_conn()


def test_other_types_are_refused(connect):
    """The password of a database went to OpenAI's endpoint."""
    with pytest.raises(TaskDefinitionError, match="postgres"):
        connect("postgres", host="h", password=KEY).get_conn(model="m")


def test_no_model_anywhere(connect):
    """The first call failed with a message of the server about `null`."""
    with pytest.raises(TaskDefinitionError, match=r"`model`.*'c'"):
        connect(host="http://h/v1").get_conn()


def test_missing_connection():
    """Airflow's error names the id, but not what to do."""
    with pytest.raises(TaskDefinitionError, match="AIRFLOW_CONN_NOWHERE"):
        LLMHook("nowhere").get_conn()


def test_a_local_model(connect):
    """The backend that the form offers was taken for OpenAI's, and the rows went there."""
    extra = {"model": "/models/minilm", "backend": "transformers", "device": "cpu", "max_concurrency": 7, "input_price": 0.1}
    llm = connect(extra=extra).get_conn()
    assert isinstance(llm, TransformersLLM)
    assert (llm.model, llm.device, llm.max_concurrency, llm.input_price) == ("/models/minilm", "cpu", 7, 0.1)
    assert connect(extra=extra).get_conn(model="org/other").model == "org/other"


def test_what_a_local_model_does_not_take(connect):
    """`dimensions` had no effect; and without a model, the hub was asked for one without a name."""
    with pytest.raises(TaskDefinitionError, match=r"'c'.*dimensions.*pass generation_kwargs=\{\} to this operator"):
        connect(extra={"model": "m", "backend": "transformers"}).get_conn(generation_kwargs={"dimensions": 3})
    with pytest.raises(TaskDefinitionError, match="No model"):
        connect(extra={"backend": "transformers"}).get_conn()
    with pytest.raises(TaskDefinitionError, match="No model"):
        connect(extra={"backend": "transformers"})._llm(None, model_needed=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests_per_minute", 60),
        ("tokens_per_minute", 1000),
        ("timeout", 120),
        ("headers", '{"X-Team": "data"}'),
        ("api_version", "2026-01-01"),
    ],
)
def test_fields_of_endpoints_are_refused_for_a_local_model(connect, field, value):
    """A limit of a connection was dropped without a word, while `device` was refused for an endpoint."""
    with pytest.raises(TaskDefinitionError, match=rf"'c'.*transformers.*: {field} would have no effect\. Next:"):
        connect(extra={"model": "m", "backend": "transformers", field: value}).get_conn()


def test_empty_fields_of_the_form_suit_a_local_model(connect):
    """The form sends all of its fields, and each empty one was taken for set."""
    empty = {"requests_per_minute": "", "tokens_per_minute": None, "timeout": "", "headers": "{}", "api_version": " "}
    assert connect(extra={"model": "m", "backend": "transformers", **empty}).get_conn().model == "m"


def test_a_device_for_an_endpoint_is_refused(connect):
    """Whoever forgot the backend believed that a model ran on their own machine, while the rows went to OpenAI."""
    with pytest.raises(TaskDefinitionError, match=r"`device` is for the backend 'transformers'"):
        connect(extra={"model": "m", "device": "cuda"}).get_conn()


def test_test_connection_of_a_local_model(connect):
    """The button asked an embedding model for a chat, or OpenAI for a folder."""
    pytest.importorskip("torch")
    from tests import tiny_models

    ok, message = connect(extra={"model": tiny_models.minilm(), "backend": "transformers"}).test_connection()
    assert ok
    assert "384 numbers" in message
    ok, message = connect(extra={"model": "/nowhere/at/all", "backend": "transformers"}).test_connection()
    assert not ok
    assert "/nowhere/at/all" in message


def test_the_environments_key_stays_with_openai(connect, monkeypatch):
    """A connection without a password sent OPENAI_API_KEY to whatever host it named."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert connect(host="http://h/v1", extra={"model": "m"}).get_conn()._key.get_secret_value() != KEY
    assert connect(extra={"model": "m"}).get_conn()._key.get_secret_value() == KEY


def test_secrets_are_masked_in_logs(connect, monkeypatch):
    """A header's value, unlike a password, is no secret to Airflow unless it is told."""
    from airflow.sdk.log import redact

    header, environment = "header-4711-value", "sk-environment-0815"
    monkeypatch.setenv("OPENAI_API_KEY", environment)
    connect(host="http://h/v1", password=KEY, extra={"model": "m", "headers": {"X-Any": header}}).get_conn()
    assert redact(f"{KEY} {header} {environment}") == "*** *** ***"


def test_test_connection_asks_once():
    """The button said 'success' for a URL that nobody had called."""
    with FakeLLM(api_key=KEY, models={"m"}) as server, server.as_connection("c", model="m"):
        assert LLMHook("c").test_connection()[0]
        assert server.answered.calls == 1


def test_test_connection_without_a_default_model():
    """A good connection without a default model was called broken."""
    with FakeLLM(models={"one", "two"}) as server, server.as_connection("c", model=""):
        ok, message = LLMHook("c").test_connection()
    assert ok
    assert "one, two" in message


def test_test_connection_inside_an_event_loop():
    """The API server tests connections from a coroutine: 'asyncio.run() cannot be called'."""

    async def tested() -> tuple[bool, str]:
        return LLMHook("c").test_connection()

    with FakeLLM() as server, server.as_connection("c"):
        assert asyncio.run(tested())[0]


@pytest.mark.parametrize("wrong", [{"model": "nope"}, {"timeout": "soon"}])
def test_test_connection_says_what_is_wrong(wrong):
    """The form showed a stack trace, or nothing."""
    with FakeLLM(models={"m"}) as server, server.as_connection("c", **{"model": "m", **wrong}):
        ok, message = LLMHook("c").test_connection()
    assert not ok
    assert str(next(iter(wrong.values()))) in message or "timeout" in message


@pytest.mark.skipif(not hasattr(Connection, "test_connection"), reason="Airflow 3.2 tests connections in its API server only")
def test_test_connection_of_airflow():
    """Airflow tests connections that are not stored yet, and knows them in the calling context only."""
    with FakeLLM(api_key=KEY) as server:
        fields = {"conn_type": "distil_llm", "host": server.base_url, "password": "sk-wrong", "extra": '{"model": "m"}'}
        connection = Connection(conn_id="unsaved", **fields)
        ok, message = connection.test_connection()
    assert not ok
    assert "401" in message
    assert "sk-wrong" not in message


def test_nothing_is_logged(connect, caplog):
    """The key was in the debug line that shows a connection."""
    caplog.set_level(logging.DEBUG)
    with FakeLLM(api_key=KEY) as server, server.as_connection("c"):
        ask(LLMHook("c").get_conn())
    assert KEY not in caplog.text
