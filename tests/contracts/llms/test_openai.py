"""`OpenAILLM` keeps the contract, for OpenAI's paths and for Azure's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_distil.llms import OpenAILLM
from airflow_distil.testing import FakeLLM
from tests.contracts.llms.suite import KEY, EndpointContract


class TestOpenAI(EndpointContract):
    @pytest.fixture
    def connect(self, server: FakeLLM) -> Callable[..., OpenAILLM]:
        return lambda **kwargs: OpenAILLM(**{"model": "fake", "base_url": server.base_url, "api_key": KEY, **kwargs})


class TestAzure(EndpointContract):
    model = "my-deployment"

    @pytest.fixture
    def connect(self, server: FakeLLM) -> Callable[..., OpenAILLM]:
        given = {"base_url": server.url, "api_key": KEY, "backend": "azure", "api_version": "2026-01-01", "model": self.model}
        return lambda **kwargs: OpenAILLM(**{**given, **kwargs})
