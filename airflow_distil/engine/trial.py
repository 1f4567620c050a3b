"""A look at a task before it runs: prompts of some rows, real answers to some of those, and what all of them would cost."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from pydantic import SkipValidation

from airflow_distil.conversation import LLM, Conversation, Row
from airflow_distil.datasets.source import Source, rows_of
from airflow_distil.engine.columns import Columns
from airflow_distil.engine.dialogue import Outcome, Speech
from airflow_distil.engine.estimate import Estimate, estimated, spread
from airflow_distil.engine.job import check_columns
from airflow_distil.engine.preview import Preview, Sample, unanswered
from airflow_distil.engine.rows import Twins, dialogues, is_skipped
from airflow_distil.engine.standalone import run_aside
from airflow_distil.exceptions import TaskDefinitionError, one_line
from airflow_distil.llms.prices import dollars, price_of
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.generator import GeneratorTask

__all__ = ["try_out"]

# Of English prose; of other text a model makes up to three times as many tokens.
BYTES_PER_TOKEN = 4


def try_out(task: Task, llm: LLM | None, source: Source, *, rows: int = 5, ask: int = 0) -> Preview:
    """Look at a task; see `airflow_distil.preview`. Nothing is written but to a temporary folder.

    :param llm: whom it asks; None if nobody is asked.
    :param source: its rows; of a generator its candidates.
    """
    _check(task, llm, source, rows=rows, ask=ask)
    if isinstance(task, GeneratorTask):
        # The first ones are asked in any case.
        total, chosen, plain = task.num_rows, list(range(min(max(rows, ask), task.num_rows))), _candidates(task)
    else:
        total, chosen, plain = source.rows, spread(source.rows, max(rows, ask), Random(task.seed)), task
    asked = spread(len(chosen), ask, Random(task.seed))
    calls = 0
    with tempfile.TemporaryDirectory(prefix="airflow-distil-") as folder:
        looked_at = source.picked(chosen)
        samples = _with_prompts(plain, llm, looked_at, chosen, Path(folder))
        if llm is not None and asked:
            calls, answers = _ask(plain, llm, looked_at.picked(asked), Path(folder))
            for at, answer in zip(asked, answers, strict=True):
                samples[at] = replace(answer, row=chosen[at])
    figures, notes = _figures(plain, total, samples, [samples[at] for at in asked], calls)
    if isinstance(task, GeneratorTask):
        notes.append("Counted as if each candidate became a row; those that are lost come on top.")
    price = price_of(llm) if llm is not None else None
    if llm is not None and price is None:
        notes.append("No price is known for this model at this endpoint: set input_price and output_price on the connection.")
    elif price is not None and price.output is None and figures[2] is not None and figures[3] is None and asked:
        notes.append("Of this model only input_price is set: set output_price on the connection, too.")
    per_million = (price.input * 1e6, None if price.output is None else price.output * 1e6) if price else (None, None)
    return Preview(
        task=task.name,
        model=llm.model if llm is not None else None,
        rows=total,
        price=per_million,
        samples=tuple(samples),
        calls=figures[0],
        input_tokens=figures[1],
        output_tokens=figures[2],
        cost_usd=figures[3],
        notes=tuple(notes),
    )


class _Candidates(Task):
    """A generator's candidates as plain rows: each is shown, whether the generator would accept it or not."""

    generator: SkipValidation[GeneratorTask]

    @property
    def output_types(self) -> Any:  # type: ignore[override]
        return self.generator.output_types

    @property
    def inputs(self) -> Any:
        return self.generator.inputs

    @property
    def outputs(self) -> Any:
        return self.generator.outputs

    def converse(self, input: Row, rng: Random) -> Conversation:
        return self.generator.converse(input, rng)


def _candidates(task: GeneratorTask) -> Task:
    return _Candidates(generator=task, name=task.name, seed=task.seed, output_mappings=task.output_mappings)


