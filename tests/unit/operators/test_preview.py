"""A look at an operator of a DAG file: from Python, and from the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from airflow.sdk import DAG, task

from airflow_distil import preview
from airflow_distil.__main__ import main
from airflow_distil.exceptions import SourceError, TaskDefinitionError
from airflow_distil.llms import OpenAILLM
from airflow_distil.operators import DistilOperator, EvolInstructGeneratorOperator, TextGenerationOperator
from airflow_distil.tasks import TextGeneration
from airflow_distil.testing import FakeLLM, Fault, sensible
from tests.unit.operators.attempts import attempt

ROWS = [{"instruction": f"What is {{{{ {number} }}}}?"} for number in range(10)]


def text(**options):
    return TextGenerationOperator(**{"task_id": "answers", "source": ROWS, **options})


def prompts(found):
    return [prompt for sample in found.samples for prompt in sample.prompts]


class TestOperator:
    def test_shows_what_its_run_would_ask(self, llm):
        """Another model, other parameters, or a prompt that Airflow has rendered."""
        with llm.as_connection("other", model="small", input_price=1.0, output_price=2.0):
            operator = text(llm_conn_id="other", generation_kwargs={"max_tokens": 5}, template="Say: {{ instruction }}")
            found = preview(operator, rows=3, ask=2)
        assert (found.task, found.model, found.rows, found.price) == ("text_generation", "small", 10, (1.0, 2.0))
        assert all(prompt.startswith("[user] Say: What is {{ ") for prompt in prompts(found))
        asked = [body for body in llm.requests if body.get("max_tokens") == 5]
        assert {f"[user] {body['messages'][-1]['content']}" for body in asked} <= set(prompts(found))
        assert len(asked) == len(llm.requests) == 2
        assert found.cost_usd.total == pytest.approx(5 * sum(sample.cost_usd for sample in found.samples if sample.cost_usd))

    def test_keeps_to_its_bounds(self, llm, tmp_path):
        """The whole file was counted, although the task reads a hundred rows of it."""
        (tmp_path / "rows.csv").write_text("n,instruction\n" + "".join(f"{n},q{n}\n" for n in range(50)))
        operator = text(
            source=f"file://{tmp_path}/rows.csv", limit=7, schema={"n": "int64"}, columns="n", template="{{ n + 1 }}"
        )
        found = preview(operator, rows=7)
        assert found.rows == 7
        assert prompts(found) == [f"[user] {n + 1}" for n in range(7)]

    def test_another_source_can_be_given(self, llm):
        """What upstream will return is not there yet, but last night's is."""
        published = attempt(text())
        late = text(source="{{ ti.xcom_pull('upstream') }}", template="Again: {{ generation }}", columns="generation",
                    output_mappings={"generation": "again", "model_name": "again_by"})  # fmt: skip
        for source in (published, published["uri"], [published]):
            assert prompts(preview(late, source, rows=1))[0].startswith("[user] Again: ")

    @pytest.mark.parametrize("source", ["{{ params.source }}", ["s3://b/{{ ds }}/*"], "{% if x %}a{% endif %}"])
    def test_a_template_is_not_taken_for_a_source(self, llm, source):
        """The error was about a file of that name."""
        with pytest.raises(TaskDefinitionError, match=r"Pass source=<URI, rows or a summary>; .*--source"):
            preview(text(source=source))

    def test_nor_is_what_comes_from_upstream(self, llm):
        """As above."""
        with DAG("chain"):
            first = text(task_id="first")
            second = text(task_id="second", source=first.output, output_mappings={"generation": "b"})
            both = text(task_id="both", source=[first.output, ROWS[0]])
        for operator in (second, both):
            with pytest.raises(TaskDefinitionError, match="comes from an upstream task"):
                preview(operator)
        assert preview(second, ROWS).rows == 10

    @pytest.mark.parametrize("name", ["model", "llm_conn_id"])
    def test_a_model_that_is_a_template_is_said(self, llm, name):
        """The model "{{ params.model }}" was asked for, and not found."""
        with pytest.raises(TaskDefinitionError, match=f"{name} of 'answers' is a template"):
            preview(text(**{name: "{{ params.x }}"}))

    def test_a_generator_needs_no_source(self, llm):
        """It was asked for one."""
        operator = EvolInstructGeneratorOperator(task_id="new", num_instructions=12)
        assert (preview(operator, rows=2).rows, len(prompts(preview(operator, rows=2)))) == (12, 2)
        with pytest.raises(TaskDefinitionError, match="leave out source"):
            preview(operator, ROWS)

    def test_a_decorated_function(self, llm):
        """What `@task.distil` returns when it is called is no operator."""

        @task.distil(outputs={"summary": str})
        def summarise(row):
            answer = yield f"Summarise {row['instruction']}"
            return {"summary": answer}

        with DAG("decorated"):
            called = summarise(ROWS)
        assert prompts(preview(called, rows=1))[0].startswith("[user] Summarise What is {{ ")

    def test_a_mapped_operator_shows_its_first_instance(self, llm):
        """A task that is mapped could not be looked at."""
        with DAG("mapped"):
            mapped = TextGenerationOperator.partial(task_id="m", template="Now: {{ instruction }}").expand(
                source=[[{"instruction": "a"}], [{"instruction": "b"}]]
            )
            models = TextGenerationOperator.partial(task_id="n", source=ROWS).expand(model=["one", "two"])
            late = TextGenerationOperator.partial(task_id="o").expand(source=text().output)
        assert prompts(preview(mapped)) == ["[user] Now: a"]
        assert preview(models).model == "one"
        assert preview(models).notes[-1] == "It is mapped: this is its first instance, and all others come on top."
        with pytest.raises(TaskDefinitionError, match=r"mapped over source.*pass source="):
            preview(late)
        assert preview(late, ROWS).rows == 10

    def test_a_limit_that_will_not_do_is_said(self, llm):
        """$0.22 were estimated, and the run stopped at $0.05."""
        with llm.as_connection("priced", model="small", input_price=1.0, output_price=2.0):
            little = preview(text(llm_conn_id="priced", max_cost_usd=1e-9, max_total_tokens=10), ask=2)
            enough = preview(text(llm_conn_id="priced", max_cost_usd=9.0, max_total_tokens=100_000), ask=2)
        assert little.notes[-2:] == (
            "By this estimate, max_cost_usd=1e-09 stops it before all rows are done.",
            "By this estimate, max_total_tokens=10 stops it before all rows are done.",
        )
        assert not any("stops it" in note for note in enough.notes)

    def test_a_plain_task(self, llm):
        """In a notebook there is no operator."""
        model = OpenAILLM("fake", base_url=llm.base_url)
        assert len(preview(TextGeneration(llm=model), ROWS, rows=2, ask=2).samples[0].answers) == 1
        assert preview(TextGeneration(), ROWS).model is None
        with pytest.raises(TaskDefinitionError, match="pass source="):
            preview(TextGeneration(llm=model))
        with pytest.raises(TaskDefinitionError, match="not a dict"):
            preview({})

    def test_writes_nothing_at_the_destination(self, llm, tmp_path):
        """A claim of the preview superseded the run of the night."""
        preview(text(destination=f"file://{tmp_path}/out"), ask=2)
        assert not (tmp_path / "out").exists()

    def test_inside_a_running_loop(self, llm):
        """A notebook runs one."""
        import asyncio

        async def cell():
            return preview(text(), ask=2)

        assert len(asyncio.run(cell()).samples) == 5


