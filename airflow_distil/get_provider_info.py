"""What Airflow knows of this package without importing it."""

from __future__ import annotations

from typing import Any

__all__ = ["get_provider_info"]


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, in the form of Airflow's `provider_info.schema.json`."""
    # The plugin is not named here: it is an entry point of its own, because Airflow looks for plugins in this dictionary
    # only if `[core] lazy_discover_providers` is off, and then reports the second of one name as an import error.
    return {
        "package-name": "airflow-distil",
        "name": "Distil",
        "description": "LLM dataset generation as operators: rows in, Parquet out, and a retry never pays twice.",
        "integrations": [{"integration-name": "Distil", "external-doc-url": "https://pypi.org/project/airflow-distil/"}],
        "operators": [
            {
                "integration-name": "Distil",
                "python-modules": [
                    "airflow_distil.operators.base",
                    "airflow_distil.operators.embedding",
                    "airflow_distil.operators.evolution",
                    "airflow_distil.operators.judging",
                    "airflow_distil.operators.maintenance",
                    "airflow_distil.operators.text",
                ],
            }
        ],
        "hooks": [{"integration-name": "Distil", "python-modules": ["airflow_distil.hooks.llm"]}],
        "connection-types": [
            {
                "connection-type": "distil_llm",
                "hook-class-name": "airflow_distil.hooks.llm.LLMHook",
                "hook-name": "LLM (airflow-distil)",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "port", "schema"],
                    "relabeling": {"host": "Base URL", "password": "API key"},
                    "placeholders": {"host": "http://127.0.0.1:8000/v1 (empty: OpenAI)", "password": "empty if none is needed"},
                },
                "conn-fields": _conn_fields(),
            }
        ],
        "extra-links": ["airflow_distil.operators.links.DatasetLink"],
        "task-decorators": [{"name": "distil", "class-name": "airflow_distil.operators.decorator.distil_task"}],
        "config": {
            "distil": {
                "description": "Where airflow-distil keeps its datasets and its working files.",
                "options": {
                    "dataset_root": {
                        "description": "URI below which a task without a `destination` publishes, at dag/task/run.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "gs://my-bucket/datasets",
                        "default": None,
                    },
                    "scratch_dir": {
                        "description": (
                            "Folder on the worker for answers that are not uploaded yet, and for rows until all of them are "
                            "finished: together some 2 kB a row where its answer has 1 kB. By default one below the system's "
                            "temporary folder. If it outlives the task's process, a killed task loses none of them."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/var/lib/airflow/distil",
                        "default": None,
                    },
                    "ui_roots": {
                        "description": (
                            "URIs of folders, one a line or separated by commas, whose datasets the pages in the UI show; with "
                            "the connection, where tasks name one. By default `dataset_root`. The API server reads them."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "gs://my-bucket/datasets, s3://my_aws_conn@other-bucket/nightly",
                        "default": None,
                    },
                },
            }
        },
    }


def _conn_fields() -> dict[str, Any]:
    def number(label: str, description: str, *, type: str = "number", minimum: int = 0) -> dict[str, Any]:
        return {"label": label, "description": description, "schema": {"type": [type, "null"], "minimum": minimum}}

    def count(label: str, description: str) -> dict[str, Any]:
        return number(label, description, type="integer", minimum=1)

    return {
        "model": {
            "label": "Default model",
            "description": "Model of tasks that name none (for Azure: the deployment).",
            "schema": {"type": ["string", "null"]},
        },
        "backend": {
            "label": "Backend",
            "description": (
                "openai: OpenAI and all servers that speak its protocol. transformers: embeddings of a local model, named by "
                "its folder or its id at the Hugging Face Hub."
            ),
            "schema": {"type": "string", "enum": ["openai", "azure", "transformers"], "default": "openai"},
        },
        "api_version": {
            "label": "API version",
            "description": "Of Azure's API.",
            "schema": {"type": ["string", "null"]},
        },
        "device": {
            "label": "Device",
            "description": "Of a local model: cuda, cuda:1, cpu; by default cuda if there is one.",
            "schema": {"type": ["string", "null"]},
        },
        "timeout": number("Timeout", "Seconds for one call; by default 120.", minimum=1),
        "max_concurrency": count("Most requests in flight", "By default found while it runs."),
        "requests_per_minute": count("Requests per minute", "As the provider allows; by default what its replies say."),
        "tokens_per_minute": count("Tokens per minute", "As the provider allows; by default what its replies say."),
        "input_price": number("Input price", "US dollars per million input tokens; by default the provider's list price."),
        "output_price": number("Output price", "US dollars per million output tokens; by default the provider's list price."),
        "headers": {
            "label": "Headers",
            "description": 'Sent with each request, as a JSON object: {"X-Team": "data"}. Hidden, as they often hold keys.',
            "schema": {"type": ["string", "null"], "format": "password"},
        },
    }
