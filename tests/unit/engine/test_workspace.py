"""Folders of attempts on one host: a lock tells the living from the dead."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from airflow_distil.engine.workspace import FACTS, Workspace


def names(workspace: Workspace) -> list[str]:
    return [folder.name for folder in workspace.earlier()]


def test_earlier_attempts_are_found_in_order(tmp_path):
    """The oldest facts first, so that later ones win."""
    opened = [Workspace(tmp_path, "gs://b/x", f"{number:06d}-n") for number in (2, 10, 1)]
    assert names(opened[1]) == ["000001-n", "000002-n"]
    for workspace in opened:
        workspace.close(keep=False)


def test_other_destinations_are_not(tmp_path):
    """Their facts are of other questions."""
    one, other = Workspace(tmp_path, "gs://b/x", "000001-n"), Workspace(tmp_path, "gs://b/y", "000001-m")
    assert names(one) == []
    one.close(keep=False)
    other.close(keep=False)


def test_living_attempt_keeps_everything(tmp_path):
    """Its index and parts are in use."""
    living = Workspace(tmp_path, "d", "000001-n")
    (living.path / "index").write_text("x")
    (living.path / FACTS).write_text("x")
    newer = Workspace(tmp_path, "d", "000002-n")
    assert names(newer) == ["000001-n"]
    newer.forget_earlier()
    assert sorted(path.name for path in living.path.iterdir()) == [FACTS, "index"]
    newer.close(keep=False)
    living.close(keep=False)


def test_dead_attempt_keeps_its_facts_until_they_are_taken_over(tmp_path):
    """And nothing else: parts of a killed attempt are gigabytes."""
    dead = Workspace(tmp_path, "d", "000001-n")
    (dead.path / "index").write_text("x")
    (dead.path / FACTS).write_text("x")
    os.close(dead._lock)
    newer = Workspace(tmp_path, "d", "000002-n")
    newer.forget_earlier()
    assert (dead.path / FACTS).exists(), "nobody has read them yet"
    assert names(newer) == ["000001-n"]
    assert [path.name for path in dead.path.iterdir()] == [FACTS]
    newer.forget_earlier()
    assert not dead.path.exists()
    newer.close(keep=False)


def test_reader_that_fails_in_the_middle_has_not_taken_over(tmp_path):
    """What it did not come back from, it has not read."""
    for number in (1, 2):
        dead = Workspace(tmp_path, "d", f"{number:06d}-n")
        (dead.path / FACTS).write_text("x")
        os.close(dead._lock)
    newer = Workspace(tmp_path, "d", "000003-n")
    folders = newer.earlier()
    next(folders)
    second = next(folders)
    folders.close()
    newer.forget_earlier()
    assert [folder.name for folder in newer.path.parent.iterdir() if folder != newer.path] == [second.name]
    newer.close(keep=False)


def test_killed_process_is_dead(tmp_path):
    """SIGKILL leaves no time to unlock; the kernel does it."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from airflow_distil.engine.workspace import FACTS, Workspace
        workspace = Workspace(Path(sys.argv[1]), "d", "000001-n")
        (workspace.path / FACTS).write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], check=False)
    assert done.returncode == -9
    newer = Workspace(tmp_path, "d", "000002-n")
    assert names(newer) == ["000001-n"]
    newer.forget_earlier()
    assert names(newer) == []
    newer.close(keep=False)


def test_closing_keeps_the_facts_if_told(tmp_path):
    """They are nowhere else when the last upload failed."""
    workspace = Workspace(tmp_path, "d", "000001-n")
    (workspace.path / "index").write_text("x")
    (workspace.path / FACTS).write_text("x")
    workspace.close(keep=True)
    assert [path.name for path in workspace.path.iterdir()] == [FACTS]


def test_facts_are_for_their_user_only(tmp_path):
    """Prompts and answers may be private, and /tmp is everybody's."""
    workspace = Workspace(tmp_path, "d", "000001-n")
    assert workspace.path.stat().st_mode & 0o077 == 0
    workspace.close(keep=False)
