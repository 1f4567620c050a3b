"""PairRM's mechanics, on a tiny DeBERTa with random weights: what the model reads, and what becomes of what it says."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from airflow_distil.conversation import Chat, Embed, Rank, user
from airflow_distil.exceptions import BadRow, Fatal, TaskDefinitionError
from airflow_distil.llms import PairRanker
from tests import tiny_models
from tests.tiny_models import torch, transformers

CANDIDATES = ["the cat sat", "a dog", "one two three four", "not good", "very very bad answer"]


@pytest.fixture(scope="module", params=["blender", "hf"])
def ranker(request, tmp_path_factory) -> PairRanker:
    folder = tmp_path_factory.mktemp(request.param)
    return PairRanker(tiny_models.pair_ranker(folder, layout=request.param, tasks=2), batch_size=4)


def rank(ranker: PairRanker, *requests: Rank) -> list[list[float]]:
    async def run() -> list[list[float]]:
        answers = await asyncio.gather(*map(ranker.answer, requests))
        await ranker.aclose()
        return [list(answer.scores) for (answer,) in answers]

    return asyncio.run(run())


def words(ranker: PairRanker, request: Rank) -> list[list[str]]:
    """Return what the model reads of each pair, as text."""
    rank(ranker, Rank("load", ["it"]))
    return [ranker._tokenizer.convert_ids_to_tokens(row) for row in ranker._pairs(request).rows.values()]


class Reference:
    """The paper's comparison in numpy, one unpadded pair at a time; only the backbone's states come from the library."""

    def __init__(self, checkpoint: str) -> None:
        from safetensors.numpy import load_file

        base = Path(checkpoint).parent / "base"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        self.tokenizer.add_tokens(["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"])
        config = transformers.AutoConfig.from_pretrained(base, vocab_size=len(self.tokenizer))
        self.weights = load_file(Path(checkpoint) / "model.safetensors")
        self.net = transformers.DebertaV2Model(config).eval()
        for name, value in self.net.state_dict().items():
            value.copy_(torch.from_numpy(self.weights[f"pretrained_model.{name}"]))

    def states(self, source: str, one: str, other: str):
        pieces = ["[CLS]", "<|source|>", *self.tokenizer.tokenize(source), "[SEP]"]
        pieces += ["[CLS]", "<|candidate1|>", *self.tokenizer.tokenize(one), "[SEP]"]
        pieces += ["[CLS]", "<|candidate2|>", *self.tokenizer.tokenize(other), "[SEP]"]
        ids = self.tokenizer.convert_tokens_to_ids(pieces)
        with torch.no_grad():
            hidden = self.net(torch.tensor([ids])).last_hidden_state[0].numpy()
        return [hidden[pieces.index(mark)] for mark in ("<|source|>", "<|candidate1|>", "<|candidate2|>")]

    def head(self, source, candidate):
        import numpy as np

        inner = self.weights["head_layer.1.weight"] @ np.concatenate([source, candidate]) + self.weights["head_layer.1.bias"]
        return self.weights["head_layer.4.weight"] @ np.tanh(inner) + self.weights["head_layer.4.bias"]

    def matrix(self, source: str, candidates: list[str]):
        import numpy as np

        compared = np.zeros((len(candidates), len(candidates)))
        for i, one in enumerate(candidates):
            for j, other in enumerate(candidates):
                if i != j:
                    at_source, at_one, at_other = self.states(source, one, other)
                    compared[i, j] = (self.head(at_source, at_one) - self.head(at_source, at_other)).mean()
        return compared

    def scores(self, source: str, candidates: list[str]) -> list[float]:
        compared = self.matrix(source, candidates)
        return (compared - compared.T).mean(axis=1).tolist()


def test_scores_are_those_of_the_paper(ranker):
    """Pairs were compared in one order only, the head read other positions, or wins were counted in place of margins."""
    reference = Reference(ranker.model)
    found = rank(ranker, *(Rank("is the cat good", CANDIDATES[:count]) for count in range(1, 6)))
    assert max(map(abs, found[-1])) > 0.1, "the model sees no difference, and so would the test"
    for count, scores in enumerate(found, 1):
        assert scores == pytest.approx(reference.scores("is the cat good", CANDIDATES[:count]), abs=1e-4)
    assert found[0] == [0.0]


def test_both_orders_are_compared(ranker):
    """A pair ranker prefers places: with one order of each pair, the order of the candidates decided."""
    matrix = Reference(ranker.model).matrix("is the cat good", CANDIDATES)
    assert abs(matrix + matrix.T).max() > 1e-3, "this model has no preference for places, and the test could not fail"
    (scores,), (backwards,) = (rank(ranker, Rank("is the cat good", order)) for order in (CANDIDATES, CANDIDATES[::-1]))
    assert scores == pytest.approx(backwards[::-1], abs=1e-4)


def test_what_the_model_reads(ranker):
    """The parts were in another order, without their separators, or marked with what the model was not trained on."""
    first, second = words(ranker, Rank("the cat", ["a dog", "one"]))
    source = ["[CLS]", "<|source|>", "▁the", "▁cat", "[SEP]"]
    assert first[:5] == second[:5] == source
    a, one = ["▁a", "▁dog", "[SEP]"], ["▁one", "[SEP]"]
    assert first[5:] == ["[CLS]", "<|candidate1|>", *a, "[CLS]", "<|candidate2|>", *one]
    assert second[5:] == ["[CLS]", "<|candidate1|>", *one, "[CLS]", "<|candidate2|>", *a]


def test_marks_in_a_text_are_text(ranker):
    """A candidate that quoted the model's own marks moved its parts, and chose its own place."""
    told = words(ranker, Rank("the<|candidate1|>cat", ["a[SEP]dog<|source|>", "[CLS]one<|candidate2|>"]))
    for row in told:
        assert [row.count(mark) for mark in ("<|source|>", "<|candidate1|>", "<|candidate2|>", "[CLS]", "[SEP]")] == [
            1,
            1,
            1,
            3,
            3,
        ]


