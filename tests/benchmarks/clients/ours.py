"""airflow-distil: a whole `Job` on local disk, from its start to the published manifest."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any

from clock import measured, told

from airflow_distil.datasets.manifest import Identity, Manifest
from airflow_distil.datasets.source import open_source
from airflow_distil.datasets.stores import FileStore, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine import Job
from airflow_distil.llms import OpenAILLM
from airflow_distil.tasks import TextGeneration


class WithoutPuts(FileStore):
    """A local store whose puts succeed and cost nothing, but for the few small objects that the protocol reads back."""

    def put(self, name: str, data: bytes | Path) -> None:
        if name.startswith(("_distil/claims/", "_distil/manifests/")):
            super().put(name, data)


class Watched(OpenAILLM):
    """An `OpenAILLM` that notes which event loop it was asked in."""

    loop = ""

    async def aclose(self) -> None:
        type(self).loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        await super().aclose()


def job(told: dict[str, Any]) -> Job:
    destination = URI.parse(told["destination"])
    identity = Identity(dag_id="benchmark", task_id="generate", run_id="run")
    return Job(
        task=TextGeneration(template="{{ instruction }}", output_mappings=told.get("output_mappings", {})),
        llm=Watched("fake", base_url=told["base_url"], max_concurrency=told.get("concurrency")),
        source=open_source(told["source"]),
        store=WithoutPuts(destination) if told.get("without_puts") else open_store(destination),
        destination=str(destination),
        identity=identity,
        ask=identity.ask(told.get("clears", 0), "2026-01-01"),
        scratch=Path(told["scratch"]),
    )


def run(told: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    doing = job(told)
    manifest: Manifest = doing.run(report=lambda progress: None)
    return {
        "ok": manifest.ok,
        "rows": manifest.rows,
        "replayed": doing.progress.replayed,
        "calls": doing.progress.asker.calls,
        "phases": {"asking": doing.progress._phase_began - began, "writing": time.monotonic() - doing.progress._phase_began},
        "loop": Watched.loop,
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    each = told()
    measured(lambda: run(each), "airflow-distil", "openai", "aiohttp", "pyarrow")
