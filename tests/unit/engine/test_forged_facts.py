"""Facts in the log that no attempt of ours wrote: they cost a new question at most, and stop nothing."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_distil.conversation import Answer, Usage
from airflow_distil.datasets.log import Fact, Kind, Scratch, encode_segment
from airflow_distil.engine.dialogue import answer_of, check_body, read_body
from airflow_distil.engine.workspace import Workspace, default_scratch
from airflow_distil.exceptions import BadRow, Transient
from tests.unit.engine.lab import Lab, Model, ask, many

FORGED = [
    *(b"", b"null", b"[]", b"7", b"not json", b"\xff\xfe", b"{", b"[" * 100_000, b'{"text": 7}', b'{"text": {"a": 1}}'),
    *(b'{"usage": [1]}', b'{"usage": ["a", "b"]}', b'{"usage": [1e400, 1]}', b'{"usage": [-1, 1]}', b'{"usage": [1.5, 2]}'),
    *(b'{"usage": null}', b'{"vector": "abc"}', b'{"vector": [1, "x"]}', b'{"vector": [[1]]}', b'{"model": ["m"]}'),
    *(
        b'{"cost": "free"}',
        b'{"cost": -1.0}',
        b'{"cost": NaN}',
        b'{"cost": 1e400}',
        b'{"attempts": 9999999999}',
        b'{"latency": {}}',
        b'{"finish_reason": false}',
        b'{"text": "\\ud800"}',
    ),
]


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path / "scratch")
    yield lab
    lab.close()


def forge(lab: Lab, **changes) -> None:
    """Replace the log by one whose facts are changed."""
    facts = lab.facts()
    for name in lab.names("_distil/log/"):
        lab.store.delete(name)
    changed = [Fact(**{**{name: getattr(fact, name) for name in Fact._fields}, **changes}) for fact in facts]
    lab.store.put("_distil/log/000009-00000000000000aa/000001.arrow", encode_segment(changed))


def interrupted(lab: Lab) -> None:
    """Ask five rows, so that their facts are in the log, without an edition."""
    with pytest.raises(Exception, match="max_failure_ratio"):
        lab.run(many(6), Model(lambda prompt, _: Transient("no") if "5" in prompt else prompt), max_failure_ratio=0)
    assert len(lab.facts()) == 5


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr("airflow_distil.engine.asking.FIRST_WAIT", 0.0001)
    monkeypatch.setattr("airflow_distil.engine.asking.LONGEST_WAIT", 0.0001)


@pytest.mark.parametrize("body", FORGED, ids=lambda body: body[:20].decode("latin-1"))
def test_a_body_that_is_none_is_asked_again(lab, body, caplog):
    """It raised where it was read, in each attempt, for as long as the file was there."""
    interrupted(lab)
    forge(lab, body=body)
    again = Model()
    rows = lab.run(many(6), again)
    assert [row["distil_status"] for row in rows] == ["ok"] * 6
    assert len(again.asked) == 6
    assert "is left out" in caplog.text


@pytest.mark.parametrize("kind", [Kind.BAD_ROW, Kind.TRANSIENT])
def test_a_failure_without_an_error_is_asked_again(lab, kind):
    """Its reason was looked up in the dict."""
    interrupted(lab)
    forge(lab, kind=kind, body=b"{}")
    assert [row["distil_status"] for row in lab.run(many(6), Model())] == ["ok"] * 6


def test_a_transient_failure_in_the_log_is_not_believed(lab):
    """No attempt uploads one, and a row with one was never asked again."""
    interrupted(lab)
    forge(lab, kind=Kind.TRANSIENT, body=b'{"error": "forged"}')
    assert [row["distil_status"] for row in lab.run(many(6), Model())] == ["ok"] * 6


@pytest.mark.parametrize("name", ["ordinal", "sample", "step", "number", "claim"])
def test_places_that_do_not_exist_do_no_harm(lab, name):
    """An index that is as long as its highest row number, or a count that runs over."""
    interrupted(lab)
    forge(lab, **{name: 2**32 - 1 if name in {"sample", "step", "claim"} else 2**64 - 1})
    assert [row["distil_status"] for row in lab.run(many(6), Model())] == ["ok"] * 6
    assert [row["distil_status"] for row in lab.run(many(6), Model(), ask=ask(2), on_existing="regenerate")] == ["ok"] * 6


text = st.text(st.characters())  # with halves of surrogate pairs


@given(
    st.builds(
        Answer,
        text=st.none() | text,
        vector=st.none() | st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=3),
        finish_reason=st.none() | text,
        model=st.none() | text,
        usage=st.builds(Usage, st.none() | st.integers(0, 2**30), st.none() | st.integers(0, 2**30)),
        latency=st.none() | st.floats(0, 1e6),
    )
    | st.builds(BadRow, text)
)
@settings(max_examples=60)
def test_what_we_write_we_read(tmp_path_factory, said):
    """A check stricter than the writer throws paid answers away; half a surrogate in a model's name broke the last step."""
    lab = Lab(tmp_path_factory.mktemp("scratch"))
    try:
        lab.run(many(1), Model(lambda *_: said))
        for fact in lab.facts():
            check_body(fact)
            assert answer_of(read_body(fact)).text == json.loads(fact.body).get("text")
    finally:
        lab.close()


