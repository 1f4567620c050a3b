"""Every fault of processes, models and stores once, at its fixed points; `python -m tests.chaos` has many more runs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.chaos.__main__ import catalogue, staged
from tests.chaos.bench import Fault
from tests.chaos.verdict import Verdict

QUICK = [fault for fault in catalogue() if not fault.settings.get("slow")]


@pytest.fixture(scope="module")
def verdicts(airflow_db, request) -> Iterator[dict[str, Future[Verdict]]]:
    """Runs of the faults whose tests were chosen, some at a time, in the background of the tests that wait for them."""
    chosen: list[Fault] = [item.callspec.params["fault"] for item in request.session.items if item.path == request.path]
    with staged([(fault, fault.schemes[0], None) for fault in chosen]) as running:
        yield {fault.name: future for fault, future in zip(chosen, running, strict=True)}


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_fault(fault, verdicts, capsys):
    """Whatever happens: no row lost, doubled or mixed up, no answer paid for twice beyond the promise, no half edition."""
    verdict = verdicts[fault.name].result()
    with capsys.disabled():
        print(f"\n{verdict}")
    assert verdict.kept, str(verdict)
