"""Objects in an S3 bucket, at Amazon or wherever else that protocol is spoken."""

# ruff: noqa: D102 - the four verbs are documented on Store

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store as Client

from airflow_distil.datasets.stores.base import Entry, checked
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import SourceError, TaskDefinitionError

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig, S3Config, S3Credential

__all__ = ["Credentials", "S3Store"]

Credentials: TypeAlias = "Callable[[], S3Credential]"
"""Returns the credentials of now; asked again five minutes before the end that it gives them."""

# The client's own limit of 30 s for a whole request fails a part of 256 MiB on every line below 70 Mbit/s. So a file may take
# long to leave; everything else is answered at once or hangs, however much the answer holds.
WHOLE = timedelta(days=1)
UPLOAD = timedelta(minutes=10)
SILENCE = timedelta(seconds=60)

# From the first try to the last one, as long as Google's client takes: a store that throttles calms down in that time.
RETRY = timedelta(minutes=2)

# S3 says "conflict" to a put that met another one or a delete in flight, and that it should be tried again.
CONFLICTS = 5

PAGE = 1000  # what S3 lists at a time


class S3Store:
    """A folder of a bucket. What is not given comes from the environment, in `AWS_*` variables or a machine's or pod's role.

    Requests are retried by obstore for up to two minutes. A put whose reply got lost therefore meets its own object and
    raises `FileExistsError`; `create` reads it back. A file is put in one piece, which is what S3 checks for existence, so its
    content is in memory meanwhile. A version is an ETag.

    :param credentials: what signs the requests; None for the environment's.
    :param endpoint: base URL of a server other than Amazon's; the bucket is in the path.
    """

    def __init__(
        self, uri: URI, *, credentials: Credentials | None = None, region: str | None = None, endpoint: str | None = None
    ) -> None:
        self.uri = uri
        self._prefix = f"{uri.key}/" if uri.key else ""
        self._credentials = credentials
        self._config: S3Config = {"disable_bulk_delete": True}  # which not every server knows
        if region:
            self._config["region"] = region
        if endpoint:
            # The service's own variable would go before a general endpoint.
            self._config["aws_endpoint_url_s3"] = endpoint

    def __str__(self) -> str:
        return str(self.uri)

    def put(self, name: str, data: bytes | Path) -> None:
        key = self._prefix + checked(name)
        client, content = (self._uploads, data.read_bytes()) if isinstance(data, Path) else (self._client, data)
        with self._errors(name):
            for conflicts in range(CONFLICTS):
                try:
                    obstore.put(client, key, content, mode="create")
                    return
                except AlreadyExistsError:
                    # obstore does not tell a conflict from "exists". Only what is there, exists.
                    if conflicts == CONFLICTS - 1 or self._head(key):
                        break
        raise FileExistsError(f"{self}/{name} exists")

    def get(self, name: str, start: int = 0, length: int | None = None, version: str | None = None) -> bytes:
        if length == 0:
            return b""
        options: GetOptions = {}
        if version is not None:
            options["if_match"] = version
        # No range for the whole object: asking an empty object for bytes from 0 on is an error.
        if length is not None:
            options["range"] = (start, start + length)
        elif start:
            options["range"] = {"offset": start}
        with self._errors(name):
            try:
                return bytes(obstore.get(self._client, self._prefix + name, options=options).bytes())
            except PreconditionError:
                raise SourceError(f"{self}/{name} changed: its ETag is no longer {version}.") from None
            except GenericError as error:
                if "416 Range Not Satisfiable" in str(error):
                    return b""
                raise

    def list(self, prefix: str = "") -> Iterator[Entry]:
        whole, start = self._prefix + prefix, len(self._prefix)
        with self._errors(prefix):
            for key, meta in self._below(whole):
                if meta["e_tag"] is None:
                    raise OSError(f"{self}/{key[start:]} is listed without an ETag: this server tells no versions apart.")
                yield Entry(key[start:], meta["size"], meta["e_tag"], meta["last_modified"])

    def delete(self, name: str) -> None:
        with self._errors(name):
            obstore.delete(self._client, self._prefix + checked(name))

    def _below(self, prefix: str) -> Iterator[tuple[str, ObjectMeta]]:
        """Yield the objects whose keys start with the prefix, sorted.

        obstore lists whole folders only. Where the prefix ends within a name, listing begins behind it, and ends as soon as
        another name comes; the object of exactly that name is looked for first.
        """
        folder, _, rest = prefix.rpartition("/")
        offset = prefix if rest not in {"", ".", ".."} else None  # dots alone are no name, for obstore
        empty = set()
        if offset and (exact := self._head(offset)):
            yield offset, exact
            empty.add(offset)
        for page in obstore.list(self._client, folder or None, offset=offset, chunk_size=PAGE):
            for meta in page:
                key = meta["path"]
                if not key.startswith(prefix):
                    if key > prefix:
                        return
                    continue
                if not meta["size"]:
                    # Consoles make empty objects "folder/" to show a folder; nobody means them as data. obstore lists one as
                    # "folder", and only the look at that name tells.
                    if key in empty or not (there := self._head(key)) or there["size"]:
                        continue
                    empty.add(key)
                yield key, meta

    def _head(self, key: str) -> ObjectMeta | None:
        try:
            return obstore.head(self._client, key)
        except FileNotFoundError:
            return None

    @cached_property
    def _client(self) -> Client:
        return self._opened({"timeout": WHOLE, "read_timeout": SILENCE})

    @cached_property
    def _uploads(self) -> Client:
        return self._opened({"timeout": UPLOAD})

    def _opened(self, options: ClientConfig) -> Client:
        if "@" in urlsplit(self._endpoint).netloc:
            # Errors quote the URL that failed.
            raise TaskDefinitionError(
                f"The endpoint of {self} holds a user and password. Keep the key in the connection's login and password."
            )
        # Without encryption only where somebody wrote so.
        options["allow_http"] = self._endpoint.startswith("http://")
        return Client(
            self.uri.bucket,
            config=self._config,
            client_options=options,
            retry_config={"retry_timeout": RETRY},
            credential_provider=self._credentials,
        )

    @property
    def _endpoint(self) -> str:
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        return self._config.get("aws_endpoint_url_s3") or next(filter(None, map(os.environ.get, names)), "")

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn obstore's exceptions into OSErrors that name the object.

        Without their cause: it quotes S3's whole reply, which holds the session token if that has expired.
        """
        where = f"{self}/{name}"
        connection = f"connection {self.uri.conn_id!r}" if self.uri.conn_id else "the environment's credentials"
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no {where}, or no bucket {self.uri.bucket!r}") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise PermissionError(f"{connection} may not use {where}: {_reason(error)}") from None
        except BaseError as error:
            text = str(error)
            if "<Code>NoSuchBucket</Code>" in text:
                raise FileNotFoundError(f"there is no {where}, nor a bucket {self.uri.bucket!r}") from None
            if "169.254.169.254" in text:  # the address where Amazon's machines ask for theirs, after all else
                raise PermissionError(
                    f"there are no credentials for {where}. Name a connection in the URI (s3://conn_id@{self.uri.bucket}/…), "
                    "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the task runs."
                ) from None
            raise OSError(f"{where}: {_reason(error)}") from None


def _reason(error: BaseError) -> str:
    """Return S3's own words of an error, or the client's."""
    text = str(error)
    said = [found[1] for tag in ("Code", "Message") if (found := re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL))]
    return (": ".join(said) or text.partition("\n")[0].partition("<?xml")[0])[:300]
