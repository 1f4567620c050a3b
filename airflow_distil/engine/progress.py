"""Where a run stands: counted while it asks, shown in the log and in the UI."""

from __future__ import annotations

import builtins
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from airflow_distil.engine.asking import Asker
from airflow_distil.engine.budget import Budget
from airflow_distil.exceptions import TooManyFailures

__all__ = ["Progress", "Tally"]

# A whole answer, or a whole prompt that a provider repeats, must not become a key.
REASON_LENGTH = 200
# A reason that quotes its row is another one for each row; beyond this many they are counted together.
MOST_REASONS = 1000
OTHER_REASONS = "other reasons"
SHOWN_ORDINALS = 3
SHOWN_REASONS = 3
SHOWN_KINDS = 5
# Of a curve that is some hundred pixels wide. They travel with each report, so there is an end to them.
SAMPLES = 120
SAMPLE_EVERY = 1.0


@dataclass(slots=True)
class Tally:
    """Counts output rows by their fate, and keeps to `max_failure_ratio`.

    :param total: output rows there will be.
    :param max_failure_ratio: allowed share of failed and unparsed rows among those not skipped.
    :param lost: a generator's candidates that became no row: `rejected`, `unparsed` or `failed`. They are outside the ratio.
    """

    total: int
    max_failure_ratio: float
    # With zeros: what is missing costs more to look up.
    counts: Counter[str] = field(default_factory=lambda: Counter(ok=0, unparsed=0, failed=0, skipped=0))
    reasons: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    transient: int = 0
    _examples: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, ordinal: int, status: str, error: str | None = None, *, transient: bool = False) -> None:
        """Count one output row.

        :raises TooManyFailures: as soon as the ratio cannot be kept any more, whatever the other rows become.
        """
        self.counts[status] += 1
        if status not in {"ok", "skipped"}:
            self._note(ordinal, error or status, transient=transient)
        # Also when a row was skipped: that leaves fewer rows to be a share of.
        if self.failures > self.max_failure_ratio * (self.total - self.counts["skipped"]):
            raise self._too_many()

    def lose(self, candidate: int, status: str, error: str | None, *, transient: bool = False) -> None:
        """Count a candidate that becomes no row."""
        self.lost[status] += 1
        self._note(candidate, error or status, transient=transient)

    @property
    def done(self) -> int:
        """Output rows whose fate is known."""
        return self.counts.total()

    @property
    def failures(self) -> int:
        """Output rows that failed or could not be parsed."""
        return self.counts["failed"] + self.counts["unparsed"]

    def kinds(self) -> list[dict[str, Any]]:
        """Return of which kinds the reasons are, with how often each was and some of its rows: no word that others wrote."""
        kinds: Counter[str] = Counter()
        rows: dict[str, list[int]] = defaultdict(list)
        for reason, count in self.reasons.items():
            kinds[_kind(reason)] += count
            rows[_kind(reason)] += self._examples[reason]
        return [
            {"kind": kind, "count": count, "rows": sorted(rows[kind])[:SHOWN_ORDINALS]}
            for kind, count in kinds.most_common(SHOWN_KINDS)
        ]

    def too_few(self, what: str) -> TooManyFailures:
        """Return what to raise when candidates cannot make all rows any more.

        :param what: why they cannot.
        """
        lost = ", ".join(f"{count} {status}" for status, count in self.lost.most_common())
        advice = (
            "The next attempt asks the candidates with passing failures again."
            if self.transient
            else "Change the task, or raise max_candidates if it was near, then clear the task instance."
        )
        return TooManyFailures(
            f"{what}: {self.done} were accepted so far and {self.lost.total()} were lost ({lost}). Nothing was published; the "
            "answers so far are kept. "
            f"Commonest reasons: {self._commonest('candidate')}. {advice}",
            final=not self.transient,
        )

    def unheard(self, rows: int) -> TooManyFailures:
        """Return what to raise when it is no use to go on asking.

        :param rows: how many were asked in vain.
        """
        return TooManyFailures(
            f"None of the first {rows} rows that were asked was answered, so nothing more is asked. Nothing was published; the "
            f"answers so far are kept. Commonest reasons: {self._commonest('row')}. The next attempt asks them again.",
            final=False,
        )

    def _note(self, ordinal: int, reason: str, *, transient: bool) -> None:
        self.transient += transient
        reason = reason[:REASON_LENGTH]
        if reason not in self.reasons and len(self.reasons) >= MOST_REASONS:
            reason = OTHER_REASONS
        self.reasons[reason] += 1
        if len(self._examples[reason]) < SHOWN_ORDINALS:
            self._examples[reason].append(ordinal)

    def _commonest(self, what: str) -> str:
        return "; ".join(
            f"{count} × {reason} ({what} {', '.join(map(str, self._examples[reason]))}"
            f"{', …' if count > SHOWN_ORDINALS else ''})"
            for reason, count in self.reasons.most_common(SHOWN_REASONS)
        )

    def _too_many(self) -> TooManyFailures:
        rows = self.total - self.counts["skipped"]
        advice = (
            "The next attempt asks the rows with passing failures again."
            if self.transient
            else "All of them are permanent: look at these rows and change the source, the task or the model; or raise "
            "max_failure_ratio, and see what the model said in distil_metadata. Then clear the task instance."
        )
        return TooManyFailures(
            f"{self.counts['failed']} failed and {self.counts['unparsed']} unparsed of {rows} rows are more than "
            f"max_failure_ratio={self.max_failure_ratio:g} allows. Nothing was published; the answers so far are kept. "
            f"Commonest reasons: {self._commonest('row')}. {advice}",
            final=not self.transient,
        )


