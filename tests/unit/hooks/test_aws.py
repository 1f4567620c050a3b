"""Where the credentials for S3 come from."""

from __future__ import annotations

import json
import re
import sys
import uuid
from types import ModuleType, SimpleNamespace

import pytest
from airflow.sdk.log import redact

from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.hooks import aws
from airflow_distil.hooks.storage import store_for
from tests.contracts.stores.backends import BUCKET
from tests.contracts.stores.conftest import s3_environment, s3_url
from tests.contracts.stores.serving import Reply, Request, serving
from tests.exits import frames_of

__all__ = ["s3_environment", "s3_url"]

SECRET = "swordfish-7319"
AMAZON = "airflow.providers.amazon.aws.hooks.base_aws"


@pytest.fixture(autouse=True)
def without_provider(monkeypatch):
    """Also where the Amazon provider is installed, a test says whether it is."""
    monkeypatch.setitem(sys.modules, AMAZON, None)


@pytest.fixture
def connect(monkeypatch):
    """Set the connection `my_aws`."""

    def connect(**fields):
        monkeypatch.setenv("AIRFLOW_CONN_MY_AWS", json.dumps({"conn_type": "aws", **fields}))

    return connect


@pytest.fixture
def signed(monkeypatch, s3_environment):
    """Give a server that the environment points at, and what each request to it was signed with: key, region, token."""
    seen = []

    def reply(request: Request) -> Reply:
        key, region = re.match(r".*Credential=([^/]*)/\d+/([^/]*)/s3/", request.headers["Authorization"]).groups()
        seen.append((key, region, request.headers["x-amz-security-token"]))
        return Reply(200, b"content")

    with serving(reply) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield seen


def put_and_get(uri: str) -> None:
    store = store_for(URI.parse(f"{uri}/{uuid.uuid4().hex}"))
    store.put("x", b"content")
    with pytest.raises(FileExistsError):
        store.put("x", b"other")
    assert store.get("x") == b"content"
    assert [entry.name for entry in store.list()] == ["x"]
    assert SECRET not in f"{store} {store!r}"


def test_the_environment(s3_environment, signed, monkeypatch):
    """Without a connection the worker's own role or variables must do, and their secrets are no less secret."""
    for name, value in {
        "SECRET_ACCESS_KEY": SECRET,
        "SESSION_TOKEN": "session-4711",
        "REGION": "eu-west-3",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    assert store_for(URI.parse("s3://bucket/folder")).get("x") == b"content"
    assert signed == [("key", "eu-west-3", "session-4711")]
    assert redact(f"{SECRET} session-4711") == "*** ***"


def test_the_environment_on_a_server(s3_environment):
    """What only a fake accepts."""
    put_and_get(f"s3://{BUCKET}")


def test_a_connections_own_fields(connect, signed, monkeypatch):
    """The environment's token sent with the connection's key is refused by S3, and says whose worker it is."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the environment")
    monkeypatch.setenv("AWS_REGION", "of-the-environment")
    connect(login="mine", password=SECRET, extra={"region_name": "eu-west-1"})
    assert store_for(URI.parse("s3://my_aws@bucket/folder")).get("x") == b"content"
    connect(extra={"aws_access_key_id": "mine", "aws_secret_access_key": SECRET, "aws_session_token": "short-lived"})
    assert store_for(URI.parse("s3://my_aws@bucket/folder")).get("x") == b"content"
    assert signed == [("mine", "eu-west-1", None), ("mine", "of-the-environment", "short-lived")]
    assert redact(f"{SECRET} short-lived") == "*** ***"


def test_a_connection_on_a_server(connect, s3_url, s3_environment, monkeypatch):
    """A server of one's own is named in the connection, and comes before what the environment names."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    connect(login="mine", password=SECRET, extra={"endpoint_url": s3_url, "region_name": "us-east-1"})
    put_and_get(f"s3://my_aws@{BUCKET}")


def test_a_connection_without_a_key_leaves_that_to_the_environment(connect, signed):
    """A connection that only says where, on a worker that has a role."""
    connect(extra={"region_name": "eu-west-1"})
    assert store_for(URI.parse("s3://my_aws@bucket/folder")).get("x") == b"content"
    assert signed == [("key", "eu-west-1", None)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"login": "mine"}, "only one half of an AWS key"),
        ({"password": SECRET}, "only one half of an AWS key"),
        (
            {"extra": {"role_arn": "arn:x", "region_name": "eu-west-1"}},
            r"role_arn: these need .*-providers-amazon",
        ),
        ({"conn_type": "http"}, "type 'http'"),
    ],
)
def test_what_a_connection_cannot_do(connect, fields, message):
    """A field that is ignored lets users believe that it is used: here, that another role may write."""
    connect(**fields)
    with pytest.raises(TaskDefinitionError, match=message) as caught:
        store_for(URI.parse("s3://my_aws@bucket/folder"))
    assert SECRET not in str(caught.value)


