"""From some rows to all of them: totals, and how far they may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, stdev

__all__ = ["Estimate", "estimated", "spread"]

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom, as any table has them.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A total over the whole source.

    :param low: lower end of its 95 % interval; None if it has none, as of a single row, or of rows that are all alike.
    :param high: upper end.
    """

    total: float
    low: float | None = None
    high: float | None = None


def estimated(values: Sequence[float], rows: int) -> Estimate:
    """Return the total over all rows, from the values of some that were drawn at random, with a t-interval if they differ.

    :param values: at least one.
    :param rows: how many there are in all.
    """
    count, mean = len(values), fmean(values)
    if count >= rows:
        return Estimate(mean * rows, mean * rows, mean * rows)
    if min(values) == max(values):
        return Estimate(mean * rows)
    # Rows are drawn without putting them back, so the last one leaves nothing to be unsure of.
    error = stdev(values) / math.sqrt(count) * math.sqrt(1 - count / rows)
    half = _quantile(count - 1) * error * rows
    # What was measured is there.
    return Estimate(mean * rows, max(sum(values), mean * rows - half), mean * rows + half)


def spread(rows: int, count: int, rng: Random) -> list[int]:
    """Return numbers of rows from all parts of a source, rising: one drawn from each of `count` equal stretches."""
    count = min(count, rows)
    edges = [rows * number // count for number in range(count + 1)] if count else [0]
    return [rng.randrange(edges[number], edges[number + 1]) for number in range(count)]


def _quantile(freedom: int) -> float:
    # Beyond the table, the first term of its expansion around the normal quantile is right to three digits.
    return _T[freedom - 1] if freedom <= len(_T) else 1.960 + 2.372 / freedom