def _check(task: Task, llm: LLM | None, source: Source, *, rows: int, ask: int) -> None:
    for name, value, least in (("rows", rows, 1), ("ask", ask, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise TaskDefinitionError(f"preview: {name} is {value!r}; it must be a whole number, at least {least}.")
    if ask and llm is None:
        raise TaskDefinitionError(f"preview: ask={ask} needs a model, and task {task.name!r} has none. Give the task an llm.")
    task.check()
    check_columns(task, source.schema)


def _with_prompts(task: Task, llm: LLM | None, source: Source, chosen: list[int], folder: Path) -> list[Sample]:
    """Return the chosen rows with what they ask first."""
    speech = Speech(
        task=task,
        model=llm.model if llm is not None else "",
        parameters=llm.parameters if llm is not None else {},
        round=1,
        ask=bytes(16),
        read=Columns(task.output_names, task.output_types).read,
    )
    with closing(Twins(folder / "twins", len(chosen) * task.num_generations)) as twins:
        rows = (row for batch in source.batches() for row in rows_of(batch))
        samples = []
        for ordinal, row in zip(chosen, rows, strict=True):
            if is_skipped(row):
                samples.append(_skipped(ordinal))
                continue
            prompts: dict[str, None] = {}  # the samples of a row mostly ask the same
            status = error = None
            for dialogue in dialogues(speech, row, ordinal, twins):
                match dialogue.advance(lambda key, ordinal, sample, *, own: None):  # noqa: ARG005 - called by these names
                    case Outcome() as ended:  # without a question
                        status, error = ended.status, one_line(ended.error or "")
                    case turns:
                        prompts.update((_readable(turn.content), None) for turn in turns)
            samples.append(Sample(ordinal, tuple(prompts), status=status, error=error or None))
    return samples


def _skipped(ordinal: int) -> Sample:
    return Sample(ordinal, (), status="skipped", input_tokens=0, output_tokens=0, cost_usd=0.0)


def _ask(task: Task, llm: LLM, source: Source, folder: Path) -> tuple[int, list[Sample]]:
    """Run the task over rows. Return the calls, and each row's answers."""
    told = task.model_copy(update={"add_raw_input": True, "add_raw_output": True})
    asker, written = run_aside(told, llm, source, folder)
    samples = []
    # What upstream tasks of ours paid for is in the same list, before what this one did.
    for ordinal, row in enumerate(row for batch in source.batches() for row in rows_of(batch)):
        earlier = row.get("distil_metadata")
        known = sum(isinstance(entry, dict) for entry in earlier) if isinstance(earlier, list) else 0
        samples.append(_answered(task, [each for each in written if each["distil_row"] == ordinal], known))
    return asker.calls - asker.retries, samples


def _answered(task: Task, rows: list[Row], known: int) -> Sample:
    if rows[0]["distil_status"] == "skipped":
        return _skipped(0)
    entries = [entry for row in rows for entry in row["distil_metadata"][known:]]
    worst = next((row for row in rows if row["distil_status"] != "ok"), rows[0])
    names = [task.output_mappings.get(name, name) for name in task.output_names]
    return Sample(
        row=0,
        prompts=tuple(_readable(entry["raw_input"]) for entry in entries),
        answers=tuple(entry["raw_output"] for entry in entries),  # why there is none is in `error`
        status=worst["distil_status"],
        error=worst["distil_error"],
        outputs=tuple({name: row[name] for name in names} for row in rows),
        requests=len(entries),
        # A failure mostly costs nothing.
        **{
            name: _sum((entry[name] or 0) if entry["error"] else entry[name] for entry in entries)
            for name in ("input_tokens", "output_tokens", "cost_usd")
        },
    )


def _figures(
    task: Task, total: int, samples: list[Sample], asked: list[Sample], calls: int
) -> tuple[list[Estimate | None], list[str]]:
    """Return estimates of calls, input tokens, output tokens and dollars, and what they come from."""
    if unanswered(asked):
        return [None] * 4, [f"None of the rows that were asked ({len(asked)}) was answered: there is nothing to go by."]
    if asked:
        answers = sum(sample.requests for sample in asked)
        values = [
            # Several samples may come with one call.
            [sample.requests * calls / max(answers, 1) for sample in asked],
            *([getattr(sample, name) for sample in asked] for name in ("input_tokens", "output_tokens", "cost_usd")),
        ]
        figures = [estimated(each, total) if None not in each else None for each in values]
        paid = _sum(sample.cost_usd for sample in asked)
        cost = "" if paid is None else f", which cost {dollars(paid)}"
        if len(asked) == total:
            return figures, [f"Measured: all rows were asked{cost}."]
        if len(asked) == 1:
            note = f"From the one row that was asked{cost}. With ask=2 or more, there is an interval."
        elif all(figure is None or figure.low is None for figure in figures):
            note = f"From the {len(asked)} rows that were asked{cost}; no figure of theirs differs, so there is no interval."
        else:
            note = f"In brackets: the 95 % t-interval over the {len(asked)} rows that were asked{cost}."
        return figures, [note]
    if type(task).converse is not Task.converse:
        return [None] * 4, ["How many turns a row takes shows when some are asked, such as with ask=3."]
    alive = [sample for sample in samples if sample.status is None]
    share = len(alive) / len(samples) * task.num_generations
    size = sum(len(prompt.encode("utf-8", "surrogatepass")) for sample in alive for prompt in sample.prompts)
    requests = max(sum(len(sample.prompts) for sample in alive), 1)
    note = (
        f"Nothing was asked. Calls: one for each row{' and sample' * (task.num_generations > 1)}, if each answer can be read. "
        f"Input tokens: guessed at one for {BYTES_PER_TOKEN} bytes of the prompts below. ask=3 measures them, and the rest."
    )
    return [Estimate(total * share), Estimate(total * share * size / requests / BYTES_PER_TOKEN), None, None], [note]


def _sum(values: Any) -> Any:
    listed = list(values)
    return None if None in listed else sum(listed)


def _readable(content: bytes | str) -> str:
    """Return a request as people read it: what each says in a conversation, or the text."""
    request = json.loads(content.decode("utf-8", "surrogatepass") if isinstance(content, bytes) else content)
    if (messages := request.get("messages") or _chat(request.get("input"))) is not None:
        return "\n".join(f"[{message.get('role')}] {_text(message.get('content'))}" for message in messages)
    candidates = "".join(f"\n[candidate {number}] {each}" for number, each in enumerate(request.get("candidates", ())))
    return f"{request.get('prompt', request.get('input'))}{candidates}"


def _chat(said: Any) -> Sequence[Any] | None:
    return said if isinstance(said, list) else None


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
