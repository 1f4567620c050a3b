"""The operator that tidies up behind the others."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from airflow.sdk import BaseOperator

from airflow_distil.exceptions import DestinationError, DistilError, TaskDefinitionError, one_line
from airflow_distil.operators.options import AirflowOptions

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_distil.datasets.uri import URI
    from airflow_distil.engine.upkeep import Report, Upkeep

__all__ = ["CleanDatasetsOperator"]

log = logging.getLogger(__name__)

# An attempt that is paused, or a reader that takes its time, is back within a day; and nobody finds out in less that they
# would have liked to keep something.
LEAST_GRACE = dt.timedelta(days=1)


class CleanDatasetsOperator(BaseOperator):
    """Remove from published datasets what nobody needs any more.

    That is: data of attempts that came too late to be published, log segments whose answers a compaction repeats, files that
    killed processes left half-written, and, on the worker that this task runs on, scratch folders whose answers are in the log.
    With `keep_editions`, the data of old editions as well. Published rows and paid answers stay, and attempts that are running
    meanwhile lose nothing. Claims and manifests stay, too: they are small, and tell what there was.

    Returns by XCom how many `datasets` were looked at, how many `objects` of how many `bytes` were removed, and how many
    orphans were `kept` for now.

    :param datasets: URI of a dataset or of a folder, or a list of them; every dataset in or below it is cleaned. By default
        `[distil] dataset_root`. (templated)
    :param grace: what is younger stays; at least a day.
    :param keep_editions: how many of the latest editions of each dataset keep their data; by default all do. An older edition
        loses its data when the one that pushed it out is older than `grace`, unless a list of datasets that is cleaned by the
        same task has it as a member. Whoever reads it then is told so.
    :param dry_run: only log what would be removed.
    """

    template_fields: Sequence[str] = ("datasets",)
    ui_color = "#eeeeee"

    def __init__(
        self,
        *,
        datasets: Any = None,
        grace: dt.timedelta = dt.timedelta(days=7),
        keep_editions: int | None = None,
        dry_run: bool = False,
        **kwargs: Unpack[AirflowOptions],
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(grace, dt.timedelta):
            raise TaskDefinitionError(f"grace is {grace!r}; give a timedelta, such as timedelta(days=7).")
        if grace < LEAST_GRACE:
            raise TaskDefinitionError(f"grace is {grace}; give at least {LEAST_GRACE}, so that nothing that is in use goes.")
        if keep_editions is not None and keep_editions < 1:
            raise TaskDefinitionError(f"keep_editions is {keep_editions}; the latest edition is always kept: give 1 or more.")
        if not isinstance(dry_run, bool):
            raise TaskDefinitionError(f"dry_run is {dry_run!r}; it is no template: give True or False.")
        self.datasets = datasets
        self.grace = grace
        self.keep_editions = keep_editions
        self.dry_run_only = dry_run

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        """Clean them one by one. One that cannot be read or written does not keep the others from it; the task then fails."""
        from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

        try:
            return self._clean()
        except DistilError as error:
            raise (AirflowFailException if error.final else AirflowException)(f"{type(error).__name__}: {error}") from error

    def _clean(self) -> dict[str, Any]:
        failed: list[str] = []
        found = self._found(failed)
        listed = self._listed(found)
        reports = []
        for uri in found:
            with self._noting(uri, failed):
                report = self._upkeep(uri, None if listed is None else self.keep_editions).clean(
                    listed=listed or (), dry_run=self.dry_run_only
                )
                reports.append(report)
                self._log_report(report)
        if failed:
            raise DestinationError(
                f"{len(failed)} of {len(reports) + len(failed)} could not be cleaned: {'; '.join(failed)}. The others were. "
                "Nothing that is needed was removed."
            )
        return {
            "datasets": len(reports),
            "objects": sum(report.objects for report in reports),
            "bytes": sum(report.bytes for report in reports),
            "kept": sum(finding.objects for report in reports for finding in report.kept),
            "dry_run": self.dry_run_only,
        }

    def _found(self, failed: list[str]) -> list[URI]:
        from airflow_distil.datasets.uri import URI
        from airflow_distil.engine.upkeep import find_destinations
        from airflow_distil.hooks.storage import store_for

        found: dict[URI, None] = {}
        for root in map(URI.parse, self._roots()):
            with self._noting(root, failed):
                below = [root / name for name in find_destinations(store_for(root))]
                if not below:
                    log.warning("There is no dataset in or below %s", root)
                found.update(dict.fromkeys(below))
        return list(found)

    def _listed(self, found: list[URI]) -> set[str] | None:
        """Return the editions that are members of lists of datasets; None if that cannot be told."""
        listed: set[str] = set()
        for uri in found if self.keep_editions is not None else ():
            try:
                listed |= self._upkeep(uri, self.keep_editions).members()
            except (DistilError, OSError) as error:
                text = one_line(f"{uri}: {error}")
                log.warning("Old editions are kept, as it cannot be told which ones lists of datasets need: %s", text)
                return None
        return listed

    def _upkeep(self, uri: URI, keep_editions: int | None) -> Upkeep:
        from airflow_distil.engine.upkeep import Upkeep
        from airflow_distil.engine.workspace import default_scratch
        from airflow_distil.hooks.storage import scratch_dir, store_for

        scratch = scratch_dir()
        host = Path(scratch) if scratch else default_scratch()
        return Upkeep(store_for(uri), grace=self.grace, keep_editions=keep_editions, scratch=host)

    def _log_report(self, report: Report) -> None:
        log.info("%s", one_line(report.line()))
        for finding in report.removed:
            level = logging.INFO if report.dry_run else logging.DEBUG
            log.log(level, "%s: %s", finding.folder, finding.why)
        for finding in report.kept:
            log.debug("Kept: %s: %s", finding.folder, finding.why)

    @contextmanager
    def _noting(self, uri: URI, failed: list[str]) -> Iterator[None]:
        try:
            yield
        except (DistilError, OSError) as error:
            failed.append(one_line(f"{uri}: {error}"))
            log.error("%s", failed[-1])  # noqa: TRY400 - what it says is enough

    def _roots(self) -> Iterator[str]:
        """Yield what was given, in whatever form a DAG or an upstream task gives it."""
        from airflow_distil.hooks.storage import dataset_root

        given = self.datasets
        if given is None:
            root = dataset_root()
            if not root:
                raise TaskDefinitionError("No datasets. Pass datasets='gs://bucket/folder', or set [distil] dataset_root.")
            given = root
        for item in [given] if isinstance(given, str | Mapping) else given:
            yield str(item["uri"]) if isinstance(item, Mapping) else str(item)
