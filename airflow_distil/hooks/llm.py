"""Airflow connections as language models."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from airflow_distil.exceptions import LLMError, TaskDefinitionError, invalid

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_distil.conversation import LLM

__all__ = ["LLMHook"]

# A form is tested by somebody who waits for it; the connection's own timeout is for long answers.
TEST_TIMEOUT = 30.0

# Arguments of OpenAI's client that Airflow's `openai` connections carry and that have a counterpart here.
_ORGANIZATION_HEADERS = {"organization": "OpenAI-Organization", "project": "OpenAI-Project"}

# Fields of a connection that mean something only where requests are sent.
_OF_ENDPOINTS = ("api_version", "timeout", "requests_per_minute", "tokens_per_minute", "headers")


def _json_object(value: Any) -> Any:
    """Forms keep everything as text: read a JSON object from it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        # Without the text, which may hold a key: pydantic's own message would quote it.
        raise ValueError('must be a JSON object, such as {"X-Team": "data"}') from None


class _Settings(BaseModel):
    """What a connection says besides host and password, whichever its type."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)

    model: str | None = None
    backend: Literal["openai", "azure", "transformers"] = "openai"
    api_version: str | None = None
    timeout: PositiveFloat = 120.0
    max_concurrency: PositiveInt | None = None
    requests_per_minute: PositiveFloat | None = None
    tokens_per_minute: PositiveFloat | None = None
    input_price: Annotated[float, Field(ge=0)] | None = None
    output_price: Annotated[float, Field(ge=0)] | None = None
    headers: Annotated[dict[str, str], BeforeValidator(_json_object)] = {}
    device: str | None = None


class LLMHook(BaseHook):
    """Make a language model from an Airflow connection.

    Takes connections of type `distil_llm` (host: base URL; password: API key; extra: the fields of the form), and those
    of the types `openai` and `pydanticai` (with an OpenAI model) as they are. With the backend `transformers` the model is a
    folder or an id at the Hugging Face Hub, computed in the task's own process, and there is neither host nor key.

    :param llm_conn_id: id of the connection.
    """

    conn_name_attr = "llm_conn_id"
    default_conn_name = "distil_llm_default"
    conn_type = "distil_llm"
    hook_name = "LLM (airflow-distil)"

    def __init__(self, llm_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.llm_conn_id = llm_conn_id

    def get_conn(
        self,
        model: str | None = None,
        generation_kwargs: Mapping[str, Any] | None = None,
        max_concurrency: int | None = None,
    ) -> LLM:
        """Return the model; no call is made yet, and no weights are loaded.

        :param model: by default the connection's.
        :param generation_kwargs: OpenAI wire parameters of every request.
        :param max_concurrency: most requests in flight; by default the connection's.
        :raises TaskDefinitionError: there is no such connection, a field of it or a parameter is not valid or does not fit its
            backend, or no model is named anywhere.
        """
        try:
            return self._llm(model, generation_kwargs=generation_kwargs, max_concurrency=max_concurrency)
        except TaskDefinitionError as error:
            problem = str(error)
        # Anew, and outside of `except`: frames further down hold the key, and some tools show what frames hold.
        raise TaskDefinitionError(problem)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the model for one word, a local one for a vector; without a default model, ask the endpoint what it has."""
        try:
            # The connection is read here: Airflow tests one that is not stored yet, known in this context only. The call
            # is made in a thread of its own: whoever tests a connection may run an event loop already.
            llm = self._llm(None, model_needed=False)
            with ThreadPoolExecutor(1) as thread:
                return True, thread.submit(asyncio.run, _tried(llm)).result()
        except (LLMError, TaskDefinitionError) as error:
            return False, str(error)

    def _llm(
        self,
        model: str | None,
        *,
        generation_kwargs: Mapping[str, Any] | None = None,
        max_concurrency: int | None = None,
        model_needed: bool = True,
    ) -> LLM:
        from airflow_distil.llms.openai import NO_KEY, OpenAILLM

        connection = self._connection()
        key, url, settings = self._read(connection)
        if connection.conn_type == "pydanticai":
            model = self._openai_model(model or settings.model)
        model = model or settings.model
        if not model and (model_needed or settings.backend == "transformers"):
            raise TaskDefinitionError(
                f"No model: give the task a `model`, or set the default model of connection {self.llm_conn_id!r}."
            )
        if settings.backend == "transformers":
            return self._local(model or "", settings, generation_kwargs, max_concurrency)
        if settings.device:
            raise TaskDefinitionError(
                f"Connection {self.llm_conn_id!r}: `device` is for the backend 'transformers', and this one's is "
                f"{settings.backend!r}."
            )
        self._mask(key, settings)
        if url and not key:
            # Never the environment's key: it is OpenAI's, and this may be anybody's host.
            key = NO_KEY
        return OpenAILLM(
            model or "",
            base_url=url,
            api_key=key,
            generation_kwargs=generation_kwargs,
            backend=settings.backend,
            max_concurrency=max_concurrency or settings.max_concurrency,
            **settings.model_dump(exclude={"model", "backend", "max_concurrency", "device"}),
        )

    def _local(
        self, model: str, settings: _Settings, generation_kwargs: Mapping[str, Any] | None, max_concurrency: int | None
    ) -> LLM:
        from airflow_distil.llms.transformers import TransformersLLM

        if generation_kwargs:
            raise TaskDefinitionError(
                f"Connection {self.llm_conn_id!r} has the backend 'transformers', which computes without parameters, and was "
                f"given {', '.join(generation_kwargs)}. Next: leave that out, or, where default_args bring it, pass "
                "generation_kwargs={} to this operator."
            )
        if ignored := [name for name in _OF_ENDPOINTS if name in settings.model_fields_set and getattr(settings, name)]:
            raise TaskDefinitionError(
                f"Connection {self.llm_conn_id!r} has the backend 'transformers', which sends nothing to an endpoint: "
                f"{', '.join(ignored)} would have no effect. Next: remove it from the connection's extra fields."
            )
        return TransformersLLM(
            model,
            device=settings.device,
            max_concurrency=max_concurrency or settings.max_concurrency,
            input_price=settings.input_price,
            output_price=settings.output_price,
        )

    def _connection(self) -> Connection:
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            return self.get_connection(self.llm_conn_id)
        except AirflowNotFoundException:
            raise TaskDefinitionError(
                f"There is no connection {self.llm_conn_id!r}. Create it (Admin → Connections, type 'LLM (airflow-distil)'), "
                f"or set AIRFLOW_CONN_{self.llm_conn_id.upper()} to "
                '{"conn_type": "distil_llm", "host": "http://127.0.0.1:8000/v1", "password": "…", "extra": {"model": "…"}}.'
            ) from None

    def _read(self, connection: Connection) -> tuple[str | None, str | None, _Settings]:
        """Return key, base URL and settings of a connection of any type that we take."""
        extra = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
        key, url = connection.password, self._base_url(connection)
        if connection.conn_type == "openai":
            client = dict(extra.get("openai_client_kwargs") or {})
            key, url = client.get("api_key") or key, client.get("base_url") or url
            headers = dict(client.get("default_headers") or {})
            headers |= {header: client[name] for name, header in _ORGANIZATION_HEADERS.items() if client.get(name)}
            extra = {"headers": headers} | ({"timeout": client["timeout"]} if client.get("timeout") else {})
        elif connection.conn_type == "pydanticai":
            extra = {"model": extra.get("model")}
        elif connection.conn_type != self.conn_type:
            raise TaskDefinitionError(
                f"Connection {self.llm_conn_id!r} is of type {connection.conn_type!r}; use one of type 'distil_llm', "
                "'openai' or 'pydanticai'."
            )
        try:
            return (key or "").strip() or None, url, _Settings.model_validate(extra)
        except ValidationError as error:
            wrong = invalid(error)
        known = ", ".join(_Settings.model_fields)
        raise TaskDefinitionError(f"Connection {self.llm_conn_id!r}, extra fields: {wrong}. The fields are: {known}.")

    def _openai_model(self, model: str | None) -> str | None:
        provider, _, name = (model or "").rpartition(":")
        if provider in ("", "openai", "openai-chat", "openai-responses"):
            return name or None
        raise TaskDefinitionError(
            f"Connection {self.llm_conn_id!r} names the model {model!r}; of 'pydanticai' connections only models of "
            "OpenAI-compatible endpoints ('openai:…') can be used. For others create a connection of type 'distil_llm' with "
            "the provider's OpenAI-compatible base URL."
        )

    def _base_url(self, connection: Connection) -> str | None:
        """Return the base URL that host, port and schema of a connection make, however they were given."""
        host, schema = (connection.host or "").strip(), (connection.schema or "").strip().strip("/")
        if not host:
            return None
        if "://" not in host:
            # Airflow's HTTP connections keep the scheme in `schema`. Where nobody names it, a key goes over TLS, unless the
            # host is this machine or a name inside a cluster.
            scheme = schema if schema in ("http", "https") else "http" if _is_near(host) else "https"
            host = f"{scheme}://{host}"
        try:
            parts = urlsplit(host)
            port = parts.port
        except ValueError:
            # Without the host, which may hold a password: that is often why it cannot be read.
            raise TaskDefinitionError(
                f"Connection {self.llm_conn_id!r}: the host is no URL, or its port is no number. Write https://host:port/v1."
            ) from None
        place = parts.netloc
        if connection.port and port is None:
            place = f"{place}:{connection.port}"
        path = parts.path.rstrip("/")
        if schema and schema not in ("http", "https") and not path.endswith(f"/{schema}"):
            path = f"{path}/{schema}"
        return parts._replace(netloc=place, path=path).geturl()

    def _mask(self, key: str | None, settings: _Settings) -> None:
        from airflow.sdk.log import mask_secret

        from airflow_distil.llms.failures import secrets_in

        from_environment = [os.environ.get(name) for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY")]
        in_headers: set[str] = set().union(*(secrets_in(header) for header in settings.headers.values()))
        for secret in {key, *in_headers, *from_environment} - {None, ""}:
            mask_secret(secret)


async def _tried(llm: LLM) -> str:
    from airflow_distil.conversation import Chat, Embed, user
    from airflow_distil.llms.openai import OpenAILLM

    try:
        if not isinstance(llm, OpenAILLM):
            (answer,) = await llm.answer(Embed("ready"))
            return f"{answer.model} answered with a vector of {len(answer.vector or [])} numbers."
        llm.timeout = min(llm.timeout, TEST_TIMEOUT)
        if not llm.model:
            names = await llm.models()
            return f"The endpoint answers. No default model is set; it offers: {', '.join(names[:10]) or 'none'}."
        (answer,) = await llm.answer(Chat([user("Reply with one word: ready.")]))
        return f"{answer.model} answered in {answer.latency or 0:.1f} s."
    finally:
        await llm.aclose()


def _is_near(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return "." not in name
