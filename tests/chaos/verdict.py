"""What became of one run under a fault, and the table of them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Verdict", "judge", "table"]

STATUSES = ("ok", "unparsed", "failed")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One run of one fault: what was published, what it cost, and what it might have cost.

    :param fault: name of the fault.
    :param where: what it ran on, such as `process, file` or `Celery, gs`.
    :param seed: repeats the run.
    :param outcome: in a few words, what a user saw: `the retry finished`, `failed and said why, the clear finished`.
    :param rows: rows that the dataset should have.
    :param lost: of these, how many are not in the published dataset, or have no fate.
    :param doubled: rows that are in it more than once.
    :param paid: complete answers of status 200 that left the model.
    :param needed: answers that a run without a fault pays for.
    :param bound: answers that the promise allows; see `CONTRIBUTING.md`.
    :param problems: what else was not as promised: rows out of order, another row's answer, a half edition, a green task
        without a dataset.
    :param struck: whether the fault met what it was meant for; else everything was done before, and it is no run of the fault.
    """

    fault: str
    where: str
    seed: int
    outcome: str
    rows: int
    lost: int
    doubled: int
    paid: int
    needed: int
    bound: int
    seconds: float = 0.0
    problems: Sequence[str] = field(default=())
    struck: bool = True

    @property
    def broken(self) -> list[str]:
        """Promises that were not kept, beside rows lost or doubled and too many answers."""
        unpaid = [f"only {self.paid} of {self.needed} answers were paid"] if self.paid < self.needed else []
        return [*self.problems, *unpaid]

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.doubled or self.broken) and self.paid <= self.bound

    def __str__(self) -> str:
        mark = "kept" if self.kept else "BROKEN"
        said = "; ".join([self.outcome, *self.broken])
        return (
            f"{mark:6} {self.fault} ({self.where}, seed {self.seed}, {self.seconds:.0f} s): {said}; "
            f"{self.paid} paid, {self.needed} needed, bound {self.bound}; {self.lost} lost, {self.doubled} doubled"
        )


def judge(published: Iterable[dict[str, Any]], rows: int, not_ok: Collection[int] = ()) -> tuple[int, int, list[str]]:
    """Compare published rows with a source of `question 0`, `question 1`…; return how many are lost, doubled, and problems.

    :param published: rows of the dataset, in its order.
    :param rows: rows of the source.
    :param not_ok: those that may fail, or be unparsed; every other one has to be ok.
    """
    found = list(published)
    ordinals = [row["distil_row"] for row in found]
    counts = Counter(ordinals)
    lost = sum(ordinal not in counts for ordinal in range(rows)) + sum(row["distil_status"] is None for row in found)
    doubled = sum(count - 1 for count in counts.values())
    problems = []
    if ordinals != sorted(ordinals):
        problems.append("rows are out of order")
    if strange := [ordinal for ordinal in counts if not 0 <= ordinal < rows]:
        problems.append(f"rows {strange[:3]} are not of the source")
    if unknown := {row["distil_status"] for row in found} - {None, *STATUSES}:
        problems.append(f"no row can be {sorted(unknown)}")
    if bad := [row for row in found if row["distil_status"] not in ("ok", None) and row["distil_row"] not in not_ok]:
        example = f"row {bad[0]['distil_row']}: {bad[0]['distil_error']}"
        problems.append(f"{len(bad)} rows are not ok, such as {example}"[:300])
    wrong = [
        row["distil_row"]
        for row in found
        if row["instruction"] != f"question {row['distil_row']}"
        or (row["distil_status"] == "ok" and not row["generation"].endswith(row["instruction"]))
    ]
    if wrong:
        problems.append(f"{len(wrong)} rows have another row's text or answer, such as {wrong[0]}")
    return lost, doubled, problems


def table(verdicts: Iterable[Verdict]) -> str:
    """Return the verdicts as a Markdown table, one line for each fault and place."""
    kinds: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault((verdict.fault, verdict.where), []).append(verdict)
    lines = [
        "| Fault | On | Runs | Outcome | Answers paid (needed, bound) | Lost | Doubled |",
        "|---|---|---|---|---|---|---|",
    ]
    for (fault, where), runs in kinds.items():
        outcomes = Counter(run.outcome for run in runs)
        said = "; ".join(text if len(outcomes) == 1 else f"{count} × {text}" for text, count in outcomes.most_common())
        paid, needed, bound = (sum(getattr(run, name) for run in runs) for name in ("paid", "needed", "bound"))
        lost, doubled = sum(run.lost for run in runs), sum(run.doubled for run in runs)
        broken = sum(not run.kept for run in runs)
        said += f" (**{broken} broken**)" if broken else ""
        lines.append(f"| {fault} | {where} | {len(runs)} | {said} | {paid:,} ({needed:,}, {bound:,}) | {lost} | {doubled} |")
    return "\n".join(lines)