def _kind(reason: str) -> str:
    """Return what kind of trouble a reason tells of, in our own words: progress goes to XCom, where no text of rows may be."""
    if status := re.search(r": status ([1-5]\d\d)\b", reason):
        return f"status {status[1]}"
    names = re.findall(r"\b\w+(?=: )", reason)
    return next((name for name in names if isinstance(getattr(builtins, name, None), type)), "another reason")


@dataclass(slots=True)
class Progress:
    """Where a run stands.

    :param asker: knows calls and limits.
    :param budget: knows tokens and dollars.
    :param replayed: output rows that needed no call.
    :param written: output rows that are in the new edition.
    """

    tally: Tally
    asker: Asker
    budget: Budget
    phase: str = "asking"
    replayed: int = 0
    written: int = 0
    _began: float = field(default_factory=time.monotonic)
    _phase_began: float = field(default_factory=time.monotonic)
    _samples: list[list[float]] = field(default_factory=list)
    _sample_every: float = SAMPLE_EVERY

    def begin(self, phase: str) -> None:
        """Begin another phase."""
        self.phase, self._phase_began = phase, time.monotonic()

    @property
    def done(self) -> int:
        """Output rows that this phase is done with."""
        return self.written if self.phase == "writing" else self.tally.done

    def sample(self) -> None:
        """Note where the asking stands, if it is time to: for curves over the whole run, from at most `SAMPLES` points."""
        elapsed = time.monotonic() - self._began
        if self.phase != "asking" or (self._samples and elapsed < self._samples[-1][0] + self._sample_every):
            return
        if len(self._samples) >= SAMPLES:
            del self._samples[1::2]
            self._sample_every *= 2
        counts, limiter = self.tally.counts, self.asker.limiter
        own = self.budget.own
        tokens = own.input_tokens + own.output_tokens
        fates = (counts["ok"] + counts["skipped"], counts["unparsed"], counts["failed"])
        self._samples.append([round(elapsed, 1), *fates, limiter.in_flight, limiter.limit, tokens])

    def snapshot(self) -> dict[str, Any]:
        """Return the figures: rows done and total, rows per second, seconds to go, fates, tokens, what went wrong.

        `samples` are lists of seconds since the start, rows ok or skipped, unparsed, failed, requests in flight, their limit,
        and tokens.
        """
        now = time.monotonic()
        # What came from the log was not asked, and would make the rest look faster than it will be.
        worked = self.done - (self.replayed if self.phase != "writing" else 0)
        # Of the whole run, once it is published: how fast the parts were written is not what people ask.
        began = self._began if self.phase == "published" else self._phase_began
        rate = worked / max(now - began, 1e-9)
        return {
            "phase": self.phase,
            "done": self.done,
            "total": self.tally.total,
            "elapsed_s": round(now - self._began, 1),
            "rows_per_s": round(rate, 2),
            "eta_s": round((self.tally.total - self.done) / rate) if rate else None,
            "ok": self.tally.counts["ok"],
            "failed": self.tally.counts["failed"],
            "unparsed": self.tally.counts["unparsed"],
            "skipped": self.tally.counts["skipped"],
            "lost": self.tally.lost.total(),
            "replayed": self.replayed,
            "calls": self.asker.calls,
            "in_flight": self.asker.limiter.in_flight,
            "limit": self.asker.limiter.limit,
            "input_tokens": self.budget.own.input_tokens,
            "output_tokens": self.budget.own.output_tokens,
            "cost_usd": self.budget.own.summary["cost_usd"],
            "paid": self.budget.paid.summary,
            "max_cost_usd": self.budget.max_cost_usd,
            "max_total_tokens": self.budget.max_total_tokens,
            "reasons": self.tally.kinds(),
            "retries": dict(self.asker.problems),
            "samples": list(self._samples),
        }

    def line(self) -> str:
        """Return the figures as one line of a log."""
        now = self.snapshot()
        eta = f", {now['eta_s']} s to go" if now["eta_s"] is not None and now["done"] < now["total"] else ""
        lost = f", {now['lost']} candidates lost" if now["lost"] else ""
        return (
            f"{now['phase']}: {now['done']}/{now['total']} rows, {now['elapsed_s']} s, {now['rows_per_s']} rows/s{eta}; "
            f"{now['failed']} failed, {now['unparsed']} unparsed, {now['skipped']} skipped, {now['replayed']} from the log"
            f"{lost}; {self.budget.line}"
        )
