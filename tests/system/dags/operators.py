"""DAGs for `test_operators`: what a user would write, each for several cases. Their paths come from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, Asset, Param, task
from pydantic import BaseModel

from airflow_distil.conversation import ChatType, Row, user
from airflow_distil.operators import ChatGenerationOperator, DistilOperator, TextGenerationOperator
from airflow_distil.tasks import Task

HERE = os.environ.get("DISTIL_TEST_FOLDER", "/nowhere")
START = datetime(2026, 1, 1, tzinfo=UTC)


class Shout(Task):
    """A task defined in a DAG file."""

    mark: str = "!"

    @property
    def inputs(self) -> list[str]:
        return ["instruction"]

    @property
    def outputs(self) -> list[str]:
        return ["shout"]

    def format_input(self, input: Row) -> ChatType:
        return [user(f"Shout: {input['instruction']}{self.mark}")]

    def format_output(self, output: str | None, input: Row) -> Row:
        return {"shout": (output or "").upper()}


class Verdict(BaseModel):
    verdict: str
    score: float


with DAG(
    "straight", start_date=START, schedule=None, default_args={"max_failure_ratio": 0.5, "columns": "question", "seed": 7}
):
    text = TextGenerationOperator(
        task_id="text",
        source=[{"question": "What is {{ 6 * 7 }}?"}, {"question": "Why {% raw %}?"}],
        template="Q: {{ question }}",
        outlets=[Asset("straight_text")],
    )
    chat = ChatGenerationOperator(
        task_id="chat", source=[{"messages": [{"role": "user", "content": "{{ ds }}"}]}], generation_kwargs={"temperature": 0.5}
    )
    own = DistilOperator(task_id="own", source=text.output, task=Shout(mark="?!", input_mappings={"instruction": "generation"}))
    structured = TextGenerationOperator(
        task_id="structured",
        source=[{"question": "JSON, please"}],
        template="{{ question }}",
        structured_output=Verdict,
    )
    schema = TextGenerationOperator(
        task_id="schema",
        source=[{"question": "JSON, please, again"}],
        template="{{ question }}",
        structured_output={"type": "object", "required": ["verdict"]},
    )

    @task.distil(
        outputs={"summary": str, "length": int}, inputs=["question"], num_generations=2, destination=f"{HERE}/decorated"
    )
    def summarise(row: Row, rng: Any) -> Iterator[Any]:
        first = yield f"Summarise {row['question']} {rng.random() < 2}"
        second = yield [user(f"Shorter: {first}")]
        return {"summary": second, "length": len(second)}

    decorated = summarise(text.output)
    both = TextGenerationOperator(
        task_id="both", source=[text.output, text.output], columns="generation", template="Again: {{ generation }}",
        output_mappings={"generation": "again"},
    )  # fmt: skip

    @task
    def rows() -> list[Row]:
        return [{"question": "{{ 2 }}"}, {"question": "three"}]

    mixed = TextGenerationOperator(task_id="mixed", source=[{"question": "{{ 1 }}"}, rows()], template="{{ question }}")


with DAG("mapped", start_date=START, schedule=None):
    sources = TextGenerationOperator.partial(task_id="sources", destination=f"{HERE}/mapped/{{{{ ds }}}}").expand(
        source=[[{"instruction": "{{ 1 + 1 }} a"}, {"instruction": "b"}], [{"instruction": "c"}], f"{HERE}/{{{{ ds }}}}.jsonl"]
    )
    TextGenerationOperator(
        task_id="reduce", source=sources.output, columns="generation", template="{{ generation }}",
        output_mappings={"generation": "reduced"},
    )  # fmt: skip
    TextGenerationOperator.partial(task_id="fields", source=[{"instruction": "{{ ds }}"}]).expand(num_generations=[1, 2, 3])
    TextGenerationOperator.partial(task_id="chained").expand_kwargs(
        [{"source": [{"instruction": "x"}], "model": "four"}, {"source": [{"instruction": "y"}], "model": "{{ 2 + 2 }}"}]
    )
    TextGenerationOperator.partial(task_id="per_summary", columns="generation", output_mappings={"generation": "third"},
                                   template="Per: {{ generation }}").expand(source=sources.output)  # fmt: skip
    DistilOperator.partial(task_id="own", source=[{"instruction": "x {{ ds }}"}], task=Shout()).expand(model=["m1", "m2"])
    DistilOperator.partial(task_id="tasks", source=[{"instruction": "x"}]).expand(task=[Shout(mark="1"), Shout(mark="2")])

    @task
    def shards() -> list[list[Row]]:
        return [[{"instruction": "{{ ds }} one"}], [{"instruction": "two"}]]

    TextGenerationOperator.partial(task_id="upstream_rows").expand(source=shards())

    @task.distil(outputs={"echo": str})
    def echo(row: Row) -> Iterator[str]:
        text = yield f"echo {row['instruction']}"
        return {"echo": text}

    echo.expand(row=[[{"instruction": "{{ ds }}"}], [{"instruction": "e2"}]])


with DAG(
    "native",
    start_date=START,
    schedule=None,
    render_template_as_native_obj=True,
    params={"model": Param("4"), "number": Param(7)},
):
    first = TextGenerationOperator(
        task_id="first",
        source=[{"instruction": "{{ 1 }}"}],
        model="{{ params.model }}",
        destination=HERE + "/native/{{ params.number }}",
        on_existing="{{ 'reuse' }}",
    )
    listed = TextGenerationOperator(
        task_id="listed",
        source="{{ [ti.xcom_pull('first'), ti.xcom_pull('first')] }}",
        model="4",
        columns="generation",
        template="{{ generation }}",
        output_mappings={"generation": "second"},
    )
    number = TextGenerationOperator.partial(task_id="number", source="{{ [{'instruction': 'native row'}] }}").expand(
        model=["{{ params.model }}", "5"]
    )
    first >> listed


with DAG("one_summary_expanded", start_date=START, schedule=None):
    whole = TextGenerationOperator(task_id="whole", source=[{"instruction": "a"}])
    TextGenerationOperator.partial(task_id="wrongly").expand(source=whole.output)
