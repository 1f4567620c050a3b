"""Every night: a one-sentence summary of each passage, then a question that the passage answers.

Needs a connection `distil_llm_default`. `make demo` runs it on a small local model; see `data/LICENSE.md` for the text.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_distil.operators import TextGenerationOperator

PASSAGES = Path(__file__).parent / "data" / "passages.jsonl"

with DAG(
    "nightly_summaries",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["distil"],
    doc_md=__doc__,
):
    summaries = TextGenerationOperator(
        task_id="summaries",
        source=str(PASSAGES),
        columns=["title", "passage"],
        template="Summarise this text about {{ title }} in one short sentence.\n\n{{ passage }}",
        generation_kwargs={"max_tokens": 80, "temperature": 0},
        output_mappings={"generation": "summary"},
    )
    TextGenerationOperator(
        task_id="questions",
        source=summaries.output,
        columns=["passage"],
        template="{{ passage }}\n\nWrite one short question about this text. Reply with only the question.",
        generation_kwargs={"max_tokens": 60, "temperature": 0},
        output_mappings={"generation": "question"},
    )
