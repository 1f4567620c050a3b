"""Where a dataset is: `scheme://conn_id@bucket/key`, as Airflow users know it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from airflow_distil.exceptions import TaskDefinitionError

__all__ = ["SCHEMES", "URI", "refuse_credentials"]

SCHEMES = {"file": "file", "gs": "gs", "gcs": "gs", "s3": "s3", "memory": "memory"}
"""Known schemes, and the one name that each goes by."""

# Linux's own limit for a path; names in buckets have 1,024 bytes at most.
LONGEST = 4096

# What stands before an "@" and has a colon in it, as such or encoded; without "//" too, as people paste keys anywhere.
_PASSWORD = re.compile(r"(?:^|//)[^/@]*(?::|%3a)(?!//)[^@]*@", re.IGNORECASE)
# Presigned URLs, and those that hold a token.
_SIGNATURE = re.compile(r"[?&][\w.-]*(?:sig|signature|token|credential|secret|password|accesskeyid)=", re.IGNORECASE)

# It says nothing of the text, which is the secret.
_ADVICE = (
    "carries credentials (user:password@…, or a signature or token after '?'). URIs end up in logs and XComs: keep the "
    "secret in an Airflow connection and write scheme://conn_id@bucket/key."
)

_PARTS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<conn_id>[^@/]*)@)?(?P<bucket>[^/]*)(?P<key>.*)", re.DOTALL)


@dataclass(frozen=True)
class URI:
    """The address of a file or a folder.

    Keys are literal: nothing is percent-decoded or encoded, so `file:///a b/c` is the folder "a b", and `%2F` is three
    characters. Doubled and closing slashes are dropped, because they come from joining strings.

    :param scheme: `file`, `gs`, `s3` or `memory`.
    :param conn_id: Airflow connection that holds the credentials; None for the default ones.
    :param bucket: bucket; empty for `file`.
    :param key: path in the bucket (for `file`: below `/`), without a slash at either end; empty for the root.
    """

    scheme: str
    conn_id: str | None
    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> URI:
        """Read a URI, or an absolute path, which means `file://`.

        :raises TaskDefinitionError: if the text is neither; it is not repeated where it could hold a password.
        """
        if not text.strip():
            raise TaskDefinitionError("a URI is empty. Was it a template over a value that is not set?")
        if len(text) > LONGEST:
            raise TaskDefinitionError(f"a URI has {len(text)} characters, and no file system or bucket takes over {LONGEST}.")
        refuse_credentials(text)
        if text.startswith(("[", "{")):
            raise TaskDefinitionError(
                f"{_short(text)} looks like a list or dict rendered to text, not like a URI. Pass the upstream's output itself "
                "(source=upstream.output), or set render_template_as_native_obj=True on the DAG."
            )
        if text.startswith("/"):
            text = f"file://{text}"
        parts = _PARTS.fullmatch(text)
        if parts is None:
            raise TaskDefinitionError(
                f"{_short(text)} is a relative path. A worker has no folder to start from: give an absolute path "
                "or a URI such as gs://bucket/folder."
            )
        scheme, conn_id, bucket = parts["scheme"].lower(), parts["conn_id"], parts["bucket"]
        if ":" in bucket or not re.fullmatch(r"[\w!#().-]*", conn_id or ""):
            raise TaskDefinitionError(f"a URI {_ADVICE}")
        if scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise TaskDefinitionError(f"unknown scheme {scheme}://. Known are {known} and absolute paths.")
        uri = cls(SCHEMES[scheme], conn_id or None, bucket, _clean(parts["key"]))
        if uri.scheme == "file":
            _check_local(uri, text)
        if uri.scheme != "file" and not bucket:
            raise TaskDefinitionError(f"{_short(text)} names no bucket. Write {scheme}://bucket/key.")
        return uri

    def __str__(self) -> str:
        authority = f"{self.conn_id}@{self.bucket}" if self.conn_id else self.bucket
        return f"{self.scheme}://{authority}/{self.key}" if self.key or not authority else f"{self.scheme}://{authority}"

    def join(self, name: str) -> URI:
        """Return the URI of a relative name below this one."""
        return replace(self, key="/".join(filter(None, (self.key, _clean(name)))))

    def __truediv__(self, name: str) -> URI:
        return self.join(name)

    @property
    def parent(self) -> URI:
        """The folder that this is in; the root is its own parent."""
        return replace(self, key=self.key.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last segment of the key."""
        return self.key.rpartition("/")[2]


def refuse_credentials(text: str, name: str = "a URI") -> None:
    """Refuse what looks like a URI with a secret in it.

    :param name: of the parameter that it was given for.
    :raises TaskDefinitionError: without repeating the text.
    """
    # A path of this host has neither user nor query, and may have any character.
    if not text.startswith(("/", "file:///")) and (_PASSWORD.search(text) or _SIGNATURE.search(text)):
        raise TaskDefinitionError(f"{name} {_ADVICE}")


def _check_local(uri: URI, text: str) -> None:
    if uri.bucket:
        raise TaskDefinitionError(f"{_short(text)} names a host. A local file has three slashes: file:///{uri.bucket}/…")
    if "\0" in uri.key:
        raise TaskDefinitionError(f"{_short(text)} has a NUL character, which no path can have.")


def _clean(key: str) -> str:
    segments = [segment for segment in key.split("/") if segment not in {"", "."}]
    if re.search("[\ud800-\udfff]", key):
        raise TaskDefinitionError(f"{_short(key)} is not UTF-8, and so cannot be recorded. Rename what it names.")
    if ".." in segments:
        raise TaskDefinitionError(
            f"{_short(key)} has a '..' segment. Write the path that is meant, so that it cannot leave its folder."
        )
    return "/".join(segments)


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
