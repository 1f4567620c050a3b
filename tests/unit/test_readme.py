"""What README.md and CONTRIBUTING.md tell people to type, typed."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from airflow_distil.get_provider_info import get_provider_info
from airflow_distil.hooks.llm import LLMHook
from airflow_distil.testing import FakeLLM
from tests import reference

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]
TEXTS = {name: (PROJECT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
MODULE = re.compile(r"# airflow_distil/(?P<package>\w+)/(?P<module>\w+)\.py\n")
# What a shell block may start a line with besides settings.
COMMANDS = ("make ", "pip ", "python ", ".venv/bin/python ")
INFO = get_provider_info()
OPTIONS = INFO["config"]["distil"]["options"]


@dataclass(frozen=True)
class Snippet:
    """One fenced block of a document."""

    document: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def snippets() -> list[Snippet]:
    """Return the fenced blocks of all documents."""
    return [
        Snippet(name, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for name, text in TEXTS.items()
        for found in re.finditer(r"^```(.*)\n([\s\S]*?)^```$", text, re.MULTILINE)
    ]


def of(language: str) -> list[Any]:
    return [pytest.param(snippet, id=str(snippet)) for snippet in snippets() if snippet.language == language]


def commands() -> list[str]:
    """Return the shell commands of all documents: those in blocks, and those that start an inline code span."""
    blocks = [line for snippet in snippets() if snippet.language == "bash" for line in snippet.code.splitlines()]
    spans = [span for text in TEXTS.values() for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)]
    return [line for line in [*blocks, *spans] if line.startswith(COMMANDS)]


# Python


@dataclass
class World:
    """Where the snippets run: a fake LLM, a folder in place of /tmp/distil and the bucket, and a DAGs folder."""

    folder: Path
    dags: Path
    llm: FakeLLM

    def place(self, code: str) -> str:
        """Return the code with its addresses replaced by those that exist here."""
        places = {
            "/tmp/distil": str(self.folder / "datasets"),
            "gs://my-bucket": str(self.folder / "bucket"),
            "http://127.0.0.1:8000/v1": self.llm.base_url,
        }
        for there, here in places.items():
            code = code.replace(there, here)
        # A run has the name that Airflow gives it; the latest is meant.
        return re.sub(r"(/\S+)/<run>", lambda found: str(max(Path(found[1]).iterdir(), key=os.path.getmtime)), code)

    def run_dag(self, code: str) -> None:
        """Run a DAG file, and check that every row of all that it publishes is ok."""
        name = re.match(r"# dags/(\w+)\.py\n", code)
        assert name is not None, "a DAG file begins with its name: # dags/….py"
        (self.dags / f"{name[1]}.py").write_text(self.place(code))
        importlib.invalidate_caches()
        module = importlib.import_module(name[1])
        before = self.manifests()
        run = module.dag.test()
        assert run.state == "success"
        published = [json.loads(manifest.read_text()) for manifest in self.manifests() - before]
        assert published
        for manifest in published:
            assert (manifest["ok"], manifest["reasons"]) == (manifest["rows"], {})

    def manifests(self) -> set[Path]:
        return set(self.folder.glob("**/_distil/manifests/*.json"))


def show_modules(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Put the modules that CONTRIBUTING adds to the package where they can be imported, as if they were in it."""
    for snippet in snippets():
        if found := MODULE.match(snippet.code):
            package = importlib.import_module(f"airflow_distil.{found['package']}")
            added = folder / found["package"]
            added.mkdir(exist_ok=True)
            (added / f"{found['module']}.py").write_text(snippet.code)
            patch.setattr(package, "__path__", [*package.__path__, str(added)])
    importlib.invalidate_caches()


def reply(messages: list[dict[str, Any]]) -> str | dict[str, Any]:
    """Say what a model would that understands the prompts of the documents."""
    prompt = str(messages[-1]["content"])
    if "Reply with the number" in prompt:
        return "4"
    if "Describe this animal" in prompt:
        return {"name": prompt.rpartition(" ")[2], "legs": 4}
    return f"An answer to {prompt.splitlines()[0]!r}"