class Renewed:
    """botocore's temporary credentials: each look finds new ones."""

    looks = 0

    def get_frozen_credentials(self):
        self.looks += 1
        return SimpleNamespace(access_key=f"key{self.looks}", secret_key=f"secret{self.looks}", token=f"token{self.looks}")


@pytest.fixture
def provider(monkeypatch):
    """Put a stand-in for the Amazon provider's hook where Python finds it, and give its credentials."""
    credentials = Renewed()

    class AwsBaseHook:
        region_name = "eu-central-1"

        def __init__(self, aws_conn_id, client_type):
            assert (aws_conn_id, client_type) == ("my_aws", "s3")
            self.conn_config = SimpleNamespace(get_service_endpoint_url=lambda service: endpoints[service])

        def get_session(self):
            return SimpleNamespace(get_credentials=lambda: credentials)

    endpoints = {"s3": None}
    module = ModuleType(AMAZON)
    module.AwsBaseHook = AwsBaseHook
    parts = AMAZON.split(".")
    for end in range(3, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    monkeypatch.setitem(sys.modules, AMAZON, module)
    return SimpleNamespace(credentials=credentials, endpoints=endpoints)


def test_the_provider_renews_credentials(connect, signed, provider, monkeypatch):
    """A role's credentials end after an hour, and a night's job with them."""
    connect(extra={"role_arn": "arn:x"})
    store = store_for(URI.parse("s3://my_aws@bucket/folder"))
    assert (store.get("x"), store.get("x")) == (b"content", b"content")
    assert signed == [("key1", "eu-central-1", "token1")] * 2  # good for ten minutes
    monkeypatch.setattr(aws, "LASTS", aws.timedelta(0))
    store = store_for(URI.parse("s3://my_aws@bucket/folder"))
    assert (store.get("x"), store.get("x")) == (b"content", b"content")
    assert signed[2:] == [(f"key{look}", "eu-central-1", f"token{look}") for look in (2, 3)]
    assert redact("secret1 token1 secret2 token2 secret3 token3") == " ".join(["***"] * 6)


def test_the_provider_names_the_server(connect, provider, s3_url, s3_environment):
    """The connection's endpoint was read by the hook, and not used."""
    connect()
    provider.endpoints["s3"] = s3_url
    put_and_get(f"s3://my_aws@{BUCKET}")


def test_a_connection_that_is_not_there(provider):
    """The provider's hook goes on with the environment's keys then: the data went to whoever these belong to."""
    with pytest.raises(TaskDefinitionError, match=r"no connection 'my_aws'.*AIRFLOW_CONN_MY_AWS"):
        store_for(URI.parse("s3://my_aws@bucket/folder"))


def test_credentials_that_cannot_be_had(connect, signed, provider, monkeypatch):
    """A role that may not be assumed, reported as a bug of the store."""
    connect()
    monkeypatch.setattr(provider.credentials, "get_frozen_credentials", lambda: (_ for _ in ()).throw(RuntimeError("no role")))
    with pytest.raises(PermissionError, match=r"connection 'my_aws' may not use s3://my_aws@bucket/folder/x: .*no role"):
        store_for(URI.parse("s3://my_aws@bucket/folder")).get("x")
    assert signed == []


@pytest.mark.parametrize("place", ["connection", "environment"])
def test_an_endpoint_with_a_password_is_refused(connect, monkeypatch, place):
    """Errors of the client quote the URL that failed, password and all."""
    url = f"http://user:{SECRET}@127.0.0.1:9"
    if place == "connection":
        connect(login="mine", password="other-secret", extra={"endpoint_url": url, "region_name": "eu-west-1"})
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(TaskDefinitionError, match="user and password") as raised:
        store_for(URI.parse(f"s3://{'my_aws@' if place == 'connection' else ''}{BUCKET}/x")).get("x")
    assert SECRET not in str(raised.value)


def test_no_frame_of_a_failure_holds_the_key(connect):
    """Tools that report errors show what each frame of the traceback held, and one held the connection."""
    connect(login="mine", password=SECRET, extra={"role_arn": "arn:x"})
    with pytest.raises(TaskDefinitionError, match="role_arn") as raised:
        store_for(URI.parse("s3://my_aws@bucket/x"))
    assert SECRET not in frames_of(raised.value)
