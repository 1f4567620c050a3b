"""Plain tasks between tasks that ask a model, in SQL: explode a list column, join two siblings, filter.

`open_dataset` gives what a task published as an Arrow dataset, `publish` makes a dataset of whatever duckdb returns. Needs a
connection `distil_llm_default`, `[distil] dataset_root` and `pip install airflow-distil[duckdb]`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, task

from airflow_distil import open_dataset, publish
from airflow_distil.operators import TextGenerationOperator

SUBJECTS: list[dict[str, Any]] = [
    {"subject": "tides", "facts": ["The moon pulls the sea.", "Most coasts see two high tides a day."]},
    {"subject": "salt", "facts": ["Salt lowers the freezing point of water."]},
    {"subject": "cork", "facts": ["Cork is bark.", "A cork oak is peeled every nine years.", "Cork floats."]},
]


@task
def explode(subjects: list[dict[str, Any]]) -> dict[str, Any]:
    """Make one row of each element of a list column."""
    import duckdb
    import pyarrow as pa

    with duckdb.connect() as db:
        db.register("subjects", pa.Table.from_pylist(subjects))
        return publish(db.sql("SELECT subject, unnest(facts) AS fact FROM subjects"))


@task
def join(questions: Any, summaries: Any) -> dict[str, Any]:
    """Put what two siblings made of the same rows side by side."""
    import duckdb

    with duckdb.connect() as db:
        db.register("asked", open_dataset(questions))
        db.register("told", open_dataset(summaries))
        # Rows are numbered within one source, so siblings agree on them. Mapped ones number within each instance;
        # `distil_map` tells which, and is null in unmapped ones, where `=` would find nothing.
        return publish(
            db.sql("""
                SELECT asked.subject, asked.fact, question, summary
                FROM asked JOIN told
                ON asked.distil_row = told.distil_row AND asked.distil_map IS NOT DISTINCT FROM told.distil_map
                WHERE asked.distil_status = 'ok' AND told.distil_status = 'ok'
                ORDER BY asked.distil_map, asked.distil_row
            """)
        )


@task
def keep_short(joined: dict[str, Any]) -> dict[str, Any]:
    """Keep the rows whose fact is short."""
    import duckdb

    with duckdb.connect() as db:
        db.register("joined", open_dataset(joined))
        return publish(db.sql("SELECT * FROM joined WHERE length(fact) < 30"))


QUESTION = {
    "columns": "fact",
    "template": "{{ fact }}\n\nWrite one short question that this answers. Reply with only the question.",
    "output_mappings": {"generation": "question"},
}
SUMMARY = {
    "columns": ["subject", "fact"],
    "template": "Say in three words what this tells about {{ subject }}: {{ fact }}",
    "output_mappings": {"generation": "summary"},
}

with DAG("duckdb_steps", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), tags=["distil"], doc_md=__doc__):
    facts = explode(SUBJECTS)
    whole = [
        TextGenerationOperator(task_id="questions", source=facts, **QUESTION),
        TextGenerationOperator(task_id="summaries", source=facts, **SUMMARY),
    ]
    keep_short(join(*(each.output for each in whole)))

    # The same, with a task instance for each subject.
    shards = [[{"subject": each["subject"], "fact": fact} for fact in each["facts"]] for each in SUBJECTS]
    mapped = [
        TextGenerationOperator.partial(task_id="mapped_questions", **QUESTION).expand(source=shards),
        TextGenerationOperator.partial(task_id="mapped_summaries", **SUMMARY).expand(source=shards),
    ]
    join.override(task_id="join_mapped")(*(each.output for each in mapped))
