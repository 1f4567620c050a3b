"""What signs requests to S3: an Airflow connection, through the Amazon provider or by itself, or the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from airflow_distil.exceptions import TaskDefinitionError

__all__ = ["S3Access", "s3_access"]

# botocore renews temporary credentials when less than ten to fifteen minutes of them are left: what it gives lasts that long.
LASTS = timedelta(minutes=10)

# What a connection may say in `extra` without the provider. The rest (a role to assume, a profile…) is the provider's to do.
FIELDS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region_name", "endpoint_url")


class S3Access(NamedTuple):
    """What opens a bucket; None leaves it to the environment.

    :param credentials: returns the credentials of now, in the form that obstore takes.
    """

    credentials: Callable[[], dict[str, Any]] | None = None
    region: str | None = None
    endpoint: str | None = None


def s3_access(conn_id: str | None) -> S3Access:
    """Return what an Airflow connection says, or the environment; see `_access`."""
    try:
        return _access(conn_id)
    except TaskDefinitionError as error:
        problem = str(error)
    # Anew, and outside of `except`: frames further down hold the key, and some tools show what frames hold.
    raise TaskDefinitionError(problem)


def _access(conn_id: str | None) -> S3Access:
    """Read an Airflow connection of type `aws`, or the environment if there is none; secrets are masked in logs.

    With the Amazon provider installed the connection does all that it does there, and temporary credentials are renewed.

    :raises TaskDefinitionError: if there is no such connection, or it needs the provider.
    """
    if conn_id is None:
        _mask(*(os.environ.get(name) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_TOKEN")))
        return S3Access()
    # First, because the provider's hook would go on without a connection that is not there: with the environment's keys.
    connection = _connection(conn_id)
    try:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    except ImportError:
        return _by_itself(conn_id, connection)
    hook = AwsBaseHook(aws_conn_id=conn_id, client_type="s3")
    credentials = hook.get_session().get_credentials()
    if credentials is None:
        raise TaskDefinitionError(f"Connection {conn_id!r} holds no AWS credentials, and the environment has none either.")
    return S3Access(_renewing(credentials), hook.region_name, hook.conn_config.get_service_endpoint_url("s3"))


def _renewing(credentials: Any) -> Callable[[], dict[str, Any]]:
    def now() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        _mask(frozen.secret_key, frozen.token)
        return _signing(frozen.access_key, frozen.secret_key, frozen.token, datetime.now(UTC) + LASTS)

    return now


def _by_itself(conn_id: str, connection: Any) -> S3Access:
    extra = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
    if others := sorted(extra.keys() - set(FIELDS)):
        raise TaskDefinitionError(
            f"Connection {conn_id!r}, extra fields: {', '.join(others)}: these need Airflow's Amazon provider. Run "
            f"`pip install apache-airflow-providers-amazon`, or use no others than {', '.join(FIELDS)}."
        )
    key = connection.login or extra.get("aws_access_key_id")
    secret = connection.password or extra.get("aws_secret_access_key")
    token = extra.get("aws_session_token")
    if bool(key) != bool(secret):
        raise TaskDefinitionError(
            f"Connection {conn_id!r} has only one half of an AWS key: the access key id goes to Login, the secret to Password. "
            "With neither, the environment's credentials are used."
        )
    _mask(secret, token)
    signing = (lambda: _signing(key, secret, token, None)) if key else None
    return S3Access(signing, extra.get("region_name"), extra.get("endpoint_url"))


def _connection(conn_id: str) -> Any:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise TaskDefinitionError(
            f"There is no connection {conn_id!r}. Create it (Admin → Connections, type 'Amazon Web Services'), or set "
            f"AIRFLOW_CONN_{conn_id.upper()} to "
            '{"conn_type": "aws", "login": "<key id>", "password": "<secret>", "extra": {"region_name": "…"}}.'
        ) from None
    if connection.conn_type != "aws":
        raise TaskDefinitionError(f"Connection {conn_id!r} is of type {connection.conn_type!r}; s3:// needs one of type 'aws'.")
    return connection


def _signing(key: Any, secret: Any, token: Any, until: datetime | None) -> dict[str, Any]:
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": until}


def _mask(*secrets: str | None) -> None:
    from airflow.sdk.log import mask_secret

    for secret in filter(None, secrets):
        mask_secret(secret)
