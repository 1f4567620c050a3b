"""The operators that write instructions and pairs: what reaches the server, and what comes out."""

from __future__ import annotations

import pytest

from airflow_distil import open_dataset
from airflow_distil.operators.text import GenstructOperator, SelfInstructOperator
from airflow_distil.testing import FakeLLM, sensible
from tests.unit.operators.attempts import attempt

TOPICS = [{"title": "Tides", "passage": "The moon pulls the sea."}, {"title": "{{ ds }}", "passage": "Cork floats."}]


@pytest.fixture
def server(llm):
    """A model that answers in the form that each task asks for, as the default connection."""
    with FakeLLM(sensible) as server, server.as_connection():
        yield server


def rows(summary):
    return open_dataset(summary).to_table().to_pylist()


def test_self_instruct(server):
    """A parameter that does not reach the prompt, or a column of another name."""
    summary = attempt(
        SelfInstructOperator(
            task_id="task", source=TOPICS, input_mappings={"input": "passage"}, num_instructions=4,
            criteria_for_query_generation="In one word.", application_description="A quiz",
        )
    )  # fmt: skip
    assert (summary["ok"], summary["columns"]["instructions"]) == (2, "list<item: string>")
    assert [len(set(row["instructions"])) for row in rows(summary)] == [4, 4]
    prompts = sorted(body["messages"][0]["content"] for body in server.requests)
    for prompt, topic in zip(prompts, sorted(topic["passage"] for topic in TOPICS), strict=True):
        assert all(part in prompt for part in ("In one word.", "A quiz", "exactly 4", topic))


def test_genstruct_is_a_raw_completion(server):
    """The connection's own `stop` or `max_tokens` must neither replace the model's markers nor get lost."""
    summary = attempt(
        GenstructOperator(
            task_id="task", source=TOPICS, input_mappings={"content": "passage"},
            generation_kwargs={"max_tokens": 800, "stop": ["###"]},
        )
    )  # fmt: skip
    assert summary["ok"] == 2
    assert all(row["user"] and row["assistant"] for row in rows(summary))
    [body] = [body for body in server.requests if "Cork" in body["prompt"]]
    assert body["prompt"].startswith("[[[Title]]] {{ ds }}\n[[[Content]]] Cork floats.\n\n")
    assert (body["stop"], body["max_tokens"]) == (["[[[User]]]", "[[[Title]]]"], 800)


def test_genstruct_as_chat(server):
    """Servers without raw completions answer 404, and the task fails at its first row."""
    attempt(GenstructOperator(task_id="task", source=TOPICS, input_mappings={"content": "passage"}, as_chat=True))
    assert server.requests[0]["messages"][0]["content"].endswith("[[[User]]] ")