DAGS = """
from airflow.sdk import DAG
from airflow_distil.operators import TextGenerationOperator

with DAG("one"):
    TextGenerationOperator(task_id="answers", source=[{"instruction": "What does a lynx eat?"}])
    TextGenerationOperator(task_id="late", source="{{ params.source }}")
    TextGenerationOperator(task_id="both", source=[{"instruction": "one"}])
with DAG("two"):
    TextGenerationOperator(task_id="both", source=[{"instruction": "two"}])
"""


class TestCommand:
    @pytest.fixture(autouse=True)
    def path(self, monkeypatch):
        monkeypatch.setattr(sys, "path", [*sys.path])

    @pytest.fixture
    def file(self, tmp_path):
        file = tmp_path / "my_dag.py"
        file.write_text(DAGS)
        return str(file)

    def test_shows_a_task_of_a_dag_file(self, llm, file, capsys):
        """The one command that somebody runs before the bill."""
        assert main(["preview", file, "answers", "--ask", "1"]) == 0
        shown = capsys.readouterr().out
        assert "text_generation: 1 row, by fake" in shown
        assert "What does a lynx eat?" in shown
        assert "Measured: all rows were asked" in shown

    def test_of_several_dags_one_is_named(self, llm, file, capsys):
        """A file with two DAGs."""
        assert main(["preview", file, "both"]) == 2
        assert "say which with --dag. Tasks: one.answers, one.both, one.late, two.both." in capsys.readouterr().err
        assert main(["preview", file, "both", "--dag", "two"]) == 0
        assert "[user] two" in capsys.readouterr().out

    def test_a_wrong_id_is_answered_by_the_right_ones(self, llm, file, capsys):
        """A KeyError."""
        assert main(["preview", file, "answer"]) == 2
        assert "has no task 'answer'. It has: one.answers, one.both, one.late, two.both." in capsys.readouterr().err

    def test_a_source_can_be_given(self, llm, file, tmp_path, capsys):
        """Where the DAG gets it at run time."""
        (tmp_path / "rows.jsonl").write_text('{"instruction": "from a file"}\n')
        assert main(["preview", file, "late"]) == 2
        assert "--source" in capsys.readouterr().err
        assert main(["preview", file, "late", "--source", f"file://{tmp_path}/rows.jsonl"]) == 0
        assert "from a file" in capsys.readouterr().out

    def test_a_file_that_is_not_there_or_cannot_be_imported(self, tmp_path, capsys):
        """A traceback of Airflow's."""
        assert main(["preview", str(tmp_path / "none.py"), "x"]) == 2
        assert "There is no DAG file" in capsys.readouterr().err
        (tmp_path / "broken.py").write_text("from airflow.sdk import DAG\nraise RuntimeError('no such luck')")
        assert main(["preview", str(tmp_path / "broken.py"), "x"]) == 2
        assert "no such luck" in capsys.readouterr().err

    def test_a_file_that_imports_its_neighbour(self, llm, tmp_path, capsys):
        """Airflow finds it in the DAGs folder."""
        (tmp_path / "neighbour_of_a_dag.py").write_text("TASK = 'answers'\n")
        (tmp_path / "dag.py").write_text(
            f"from neighbour_of_a_dag import TASK\n{DAGS.replace(chr(34) + 'answers' + chr(34), 'TASK')}"
        )
        assert main(["preview", str(tmp_path / "dag.py"), "answers"]) == 0

    def test_nobody_answered_is_no_success(self, file, capsys):
        """A script went on, with a bill of nothing."""
        with FakeLLM(faults=[Fault(status=400, times=None)]) as llm, llm.as_connection():
            assert main(["preview", file, "answers", "--ask", "1"]) == 1
        assert "was answered" in capsys.readouterr().out

    def test_is_a_module_that_can_be_run(self, file):
        """`python -m airflow_distil` did nothing, or printed what Airflow logs among the rest."""
        with FakeLLM(sensible) as llm, llm.as_connection():
            done = subprocess.run(
                [sys.executable, "-m", "airflow_distil", "preview", file, "answers"],
                check=False,
                capture_output=True,
                text=True,
                timeout=120,
            )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("text_generation: 1 row, by fake")


def test_operators_of_own_tasks(llm):
    """`DistilOperator` has its task in an argument."""
    found = preview(DistilOperator(task_id="own", task=TextGeneration(), source=ROWS), rows=1)
    assert found.rows == 10
    with pytest.raises(SourceError):
        preview(text(), "file:///nowhere/at/all.jsonl")
