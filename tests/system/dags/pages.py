"""What the pages of the UI are looked at with: datasets of several kinds, and tasks that end in other ways."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

import airflow_distil
from airflow_distil.operators import TextGenerationOperator, UltraFeedbackOperator

QUESTIONS = "{{ dag_run.conf['questions'] }}"

with DAG("reviews", schedule=None):
    answers = TextGenerationOperator(
        task_id="answers",
        source=QUESTIONS,
        num_generations=3,
        group_generations=True,
        add_raw_input=True,
        add_raw_output=True,
        generation_kwargs={"temperature": 0.7, "max_tokens": 300},
        output_mappings={"generation": "answers"},
        llm_conn_id="writer",
    )
    ratings = UltraFeedbackOperator(
        task_id="ratings",
        source=answers.output,
        input_mappings={"generations": "answers"},
        output_mappings={"model_name": "judge"},
        max_failure_ratio=0.3,
        llm_conn_id="judge",
    )

    @task
    def none_of_them(summary):
        import pyarrow as pa

        rows = airflow_distil.open_dataset(summary).to_table(columns=["instruction"])
        return airflow_distil.publish(rows.filter(pa.array([False] * len(rows))))

    none_of_them(ratings.output)

with DAG("topics", schedule=None):
    TextGenerationOperator.partial(task_id="by_topic", llm_conn_id="writer").expand(
        source=[[{"instruction": "Name a bird."}], [{"instruction": "Name a fish."}], [{"instruction": "Name a tree."}]]
    )
    TextGenerationOperator(
        task_id="elsewhere",
        source=[{"instruction": "Where is this?"}],
        destination="{{ dag_run.conf['elsewhere'] }}",
        llm_conn_id="writer",
    )

with DAG("refusals", schedule=None):
    TextGenerationOperator(
        task_id="refused", source=QUESTIONS, llm_conn_id="broken", retries=0, retry_delay=timedelta(seconds=0)
    )

with DAG("slow", schedule=None):
    TextGenerationOperator(
        task_id="watched", source=QUESTIONS, llm_conn_id="slow", max_concurrency=4, max_cost_usd=5, retries=0
    )

with DAG("bucket", schedule=None):
    TextGenerationOperator(
        task_id="in_gs",
        source=[{"instruction": "Name a lake."}, {"instruction": "Name a sea."}],
        destination="{{ dag_run.conf['bucket'] }}",
        llm_conn_id="writer",
    )

with DAG("patient", schedule=None):
    again = TextGenerationOperator(
        task_id="again", source="/nowhere/questions.jsonl", llm_conn_id="writer", retries=1, retry_delay=timedelta(hours=1)
    )
    TextGenerationOperator(
        task_id="after",
        source=again.output,
        columns=["generation"],
        template="{{ generation }}",
        llm_conn_id="writer",
    )

with DAG("hostile", schedule=None):
    TextGenerationOperator(task_id="echo", source=QUESTIONS, columns=["instruction"], llm_conn_id="echo")
