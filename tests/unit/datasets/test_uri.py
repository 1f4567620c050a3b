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
    ],
)
def test_passwords_are_not_repeated(text):
    """A password in a URI, copied to the task log by the error about it."""
    with pytest.raises(TaskDefinitionError, match="connection") as caught:
        URI.parse(text)
    assert "hun" not in str(caught.value)


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
        assert str(URI.parse(text)) == text
