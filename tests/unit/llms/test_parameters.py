"""Which generation parameters are accepted, and what is said about the others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.llms.parameters import RESERVED, check_generation_kwargs, known_parameters


def test_wire_names_pass_unchanged():
    """A parameter was renamed or dropped on its way to the wire."""
    kwargs = {"temperature": 0.3, "max_completion_tokens": 20, "stop": ["\n"], "seed": 1}
    assert check_generation_kwargs(kwargs) == kwargs
    assert check_generation_kwargs(None) == {}


@pytest.mark.parametrize(
    ("name", "advice"),
    [("n", "num_generations"), ("model", "`model`"), ("response_format", "structured_output"), ("stream", "leave it out")],
)
def test_what_is_set_elsewhere_is_refused_with_the_place(name, advice):
    """`n` in generation_kwargs doubled every answer, and each second one was thrown away, paid."""
    with pytest.raises(TaskDefinitionError, match=advice) as raised:
        check_generation_kwargs({name: 2})
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize("name", [*RESERVED, "timeout", "extra_headers"])
def test_reserved_names_are_refused_inside_extra_body_too(name):
    """`extra_body` was the way around the check."""
    with pytest.raises(TaskDefinitionError, match=name):
        check_generation_kwargs({"extra_body": {name: 1}})


@pytest.mark.parametrize(
    ("wrong", "right"), [("temprature", "temperature"), ("max_token", "max_tokens"), ("presence_penality", "presence_penalty")]
)
def test_near_misses_are_suggested(wrong, right):
    """A misspelt parameter was ignored by the server, and nobody noticed for a month."""
    with pytest.raises(TaskDefinitionError, match=f"'{right}'"):
        check_generation_kwargs({wrong: 1})


def test_server_specific_parameters_go_through_extra_body():
    """Parameters of vLLM alone could not be set at all, or the way to set them had to be guessed."""
    with pytest.raises(TaskDefinitionError, match=r"extra_body=\{'top_k'"):
        check_generation_kwargs({"top_k": 5})
    assert check_generation_kwargs({"temperature": 1, "extra_body": {"top_k": 5}}) == {"temperature": 1, "top_k": 5}


@pytest.mark.parametrize("extra", [{"temperature": 2}, "temperature", [1]])
def test_extra_body_must_be_a_dict_and_say_nothing_twice(extra):
    """Which of two values won depended on the order of a merge."""
    with pytest.raises(TaskDefinitionError):
        check_generation_kwargs({"temperature": 1, "extra_body": extra})


def test_each_kind_of_request_has_its_own_names():
    """A chat parameter passed the check of an embedding task and failed every row of it."""
    assert "dimensions" in known_parameters("embed")
    assert "echo" in known_parameters("complete")
    assert not {"dimensions", "echo"} & known_parameters("chat")
    with pytest.raises(TaskDefinitionError):
        check_generation_kwargs({"temperature": 1}, kind="embed")
    assert check_generation_kwargs({"dimensions": 5, "temperature": 1}, kind=None)


def test_importing_the_check_does_not_import_openai():
    """DAG files paid half a second per parse for the SDK."""
    code = "import sys, airflow_distil.llms, airflow_distil.llms.parameters; assert 'openai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
