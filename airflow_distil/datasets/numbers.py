"""Mean, least and greatest value of numeric columns, for people who want to know at a glance."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Numbers"]


class Numbers:
    """Adds up numeric columns, and the items of lists of numbers that are not vectors, batch by batch."""

    def __init__(self) -> None:
        self.summary: dict[str, dict[str, float]] = {}

    def add(self, batch: pa.RecordBatch, names: Iterable[str] | None = None) -> None:
        """Count a batch.

        :param names: columns to look at; by default all.
        """
        for name in batch.schema.names if names is None else names:
            column = batch.column(name)
            if pa.types.is_list(column.type):  # scores and ratings; a vector of fixed size is no such thing
                if column.type.value_type == pa.float32():
                    # Nor is one of vectors of differing sizes. Scores are float64: only vectors are stored at half of that.
                    continue
                column = column.flatten()
            if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
                continue
            # NaN and infinity have no form in JSON, and would leave a manifest that cannot be read.
            column = column.filter(pc.is_finite(column))
            if not len(column):
                continue
            least, most, total = pc.min(column).as_py(), pc.max(column).as_py(), pc.sum(column).as_py()
            known = self.summary.setdefault(name, {"min": least, "max": most, "mean": 0.0, "count": 0})
            count = known["count"] + len(column)
            known["mean"] += (total - known["mean"] * len(column)) / count
            known.update(min=min(known["min"], least), max=max(known["max"], most), count=count)
