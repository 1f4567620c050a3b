"""What somebody, or a disk, did to what an attempt wrote."""

from __future__ import annotations

import pytest

from airflow_distil.datasets.log import Scratch
from airflow_distil.exceptions import DestinationError
from airflow_distil.tasks import TextGeneration
from tests.unit.engine.lab import Model, ask, many


@pytest.mark.parametrize("again", [ask(1), ask(2)], ids=["retry", "clear"])
def test_part_that_was_deleted_is_written_anew(lab, again):
    """A clear of the task, which readers of the damaged dataset are told to do, was green and changed nothing."""
    first = lab.job(many(30), Model(), TextGeneration(), ask=ask(1)).run()
    lab.store.delete(first.parts[0].path)
    model = Model()
    second = lab.job(many(30), model, TextGeneration(), ask=again).run()
    assert (second.edition, second.rows, model.calls) == (2, 30, 0)
    assert all(lab.store.get(part.path) for part in second.parts)


def test_part_that_was_cut_off_is_written_anew(lab):
    """Half a part is no more use than none."""
    first = lab.job(many(30), Model(), TextGeneration(), ask=ask(1)).run()
    path = first.parts[0].path
    content = lab.store.get(path)
    lab.store.delete(path)
    lab.store.put(path, content[:100])
    assert lab.job(many(30), Model(), TextGeneration(), ask=ask(2)).run().edition == 2


def test_nothing_is_asked_once_an_answer_cannot_be_kept(lab, monkeypatch):
    """The place of an answer that found the disk full was given to another request, whose answer was lost as well."""
    model = Model(max_concurrency=4)
    sent = []
    append = Scratch.append

    def full(scratch, facts):
        if model.calls < 40 and not sent:
            return append(scratch, facts)
        sent.append(model.calls)
        raise OSError("disk full")

    monkeypatch.setattr(Scratch, "append", full)
    with pytest.raises(DestinationError, match="disk full"):
        lab.run(many(200), model, TextGeneration())
    assert model.calls == sent[0]
