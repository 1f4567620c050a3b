"""Ranks, order and scores fit each other, whatever the scores."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distil.conversation import Answer, Rank, Unparsed, Usage
from airflow_distil.llms import PairRanker
from airflow_distil.tasks.pair_rm import PairRM
from tests.unit.engine.lab import Lab


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.close()


class Judge:
    """A ranker whose scores a test gives."""

    model, parameters, max_concurrency = "judge", {}, None
    requests_per_minute = tokens_per_minute = input_price = output_price = None

    def __init__(self, score):
        self.score = score
        self.asked = []

    async def answer(self, request, n=1):
        self.asked.append(request)
        return [Answer(scores=[self.score(each) for each in request.candidates], model="judge", usage=Usage(1, 0), latency=0.0)]

    async def aclose(self):
        pass


def ranked(candidates, scores, **fields):
    """Return the columns that a task makes of scores."""
    talk = PairRM(**fields).converse({"input": "question", "candidates": candidates}, Random(0))
    assert isinstance(next(talk), Rank)
    with pytest.raises(StopIteration) as end:
        talk.send(Answer(scores=scores))
    return end.value.value


def test_the_best_candidate_comes_first():
    """Distilabel 1.5.3: `ranked_candidates` applied the inverse permutation: ranks [2, 3, 1] gave [third, best, second]."""
    row = ranked(["second", "third", "best"], [0.5, -1.0, 2.0])
    assert row == {"ranks": [2, 3, 1], "ranked_candidates": ["best", "second", "third"], "scores": [0.5, -1.0, 2.0]}


def test_ties_lose_no_candidate():
    """Distilabel 1.5.3: with ranks [1, 1, 3] one candidate was written twice, and another was lost."""
    row = ranked(["a", "b", "c"], [1.0, 1.0, 0.0])
    assert (row["ranks"], row["ranked_candidates"]) == ([1, 1, 3], ["a", "b", "c"])
    row = ranked(["c", "a", "b"], [0.0, 1.0, 1.0])
    assert (row["ranks"], row["ranked_candidates"]) == ([3, 1, 1], ["a", "b", "c"])


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(-3, 3).map(float)), min_size=1, max_size=12))
def test_ranks_scores_and_order_fit_each_other(pairs):
    """A value went to the wrong candidate, for some permutation."""
    candidates, scores = [text for text, _ in pairs], [score for _, score in pairs]
    row = ranked(candidates, scores)
    assert row["scores"] == scores
    assert row["ranks"] == [1 + sum(other > score for other in scores) for score in scores]
    order = [(rank, position) for position, rank in enumerate(row["ranks"])]
    assert row["ranked_candidates"] == [candidates[position] for _, position in sorted(order)]


def test_different_numbers_of_candidates(lab):
    """Distilabel 1.5.3: rows with different numbers of candidates in one batch raised a ValueError, and the batch was lost."""
    rows = [{"input": "q", "candidates": ["a" * (i + 1) for i in range(count)]} for count in (1, 4, 2, 3)]
    found = lab.run(rows, Judge(len), PairRM())
    assert [row["ranks"] for row in found] == [[1], [4, 3, 2, 1], [2, 1], [3, 2, 1]]
    assert [row["ranked_candidates"][0] for row in found] == ["a", "aaaa", "aa", "aaa"]
    assert {row["model_name"] for row in found} == {"judge"}


def test_instructions_are_put_before_the_input(lab):
    """The instructions were dropped, or glued to the candidates."""
    judge = Judge(len)
    lab.run([{"input": "q", "candidates": ["a"]}], judge, PairRM(instructions="Be brief.\n"))
    assert (judge.asked[0].input, judge.asked[0].candidates) == ("Be brief.\nq", ["a"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input": "q", "candidates": []}, "`candidates` is empty"),
        ({"input": "q", "candidates": None}, "list of texts"),
        ({"input": "q", "candidates": ["a", None]}, "list of texts"),
        ({"input": None, "candidates": ["a"]}, "`input` must be text"),
    ],
)
def test_what_cannot_be_ranked_fails_its_row(lab, row, reason):
    """A row without candidates stopped the run, or came out ok with empty lists."""
    good, bad = lab.run([{"input": "q", "candidates": ["a", "bc"]}, row], Judge(len), PairRM())
    assert good["ranks"] == [2, 1]
    assert bad["distil_status"] == "failed"
    assert reason in bad["distil_error"]
    assert (bad["ranks"], bad["ranked_candidates"], bad["scores"]) == (None, None, None)


@pytest.mark.parametrize("answer", [Answer(text="1. a"), Answer(scores=[1.0]), Answer(scores=[1.0, 2.0, 3.0])])
def test_an_answer_that_does_not_fit_is_unparsed(answer):
    """Scores were cut to the candidates, and stood on the wrong ones."""
    talk = PairRM().converse({"input": "q", "candidates": ["a", "b"]}, Random(0))
    next(talk)
    with pytest.raises(Unparsed, match="scores for 2 candidates"):
        talk.send(answer)


def test_it_runs_in_a_job(lab, tmp_path):
    """Distilabel 1.5.3: the step had no logger in a pipeline, crashed, and the pipeline hung."""
    pytest.importorskip("torch")
    from tests import tiny_models

    candidates = ["a dog", "one two", "not good", "the tree"]
    rows = [{"input": "cat " * i, "candidates": candidates[: 1 + i % 4]} for i in range(24)]
    found = lab.run(rows, PairRanker(tiny_models.pair_ranker(tmp_path / "model")), PairRM())
    assert [row["distil_status"] for row in found] == ["ok"] * 24
    for row in found:
        assert sorted(row["ranked_candidates"]) == sorted(row["candidates"])
        best = row["scores"].index(max(row["scores"]))
        assert row["ranked_candidates"][0] == row["candidates"][best]
        assert row["ranks"][best] == 1
    assert len({tuple(row["scores"]) for row in found}) > 12


def test_by_itself():
    """`process` without a DAG, as in a notebook."""
    (rows,) = PairRM(llm=Judge(len)).process([{"input": "q", "candidates": ["a", "bc"]}])
    assert rows[0]["ranked_candidates"] == ["bc", "a"]