# Whatever somebody put into the columns that are ours.


@pytest.mark.parametrize(
    "row",
    [
        {"distil_status": ["ok"]},
        {"distil_status": {"a": 1}},
        {"distil_status": "failed", "distil_error": 7},
        {"distil_status": "failed", "distil_error": {"a": 1}},
        {"distil_status": "failed", "distil_error": "upstream\n[2026] ERROR forged"},
        {"distil_metadata": [{"task": 7, "input_tokens": "many"}]},
        {"distil_metadata": [{"latency_s": "slow"}]},
        {"distil_metadata": "none"},
        {"distil_metadata": [{"attempts": 2**40}]},
    ],
    ids=str,
)
def test_columns_of_ours_that_are_not_ours_stop_nothing(lab, row):
    """They raised in the middle of a run, or after every call was paid."""
    [written] = lab.run([{"instruction": "a", **row}], Model())
    assert written["distil_status"] in {"ok", "skipped"}


class TestScratch:
    def test_a_folder_that_somebody_else_can_write_to_is_not_used(self, tmp_path, monkeypatch):
        """Facts that are found there are believed."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        folder = tmp_path / f"airflow-distil-{os.getuid()}"
        assert default_scratch() == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o777)
        with pytest.raises(PermissionError, match="only this user"):
            default_scratch()

    @pytest.mark.parametrize("kind", ["link", "file", "open"])
    def test_the_folder_of_a_destination_is_ours(self, tmp_path, kind):
        """In a scratch folder for everybody, a link under its name had us delete what it led to, or believe it."""
        ours = Workspace(tmp_path / "scratch", "destination", "000001-aa")
        (family,) = (tmp_path / "scratch").iterdir()
        assert family.stat().st_mode & 0o777 == 0o700
        ours.close(keep=False)
        family.rmdir()
        precious = tmp_path / "precious" / "000000-bb" / "file"
        precious.parent.mkdir(parents=True)
        precious.write_text("mine")
        if kind == "link":
            family.symlink_to(tmp_path / "precious")
        elif kind == "file":
            family.write_text("x")
        else:
            family.mkdir()
            family.chmod(0o777)
        with pytest.raises(PermissionError, match="only this user"):
            Workspace(tmp_path / "scratch", "destination", "000002-cc")
        assert precious.read_text() == "mine"

    def test_a_folder_of_another_user_is_not_used(self, tmp_path, monkeypatch):
        """Its name can be guessed, so another user can make it first."""
        (tmp_path / "scratch").mkdir()
        Workspace(tmp_path / "scratch", "destination", "000001-aa").close(keep=True)
        monkeypatch.setattr("airflow_distil.engine.workspace.os.getuid", lambda: 12345)
        with pytest.raises(PermissionError, match="only this user"):
            Workspace(tmp_path / "scratch", "destination", "000002-bb")

    def test_nobody_else_reads_what_is_in_scratch(self, tmp_path):
        """Answers and prompts lie there until they are uploaded."""
        old = os.umask(0)
        try:
            workspace = Workspace(tmp_path / "scratch", "destination", "000001-aa")
            Scratch(workspace.path / "facts").close()
        finally:
            os.umask(old)
        folders = [tmp_path / "scratch", workspace.path.parent, workspace.path, workspace.path / "facts"]
        assert [path.stat().st_mode & 0o077 for path in folders] == [0, 0, 0, 0]
        workspace.close(keep=False)


def test_pyarrow_is_one_that_does_not_unpickle():
    """Before 14.0.1 a Parquet file could carry a pickled type, and reading its schema ran it (CVE-2023-47248)."""
    assert int(pa.__version__.split(".")[0]) >= 19


def test_an_answer_that_no_log_can_keep_costs_its_row_alone(lab):
    """One count beyond its column, or a number that is not finite, and a whole segment was left out: all was paid for again."""
    odd = Answer(text="odd", usage=Usage(2**31, 1))
    first = Model(lambda prompt, _: odd if prompt == "question 3" else prompt)
    with pytest.raises(Exception, match="max_failure_ratio"):
        lab.run(many(6), first, max_failure_ratio=0)
    again = Model()
    lab.run(many(6), again, ask=ask(2))
    assert set(again.asked) & set(first.asked) == {"question 3"}
    assert sorted({*first.asked, *again.asked}) == [f"question {number}" for number in range(6)]


def test_one_bad_fact_of_a_segment_takes_nobody_along(lab):
    """A single fact that was not ours made the other thousand of its segment void."""
    interrupted(lab)
    facts = lab.facts()
    for name in lab.names("_distil/log/"):
        lab.store.delete(name)
    bad = facts[0]._replace(body=b'{"text": 7}')
    lab.store.put("_distil/log/000009-00000000000000aa/000001.arrow", encode_segment([bad, *facts[1:]]))
    model = Model()
    lab.run(many(6), model, ask=ask(2))
    assert sorted(model.asked) == sorted([f"question {facts[0].ordinal}", "question 5"])
