"""distilabel: a pipeline of one task, whose batch is as large as the concurrency: there is no other way to say how many."""

from __future__ import annotations

from clock import measured, prompts, told


def main() -> None:
    each = told()
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps.tasks import TextGeneration

    rows = [{"instruction": text} for text in prompts(each["rows"], each["characters"])]

    def run() -> dict:
        with Pipeline(name="benchmark") as pipeline:
            TextGeneration(
                llm=OpenAILLM(model="fake", base_url=each["base_url"], api_key="none"), input_batch_size=each["concurrency"]
            )
        made = pipeline.run(dataset=rows, use_cache=False)["default"]["train"]
        return {"ok": sum(text is not None for text in made["generation"])}

    measured(run, "distilabel", "openai")


if __name__ == "__main__":
    main()
