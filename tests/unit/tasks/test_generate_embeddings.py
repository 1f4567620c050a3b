"""Texts and chats become vectors, by an API or a local model."""

from __future__ import annotations

import asyncio
import math
from random import Random

import pyarrow as pa
import pytest

from airflow_distil.conversation import Answer, Embed, Unparsed, Usage, user
from airflow_distil.llms import OpenAILLM, TransformersLLM
from airflow_distil.tasks.generate_embeddings import GenerateEmbeddings
from airflow_distil.testing import FakeLLM, Fault
from tests.unit.engine.lab import Lab


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.close()


class Local:
    """A model that embeds by the length of a text."""

    model, parameters, max_concurrency = "local", {}, None
    requests_per_minute = tokens_per_minute = input_price = output_price = None

    def __init__(self, vector=lambda text: [float(len(text)), 0.5]):
        self.vector = vector
        self.asked = []

    async def answer(self, request, n=1):
        self.asked.append(request)
        return [Answer(vector=self.vector(request.input), model="local", usage=Usage(1, 0), latency=0.0)]

    async def aclose(self):
        pass


def texts(*given):
    return [{"text": text} for text in given]


def test_each_text_gets_its_vector(lab):
    """The vector went into the wrong row, or into a list of 64-bit numbers of any size."""
    rows = lab.run(texts("a", "bcd"), Local(), GenerateEmbeddings())
    assert [row["embedding"] for row in rows] == [[1.0, 0.5], [3.0, 0.5]]
    assert [row["model_name"] for row in rows] == ["local"] * 2
    kind = lab.table(lab.manifest()).schema.field("embedding").type
    assert kind.value_type == pa.float32()


def test_a_chat_is_asked_for_as_a_chat(lab):
    """Messages out of Parquet have every field of any message; a template that tests for `name` found one."""
    chat = [{"role": "user", "content": "hi", "name": None}, {"role": "assistant", "content": None, "name": "x"}]
    llm = Local()
    lab.run([{"text": chat}], llm, GenerateEmbeddings())
    (request,) = llm.asked
    assert request.input == [user("hi"), {"role": "assistant", "content": None, "name": "x"}]


@pytest.mark.parametrize(("text", "reason"), [("", "`text` is empty"), (" \n", "`text` is empty"), (None, "NoneType")])
def test_what_has_no_embedding_fails_its_row(lab, text, reason):
    """An empty text was sent, and the provider's refusal of its call failed the others; or its row came out ok."""
    good, bad = lab.run(texts("fine", text), Local(), GenerateEmbeddings())
    assert good["embedding"] == [4.0, 0.5]
    assert bad["embedding"] is None
    assert bad["distil_status"] == "failed"
    assert reason in bad["distil_error"]


@pytest.mark.parametrize("value", [[], 7, ["a"], {"role": "user"}])
def test_what_is_neither_text_nor_chat(lab, value):
    """Distilabel 1.5.3: a value that is neither text nor chat raised for the whole batch, and all its rows were lost."""
    (row,) = lab.run([{"text": value}], Local(), GenerateEmbeddings())
    assert row["distil_status"] == "failed"
    assert type(value).__name__ in row["distil_error"]


@pytest.mark.parametrize("answer", [Answer(), Answer(vector=[]), Answer(text="0.1 0.2")])
def test_a_chat_models_answer_is_no_vector(answer):
    """A custom LLM that answers everything with text gave rows without a vector and without an error."""
    talk = GenerateEmbeddings().converse({"text": "a"}, Random(0))
    assert next(talk) == Embed("a")
    with pytest.raises(Unparsed, match="no embedding"):
        talk.send(answer)


def test_an_api_is_asked_for_many_texts_at_once(lab):
    """Distilabel 1.5.3: no API client could make embeddings; ours asked once per text."""
    with FakeLLM(dimensions=3) as server:
        llm = OpenAILLM("m", base_url=server.base_url, generation_kwargs={"dimensions": 3})
        rows = lab.run(texts(*(f"text {i}" for i in range(200))), llm, GenerateEmbeddings())
        assert server.answered.calls < 20
        assert {body["dimensions"] for body in server.requests} == {3}
        expected = asyncio.run(one(llm, "text 7"))
    assert len({tuple(row["embedding"]) for row in rows}) == 200
    assert rows[7]["embedding"] == pytest.approx(expected)
    assert {len(row["embedding"]) for row in rows} == {3}


async def one(llm, text):
    (answer,) = await llm.answer(Embed(text))
    await llm.aclose()
    return answer.vector


def test_a_retry_asks_for_nothing_it_has(lab):
    """Texts that shared a call were one fact: a retry with another window paid for all of them again."""
    rows = texts(*(f"text {i}" for i in range(50)))
    with FakeLLM() as server:
        llm = OpenAILLM("m", base_url=server.base_url)
        server.fail_next(Fault(status=400, when=lambda messages: "text 33" in str(messages)), times=2)
        first = lab.run(rows, llm, GenerateEmbeddings())
        assert [row["distil_status"] for row in first].count("failed") == 1
        before = server.answered.choices
        again = lab.run(rows[::-1], OpenAILLM("m", base_url=server.base_url), GenerateEmbeddings())
        assert server.answered.choices == before
    assert {row["text"]: row["embedding"] for row in again} == {row["text"]: row["embedding"] for row in first}


def test_usage_adds_up(lab):
    """Each row of a shared call carried the tokens of the whole call, and the bill was thirty times too high."""
    rows = texts(*(f"text {'word ' * (i % 9)}" + str(i) for i in range(60)))
    with FakeLLM() as server:
        lab.run(rows, OpenAILLM("m", base_url=server.base_url), GenerateEmbeddings())
    assert lab.summary()["input_tokens"] == sum(len(row["text"].split()) for row in rows)


def test_a_real_model(lab):
    """The rows' vectors were right in a notebook and shuffled in a job."""
    pytest.importorskip("torch")
    from tests import tiny_models

    rows = lab.run(
        texts("A cat sat on the sofa.", "A kitten sat on the sofa.", "Stock prices fell on Monday.", "word " * 700),
        TransformersLLM(tiny_models.minilm()),
        GenerateEmbeddings(),
    )
    assert [row["distil_status"] for row in rows] == ["ok", "ok", "ok", "failed"]
    assert "702 tokens" in rows[3]["distil_error"]
    cat, kitten, stock = (row["embedding"] for row in rows[:3])
    assert cosine(cat, kitten) > cosine(cat, stock) + 0.2


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def test_by_itself():
    """`process` without a DAG, as in a notebook."""
    (rows,) = GenerateEmbeddings(llm=Local()).process(texts("abc"))
    assert rows[0]["embedding"] == [3.0, 0.5]