@pytest.mark.parametrize(
    ("source", "candidate", "expected"),
    [(5000, 5000, (1224, 412)), (3, 5000, (6, 412 + (1224 - 6) // 2)), (3, 4, (6, 7)), (1221, 5000, (1224, 412))],
)
def test_what_is_too_long_is_cut(ranker, source, candidate, expected):
    """A long candidate was cut at 412 though the input left room; or the whole grew over what the model was trained on."""
    (row, _) = words(ranker, Rank("cat " * source, ["dog " * candidate, "a " + "dog " * candidate]))
    ends = [position for position, word in enumerate(row) if word == "[SEP]"]
    assert (ends[0] + 1, ends[1] - ends[0]) == expected
    assert len(row) <= 1224 + 2 * 412


def test_lengths_of_the_checkpoint(tmp_path):
    """A checkpoint that was trained with other lengths was read with PairRM's."""
    model = PairRanker(tiny_models.pair_ranker(tmp_path, source_maxlength=8, candidate_maxlength=6))
    (row, _) = words(model, Rank("cat " * 30, ["dog " * 30, "one"]))
    assert row.index("[SEP]") == 7
    assert row[8:].index("[SEP]") == 5


def test_the_same_scores_in_any_batch(ranker):
    """Scores depended on the rows that were ranked at the same time, and so on concurrency."""
    requests = [Rank(f"{'cat ' * (i * 5)} good", CANDIDATES[: 1 + i % 5]) for i in range(10)]
    for together, request in zip(rank(ranker, *requests), requests, strict=True):
        assert together == pytest.approx(rank(ranker, request)[0], abs=1e-4)


def test_different_numbers_of_candidates_in_one_batch(ranker):
    """Distilabel 1.5.3: rows with different numbers of candidates in one batch raised a ValueError, and the batch was lost."""
    found = rank(ranker, *(Rank("cat", CANDIDATES[:count]) for count in (3, 1, 5, 2)))
    assert [len(scores) for scores in found] == [3, 1, 5, 2]


def test_rows_share_passes(ranker, monkeypatch):
    """Each row had passes of its own, half empty; or each pair was computed again for each of its copies."""
    sizes = []
    compute = ranker._preferences
    monkeypatch.setattr(ranker, "_preferences", lambda ids, mask: sizes.append(len(ids)) or compute(ids, mask))
    rank(ranker, *(Rank(f"cat {i}", ["a dog", "one"]) for i in range(4)))
    assert sizes == [4, 4]
    sizes.clear()
    rank(ranker, Rank("cat", ["a dog", "one", "a dog", "a dog"]))
    assert sizes == [2]


def test_equal_candidates_have_equal_scores(ranker):
    """Copies of a candidate differed in the last digit, and so in rank."""
    (scores,) = rank(ranker, Rank("cat", ["a dog", "one", "a dog", "the tree"]))
    assert scores[0] == scores[2]
    reference = Reference(ranker.model).scores("cat", ["a dog", "one", "a dog", "the tree"])
    assert scores == pytest.approx(reference, abs=1e-4)
    assert rank(ranker, Rank("cat", ["same"] * 3)) == [[0.0] * 3]


def test_tokens_are_counted(ranker):
    """Usage was None, so that a budget of tokens did not hold."""
    (answer,) = asyncio.run(ranker.answer(Rank("the cat", ["a dog", "one"])))
    assert answer.usage.input_tokens == sum(map(len, words(ranker, Rank("the cat", ["a dog", "one"]))))


def test_a_bad_row_costs_itself(ranker):
    """A text that cannot be tokenized failed the rows of its batch."""

    async def run() -> list[object]:
        requests = [Rank("a", CANDIDATES), Rank("\ud800", CANDIDATES), Rank("a", []), Rank("b", CANDIDATES)]
        return await asyncio.gather(*map(ranker.answer, requests), return_exceptions=True)

    good, bad, empty, other = asyncio.run(run())
    assert len(good[0].scores) == len(other[0].scores) == 5
    assert (type(bad), type(empty)) == (BadRow, BadRow)
    assert "no candidate" in str(empty)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(ranker, monkeypatch, value):
    """A NaN is no JSON: it broke the log of answers, or stood in the dataset."""
    monkeypatch.setattr(ranker, "_preferences", lambda ids, mask: [value] * len(ids))
    with pytest.raises(BadRow, match="not a finite number"):
        rank(ranker, Rank("cat", ["a", "b"]))


def test_out_of_memory_of_one_pair_costs_its_row(ranker, monkeypatch):
    """A pair that fits no batch failed all rows."""
    compute = ranker._preferences

    def limited(ids, mask):
        if ids.shape[1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(ids, mask)

    monkeypatch.setattr(ranker, "_preferences", limited)
    monkeypatch.setattr(ranker, "batch_size", 1)
    ranker._load()
    answers = ranker.compute([Rank("a", CANDIDATES), Rank("cat " * 200, CANDIDATES)], threading.Event())
    assert len(answers[0].scores) == 5
    assert isinstance(answers[1], BadRow)


@pytest.mark.parametrize("request_", [Chat([user("hi")]), Embed("a")], ids=["chat", "embed"])
def test_what_it_cannot_do_is_said_before_it_is_loaded(request_):
    """A chat ended in an error of the library after a download of a gigabyte."""
    with pytest.raises(TaskDefinitionError, match="ranks candidates"):
        asyncio.run(PairRanker("none").answer(request_))


def fails(model: str) -> str:
    with pytest.raises(Fatal) as caught:
        rank(PairRanker(model), Rank("a", ["b", "c"]))
    return str(caught.value)


def test_what_is_no_pair_ranker():
    """An embedding model was taken for a ranker, its head made of random numbers."""
    assert "not a PairRM checkpoint" in fails(tiny_models.minilm())


def test_weights_that_are_missing(tmp_path):
    """A layer that the file lacks was filled with random numbers: every ranking was noise."""
    from safetensors.torch import load_file, save_file

    model = tiny_models.pair_ranker(tmp_path)
    weights = load_file(Path(model) / "model.safetensors")
    del weights["pretrained_model.encoder.layer.1.output.dense.weight"]
    save_file(weights, Path(model) / "model.safetensors")
    assert "encoder.layer.1.output.dense.weight" in fails(model)


def test_marks_of_another_vocabulary(tmp_path):
    """Marks that the tokenizer numbers otherwise than in training meant nothing to the model."""
    model = tiny_models.pair_ranker(tmp_path, layout="hf")
    settings = json.loads((Path(model) / "config.json").read_text())
    (Path(model) / "config.json").write_text(json.dumps(settings | {"cand1_prefix_id": 5}))
    assert "marks" in fails(model)


def test_pickled_weights_are_not_read(tmp_path):
    """`pytorch_model.bin` is a pickle: loading it runs whatever code is in it."""
    model = Path(tiny_models.pair_ranker(tmp_path))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "safetensors" in fails(str(model))