@pytest.fixture(scope="module")
def world(airflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which the smallest DAG has run, as a reader's has who comes to the later snippets."""
    folder, dags = tmp_path_factory.mktemp("readme"), airflow_db / "dags"
    (folder / "bucket" / "questions").mkdir(parents=True)
    (folder / "bucket" / "questions" / "a.jsonl").write_text('{"question": "What does a lynx eat?"}\n')
    there = {*dags.iterdir()}
    with FakeLLM(answer=reply) as llm, llm.as_connection(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__DISTIL__DATASET_ROOT", str(folder / "datasets"))
        patch.setenv("AIRFLOW__DISTIL__SCRATCH_DIR", str(folder / "scratch"))
        patch.syspath_prepend(str(dags))
        world = World(folder, dags, llm)
        smallest = next(snippet for snippet in snippets() if "with DAG(" in snippet.code)
        world.run_dag(smallest.code)
        show_modules(folder, patch)
        yield world
    for file in {*dags.glob("*.py")} - there:
        file.unlink()
        sys.modules.pop(file.stem, None)


@pytest.mark.parametrize("snippet", of("python"))
def test_python_runs(snippet: Snippet, world: World, request: pytest.FixtureRequest):
    """An example that fails is the first thing of this package that a newcomer sees."""
    if "with DAG(" in snippet.code:
        world.run_dag(snippet.code)
        return
    if found := MODULE.match(snippet.code):
        importlib.import_module(f"airflow_distil.{found['package']}.{found['module']}")
        return
    namespace: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(world.place(snippet.code), str(snippet), "exec"), namespace)
    for name, test in namespace.items():
        if name.startswith("test_"):
            test(**{fixture: request.getfixturevalue(fixture) for fixture in inspect.signature(test).parameters})


# Shell


@pytest.mark.parametrize("snippet", of("bash"))
def test_exports_are_accepted(snippet: Snippet, monkeypatch: pytest.MonkeyPatch):
    """A connection with a misspelt field, or JSON that a shell breaks, sends people to the issue tracker."""
    script = "\n".join(line for line in snippet.code.splitlines() if not line.startswith(COMMANDS))
    if not script:
        return
    assert script.startswith("export "), "nothing else is to be run here"
    clean = {"PATH": os.environ["PATH"]}
    shell = ["bash", "-euc", f"{script}\nenv -0"]
    output = subprocess.run(shell, check=True, capture_output=True, text=True, env=clean).stdout
    given = dict(each.split("=", 1) for each in output.split("\0") if each.startswith("AIRFLOW"))
    assert given, "a block of neither commands nor settings"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
        if name.startswith("AIRFLOW_CONN_"):
            llm = LLMHook(name.removeprefix("AIRFLOW_CONN_").lower()).get_conn()
            assert llm.model == json.loads(value)["extra"]["model"]
            assert llm.base_url == json.loads(value)["host"]
        else:
            assert name.removeprefix("AIRFLOW__DISTIL__").lower() in OPTIONS


@pytest.mark.parametrize("command", sorted({line for line in commands() if line.startswith("make ")}))
def test_make_targets_exist(command: str):
    """A target that was renamed fails at the front door."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    words = shlex.split(command)
    dry = subprocess.run(
        [words[0], "-n", *words[1:]], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert dry.returncode == 0, dry.stderr


def test_what_is_promised_is_tested():
    """The two commands of the front door are only as good as what runs them at each change."""
    assert "make test" in (PROJECT / ".ci" / "run").read_text()
    makefile = (PROJECT / "Makefile").read_text()
    assert re.search(r"^test:.*\bsystem\b", makefile, re.MULTILINE)
    [module] = re.findall(r"^demo:.*\n\t.*python -m (\S+)$", makefile, re.MULTILINE)
    assert module in (PROJECT / "tests" / "system" / "test_demo.py").read_text()


@pytest.mark.parametrize("command", sorted({line for line in commands() if "python -m " in line}))
def test_modules_exist(command: str):
    """A command that names a module which moved."""
    assert importlib.util.find_spec(shlex.split(command)[2]) is not None


def test_installs_are_pinned():
    """An install beside the constraints gets versions that nobody has tried."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = [shlex.split(line) for line in commands() if line.startswith("pip install ")]
    assert lines
    for line in lines:
        assert line[2:4] == ["-c", "constraints.txt"], line
        for extra in re.findall(r"\[(\w+)\]", line[-1]):
            assert extra in settings["optional-dependencies"]
    pinned = re.findall(r"^([\w.-]+)==", (PROJECT / "constraints.txt").read_text(), re.MULTILINE)
    wanted = [*settings["dependencies"], *chain(*settings["optional-dependencies"].values())]
    assert {re.split(r"[\[><=]", each)[0] for each in wanted} <= set(pinned)


# Everything else


def test_every_block_is_checked():
    """A block in a language that no test here knows could say anything."""
    assert {snippet.language for snippet in snippets()} <= {"python", "bash", "ini", "text"}


@pytest.mark.parametrize("snippet", of("ini"))
def test_configuration_is_complete(snippet: Snippet):
    """An option that is not there, or one that nobody finds."""
    parser = ConfigParser()
    parser.read_string(snippet.code)
    assert set(parser["distil"]) == set(OPTIONS)


def test_connection_fields_are_complete():
    """A field of the form that the table does not explain, or the other way round."""
    [connection] = INFO["connection-types"]
    table = TEXTS["README.md"].partition("| Field |")[2].partition("\n\n")[0]
    labels = ", ".join(row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")).split(", ")
    fields = {field["label"] for field in connection["conn-fields"].values()}
    assert set(labels) == fields | set(connection["ui-field-behaviour"]["relabeling"].values())
    keys = [key for row in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[2])]
    assert set(keys) == {*connection["conn-fields"], "host", "password"}


def test_output_columns_are_complete():
    """A column that users find in their rows and nowhere in the text."""
    from airflow_distil.engine.write import OURS

    assert re.findall(r"^\| `(distil_\w+)` \|", TEXTS["README.md"], re.MULTILINE) == list(OURS)


def test_figures_are_those_of_the_code():
    """A retry story with last year's numbers."""
    from airflow_distil.engine.ask import GRACE, UPLOAD_EVERY
    from airflow_distil.engine.asking import LONGEST_TOLD, PATIENCE, TRIES
    from airflow_distil.engine.facts import SEGMENT_BYTES
    from airflow_distil.engine.selection import HOPELESS
    from airflow_distil.operators import DistilOperator
    from airflow_distil.operators.attempt import LONGEST_WAIT

    ratio = inspect.signature(DistilOperator.__init__).parameters["max_failure_ratio"].default
    for said in (
        f"tries {TRIES} times",
        f"none of the first {HOPELESS} rows is answered",
        f"refused for {PATIENCE / 60:g} minutes",
        f"in more than {LONGEST_TOLD / 60:g} minutes",
        f"given up {['', 'one day', 'two days'][LONGEST_WAIT.days]} after the first time",
        f"every {UPLOAD_EVERY:g} seconds (or {SEGMENT_BYTES >> 20} MiB)",
        f"within {GRACE:g} seconds",
        f"`max_failure_ratio` ({ratio})",
    ):
        assert said in TEXTS["README.md"]


def test_links_lead_somewhere():
    """A file that was moved leaves a dead link."""
    for name, text in TEXTS.items():
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (PROJECT / link).exists(), f"{name} links to {link}"


def test_the_table_of_tasks_is_that_of_the_code():
    """A task was added or a column renamed, and the README told of the old ones. `python -m tests.reference` writes it anew."""
    assert f"{reference.BEGIN}\n{reference.table()}\n{reference.END}" in TEXTS["README.md"]


def test_each_method_is_named():
    """A task that is said to follow a paper did not say which."""
    plain = {"ChatGeneration", "TextGeneration"}
    assert {row.split("`")[1] for row in reference.table().splitlines()[2:] if row.endswith("| – |")} == plain
