"""Models in this process keep the contract, too."""

from __future__ import annotations

import pytest

from airflow_distil.conversation import LLM, Answer, Embed, Rank, Request
from airflow_distil.llms import PairRanker, TransformersLLM
from tests import tiny_models
from tests.contracts.llms.suite import LLMContract


class Close(list):
    """Numbers that are the same up to what the others of a batch do to them."""

    __hash__ = None

    def __eq__(self, other):
        return list(self) == pytest.approx(list(other), abs=1e-4)


@pytest.fixture(scope="module")
def embedder() -> TransformersLLM:
    return TransformersLLM(tiny_models.minilm())


@pytest.fixture(scope="module")
def ranker(tmp_path_factory) -> PairRanker:
    return PairRanker(tiny_models.pair_ranker(tmp_path_factory.mktemp("ranker")))


class TestTransformers(LLMContract):
    @pytest.fixture
    def llm(self, embedder) -> LLM:
        return embedder

    def question(self, text: str) -> Request:
        return Embed(text)

    def said(self, answer: Answer) -> Close:
        return Close(answer.vector)


class TestPairRanker(LLMContract):
    @pytest.fixture
    def llm(self, ranker) -> LLM:
        return ranker

    def question(self, text: str) -> Request:
        number = int("".join(filter(str.isdigit, text)) or 1)
        return Rank(text, ["one", "a cat " * (number + 1), "the dog is blue"])

    def said(self, answer: Answer) -> Close:
        return Close(answer.scores)
