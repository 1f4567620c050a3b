"""Every night: new instructions, two answers each from two models, ratings, and, once a person agrees, pairs to train with.

    topics → ask → instructions → evolve → prompts → answer, answer_second → candidates → judge → approve → pairs

Needs the connections `distil_llm_default` and `distil_llm_second` (two models to compare; the first one also writes the
instructions and judges), `[distil] dataset_root` and `pip install airflow-distil[duckdb]`. See `data/LICENSE.md` for the text.

The run waits at `approve` until somebody has looked at the figures, in the UI under *Required Actions*. If a task is cleared,
only what failed is asked for again, and a dataset that would be the same is not published twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, Param, task

from airflow_distil import open_dataset, publish
from airflow_distil.operators import (
    EvolInstructOperator,
    SelfInstructOperator,
    TextGenerationOperator,
    UltraFeedbackOperator,
)

PASSAGES = Path(__file__).parent / "data" / "passages.jsonl"
PREFERENCES = Asset("preferences")


def query(sql: str, **datasets: Any) -> dict[str, Any]:
    """Publish what a query over published datasets returns, as the dataset of the task that calls this."""
    import duckdb

    with duckdb.connect() as db:
        for name, dataset in datasets.items():
            db.register(name, open_dataset(dataset))
        return publish(db.sql(sql))


@task
def topics(params: dict[str, Any]) -> dict[str, Any]:
    """Take the passages that this night's instructions are about."""
    import duckdb

    with duckdb.connect() as db:
        passages = db.read_json(str(PASSAGES)).limit(params["topics"])
        return publish(passages.project("title, concat(title, ': ', passage) AS input"))


@task
def instructions(asked: dict[str, Any]) -> dict[str, Any]:
    """Make a row of each instruction, and leave out what was asked before. A list that came out too short is good enough."""
    return query(
        """
        SELECT title, instruction
        FROM (
            SELECT distil_row, title, unnest(instructions) AS instruction, generate_subscripts(instructions, 1) AS position
            FROM asked
        )
        QUALIFY row_number() OVER (PARTITION BY lower(instruction) ORDER BY distil_row, position) = 1
        ORDER BY distil_row, position
        """,
        asked=asked,
    )


@task
def prompts(evolved: dict[str, Any]) -> dict[str, Any]:
    """Take the evolved instructions; where none came of it, the instruction as it was."""
    return query(
        "SELECT title, coalesce(evolved_instruction, instruction) AS instruction FROM evolved ORDER BY distil_row",
        evolved=evolved,
    )


@task
def candidates(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Put the four answers to an instruction side by side, where all four are there."""
    return query(
        """
        SELECT
            first.title,
            first.instruction,
            first.generation || second.generation AS generations,
            [first.model_name, first.model_name, second.model_name, second.model_name] AS models
        FROM first JOIN second USING (distil_row)
        WHERE first.distil_status = 'ok' AND second.distil_status = 'ok'
        ORDER BY distil_row
        """,
        first=first,
        second=second,
    )


@task(outlets=[PREFERENCES])
def pairs(judged: dict[str, Any], outlet_events: Any = None) -> dict[str, Any]:
    """Pair the best answer with the worst; where all are equally good, there is nothing to prefer."""
    summary = query(
        """
        SELECT
            title,
            instruction,
            generations[best] AS chosen, models[best] AS chosen_model, ratings[best] AS chosen_rating,
            generations[worst] AS rejected, models[worst] AS rejected_model, ratings[worst] AS rejected_rating
        FROM (
            SELECT *, list_position(ratings, list_max(ratings)) AS best, list_position(ratings, list_min(ratings)) AS worst
            FROM judged WHERE distil_status = 'ok'
        )
        WHERE ratings[best] > ratings[worst]
        ORDER BY distil_row
        """,
        judged=judged,
    )
    outlet_events[PREFERENCES].extra = summary
    return summary


FIGURES = """
{% set judged = ti.xcom_pull(task_ids="judge") %}
| rated | answer of the judge not readable | no answer | mean rating | cost in USD |
|---|---|---|---|---|
| {{ judged.ok }} of {{ judged.rows }} | {{ judged.unparsed }} | {{ judged.failed }} | {{
    "%.2f" | format(judged.numbers.ratings.mean) if "ratings" in judged.numbers else "none" }} | {{
    judged.cost_usd if judged.cost_usd is not none else "unknown" }} |

Judged by {{ judged.model }}. The rows are at `{{ judged.uri }}`.
"""

with DAG(
    "nightly_preferences",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    params={"topics": Param(10, type="integer", minimum=1, description="passages to write instructions about")},
    # A person decides at the end whether enough came of it, so no task fails over its share of bad rows.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10), "max_failure_ratio": 1.0},
    tags=["distil"],
    doc_md=__doc__,
):
    asked = SelfInstructOperator(
        task_id="ask",
        source=topics(),
        num_instructions=3,
        generation_kwargs={"max_tokens": 300},
    )
    evolved = EvolInstructOperator(
        task_id="evolve",
        source=instructions(asked.output),
        num_evolutions=1,
        generation_kwargs={"max_tokens": 150},
    )
    two_answers: dict[str, Any] = {
        "source": prompts(evolved.output),
        "system_prompt": "Answer in at most three sentences.",
        "num_generations": 2,
        "group_generations": True,
        "generation_kwargs": {"temperature": 1, "max_tokens": 150},
    }
    first = TextGenerationOperator(task_id="answer", **two_answers)
    second = TextGenerationOperator(task_id="answer_second", llm_conn_id="distil_llm_second", **two_answers)
    judged = UltraFeedbackOperator(
        task_id="judge",
        source=candidates(first.output, second.output),
        structured_output=True,
        generation_kwargs={"max_tokens": 300},
    )
    approved = ApprovalOperator(
        task_id="approve",
        subject="Publish the preferences of {{ run_id }}?",
        body=FIGURES,
    )
    judged >> approved >> pairs(judged.output)
