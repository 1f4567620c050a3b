from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import TaskDefinitionError


@pytest.mark.parametrize(
    ("text", "uri", "shown"),
    [
        ("gs://bucket/a/b.jsonl", URI("gs", None, "bucket", "a/b.jsonl"), "gs://bucket/a/b.jsonl"),
        ("gcs://bucket/a", URI("gs", None, "bucket", "a"), "gs://bucket/a"),
        ("GS://bucket", URI("gs", None, "bucket", ""), "gs://bucket"),
        ("gs://conn@bucket/a/", URI("gs", "conn", "bucket", "a"), "gs://conn@bucket/a"),
        ("gs://bucket/a@b/c", URI("gs", None, "bucket", "a@b/c"), "gs://bucket/a@b/c"),
        ("gs://bucket//a//b/./c", URI("gs", None, "bucket", "a/b/c"), "gs://bucket/a/b/c"),
        ("s3://conn@bucket/a", URI("s3", "conn", "bucket", "a"), "s3://conn@bucket/a"),
        ("file:///a b/c", URI("file", None, "", "a b/c"), "file:///a b/c"),
        ("file:///a%20b", URI("file", None, "", "a%20b"), "file:///a%20b"),
        ("/a/b?x#y*.json", URI("file", None, "", "a/b?x#y*.json"), "file:///a/b?x#y*.json"),
        ("file://fs_conn@/data", URI("file", "fs_conn", "", "data"), "file://fs_conn@/data"),
        ("/", URI("file", None, "", ""), "file:///"),
        ("memory://x/y", URI("memory", None, "x", "y"), "memory://x/y"),
    ],
)
def test_parse(text, uri, shown):
    """A key that is decoded, or a connection taken for a part of the bucket."""
    assert URI.parse(text) == uri
    assert str(uri) == shown
    assert URI.parse(shown) == uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("data/x.jsonl", "relative path"),
        ("x.jsonl", "relative path"),
        ("az://bucket/x", r"unknown scheme az://.*file://, gs://, gcs://, s3://, memory://"),
        ("https://host/x", "unknown scheme"),
        ("gs:///x", "no bucket"),
        ("file://data/x", "file:///data"),
        ("gs://bucket/a/../b", r"'\.\.'"),
        ("/a/..", r"'\.\.'"),
        ("['gs://a/b']", "rendered"),
        ("{'format': 1}", "rendered"),
    ],
)
def test_refused(text, message):
    """What would later fail as "no such file", far from its cause."""
    with pytest.raises(TaskDefinitionError, match=message):
        URI.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "gs://user:hunter2@bucket/x",
        "s3://AKIA:hun/ter2@bucket/x",
        "s3://AKIA:hunter2@bucket/x",
        "gs://:hunter2@bucket",
        "x://a:hunter2/",
        "https://user:hunter2@host/x.jsonl",
        "user:hunter2@bucket/x",
        "s3:AKIA:hunter2@bucket/x",
        "gs://user%3Ahunter2@bucket/x",
        "gs://user%3ahunter2@bucket/*.jsonl",
        "gs://bucket/x.jsonl?X-Goog-Signature=hunter2",
        "https://bucket.s3.amazonaws.com/x.jsonl?X-Amz-Credential=a&X-Amz-Signature=hunter2",
        "bucket.s3.amazonaws.com/x.jsonl?AWSAccessKeyId=a&Signature=hunter2",
        "s3://bucket/*.jsonl?a=b&security-token=hunter2",
        "az://c@account.blob/x?sv=1&sig=hunter2",
        "['gs://user:hunter2@bucket/x', 'gs://bucket']",
    ],
)
def test_passwords_are_not_repeated(text):
    """A password in a URI, copied to the task log by the error about it."""
    with pytest.raises(TaskDefinitionError, match="connection") as caught:
        URI.parse(text)
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["gs://b/a:b@c", "gs://c@b/x?token", "/home/a:b@c/x?token=y", "file:///a:b@c", "s3://b/?y=1/*.csv"]
)
def test_what_only_looks_like_a_password_is_read(text):
    """An "@" or a colon in the name of a file is no secret."""
    assert URI.parse(text).key


def test_a_text_without_end_is_refused_at_once():
    """A summary is an XCom that people edit, and a member's URI is in a file that others write."""
    with pytest.raises(TaskDefinitionError, match="takes over 4096"):
        URI.parse("gs://b/" + "//a:" * 1_000_000)


def test_steps():
    """A join that loses the connection or doubles a slash."""
    uri = URI.parse("gs://c@b/x")
    assert str(uri / "y z/w.parquet") == "gs://c@b/x/y z/w.parquet"
    assert str(uri.join("y/").join("z")) == "gs://c@b/x/y/z"
    assert (uri / "y").parent == uri
    assert str(uri.parent) == str(uri.parent.parent) == "gs://c@b"
    assert (uri / "y/z.gz").name == "z.gz"
    with pytest.raises(TaskDefinitionError):
        uri / "../z"


@given(st.lists(st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_round_trip(segments):
    """A character that parsing or printing changes."""
    segments = [segment for segment in segments if segment not in {".", ".."}] or ["x"]
    for start in ("gs://b/", "gs://c@b/", "file:///"):
        text = start + "/".join(segments)
        if start == "file:///":
            text = text.replace("\0", "0")  # no path can have one
        assert str(URI.parse(text)) == text


@pytest.mark.parametrize("text", ["/x/\0.jsonl", "file:///x\0/y", "gs://b/\udcff.jsonl", "/x/\udcff"])
def test_names_that_cannot_be(text):
    """It was "embedded null byte", or a manifest that could not be written after every answer was paid for."""
    with pytest.raises(TaskDefinitionError, match=r"NUL|not UTF-8"):
        URI.parse(text)
