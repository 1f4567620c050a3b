"""What our tests and our users' tests share: a language model that is none, behind a real server.

with FakeLLM(answer=lambda messages: "four") as llm, llm.as_connection("my_llm"):
dag.test()
assert llm.answered.choices == 100

`FakeLLM(answer=sensible)` answers the prompts of this package's tasks in the form that they ask for.
"""

from __future__ import annotations

from airflow_distil.testing.faults import Drop, Fault, HalfBody, Hang, Malformed
from airflow_distil.testing.sensible import sensible
from airflow_distil.testing.server import Answered, FakeLLM
from airflow_distil.testing.voice import request_digest

__all__ = ["Answered", "Drop", "FakeLLM", "Fault", "HalfBody", "Hang", "Malformed", "request_digest", "sensible"]
