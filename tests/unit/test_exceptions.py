"""The tree that is drawn in the module's docstring is the tree that there is."""

from __future__ import annotations

import pickle
import re

import pytest

from airflow_distil import exceptions
from airflow_distil.exceptions import DestinationError, DistilError, LLMError, RateLimited, TooManyFailures

EVERY = [getattr(exceptions, name) for name in exceptions.__all__]


def drawn() -> dict[str, tuple[str, bool]]:
    """Return name → (parent, drawn as final) from the docstring."""
    tree, parents = {}, {0: "DistilError"}
    for line in exceptions.__doc__.splitlines():
        if match := re.match(r"    ([│ ]*)[├└]── (\w+)\s+(.*)", line):
            depth = len(match[1]) // 4
            tree[match[2]] = (parents[depth], match[3].endswith("(final)"))
            parents[depth + 1] = match[2]
    return tree


def test_drawing_is_true():
    """People catch by the drawing."""
    tree = drawn()
    assert set(tree) == set(exceptions.__all__) - {"DistilError"}
    for name, (parent, final) in tree.items():
        error = getattr(exceptions, name)
        assert error.__base__.__name__ == parent, name
        assert error.final is final, name


def test_all_names_everything():
    """A class that is not listed is not in `import *`, nor in the reference."""
    defined = {
        name for name, value in vars(exceptions).items() if isinstance(value, type) and value.__module__ == exceptions.__name__
    }
    assert defined == set(exceptions.__all__)
    assert exceptions.__all__ == sorted(exceptions.__all__)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.__name__)
def test_they_are_caught_as_one(error):
    """`except DistilError` is what the operator relies on."""
    assert issubclass(error, DistilError)
    assert str(error("what happened")) == "what happened"


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.__name__)
def test_they_survive_another_process(error):
    """Executors pickle what a task raises."""
    assert str(pickle.loads(pickle.dumps(error("what")))) == "what"


def test_told_time_and_finality_survive_another_process():
    """Attributes that are lost on the way change what happens next."""
    assert pickle.loads(pickle.dumps(RateLimited("slow", 3.0))).retry_after == 3.0
    assert pickle.loads(pickle.dumps(TooManyFailures("many", final=True))).final
    assert pickle.loads(pickle.dumps(DestinationError("theirs", final=True))).final


def test_finality_is_per_error_where_it_depends():
    """One final error must not make all later ones final."""
    assert TooManyFailures("many", final=True).final
    assert not TooManyFailures("many").final
    assert DestinationError("theirs", final=True).final
    assert not DestinationError("503").final
    assert LLMError("x").retry_after is None
