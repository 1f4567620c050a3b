"""A task of your own: the model explains something, then criticises what it wrote and writes it anew. Each turn is kept.

Needs a connection `distil_llm_default` and `[distil] dataset_root`.
"""

from pathlib import Path

from airflow.sdk import DAG, task

PASSAGES = str(Path(__file__).parent / "data" / "passages.jsonl")

with DAG("draft_and_improve", schedule=None, tags=["distil"], doc_md=__doc__):

    @task.distil(outputs={"draft": str, "explanation": str}, inputs=["title", "passage"], limit=20)
    def explain(row):
        question = f"Explain to a child what {row['title']} means. Use this text:\n\n{row['passage']}"
        draft = yield question
        better = yield [
            {"role": "user", "content": question},
            {"role": "assistant", "content": draft},
            {"role": "user", "content": "What would a child not understand in it? Write it anew, without that and shorter."},
        ]
        return {"draft": draft, "explanation": better}

    explain(PASSAGES)
