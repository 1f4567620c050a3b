"""Data Designer: one column of text over a seed of rows, as many parallel requests as told, and its metrics server off."""

from __future__ import annotations

from clock import measured, prompts, told


def main() -> None:
    each = told()
    import data_designer.config as dd
    import pandas as pd
    from data_designer.interface import DataDesigner

    frame = pd.DataFrame({"instruction": list(prompts(each["rows"], each["characters"]))})
    model = dd.ModelConfig(
        alias="fake",
        model="fake",
        provider="local",
        skip_health_check=True,
        inference_parameters=dd.ChatCompletionInferenceParams(max_parallel_requests=each["concurrency"]),
    )
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=frame))
    builder.add_column(dd.LLMTextColumnConfig(name="generation", prompt="{{ instruction }}", model_alias="fake"))
    designer = DataDesigner(
        artifact_path=each["folder"],
        model_providers=[dd.ModelProvider(name="local", endpoint=each["base_url"], provider_type="openai", api_key="none")],
    )
    designer.set_run_config(dd.RunConfig(otel_metrics_port=None))
    measured(
        lambda: {"ok": len(designer.create(builder, num_records=each["rows"], dataset_name="out").load_dataset())},
        "data-designer",
    )


if __name__ == "__main__":
    main()
