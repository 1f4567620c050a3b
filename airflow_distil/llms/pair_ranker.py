"""PairRM: compare answers to an input two by two, with a DeBERTa that was trained to (LLM-Blender, arXiv 2306.02561)."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from airflow_distil.conversation import Answer, Rank, Request, Usage
from airflow_distil.exceptions import BadRow, Fatal, LLMError, TaskDefinitionError
from airflow_distil.llms.local import LocalLLM

__all__ = ["PairRanker"]

# The marks the model was trained with, in the order in which they were added to the vocabulary. The last one stood for both
# candidates in training data; nothing is written with it, but it has its place in the vocabulary.
SOURCE, FIRST, SECOND, EITHER = "<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"
# Tokens of each part, marks included, if the checkpoint does not say: PairRM's own. What the input leaves of its share goes to
# the two candidates.
SOURCE_TOKENS = 1224
CANDIDATE_TOKENS = 412


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The comparisons of one row.

    :param candidates: as they were given.
    :param rows: token ids of each pair of different texts, in both orders.
    """

    candidates: Sequence[str]
    rows: dict[tuple[str, str], list[int]]


class PairRanker(LocalLLM):
    """A PairRM model in this process: ranks any number of candidate answers to an input.

    Each ordered pair of candidates is compared once. With M[i, j] > 0 where the model prefers i, shown first, to j, the score
    of candidate i is the mean over all j of M[i, j] - M[j, i]; M[i, i] counts as 0. Equal texts have equal scores. The input is
    cut after 1224 tokens, candidates after 412 or what a shorter input leaves them, as in training.

    Needs the extra `transformers`: `pip install 'airflow-distil[transformers]'`.

    :param model: folder, or id at the Hugging Face Hub, of a checkpoint like `llm-blender/PairRM`, which also needs the
        tokenizer of the model that it was made from (`microsoft/deberta-v3-large`), or like `llm-blender/PairRM-hf`, which does
        not. Only weights in safetensors format are read, and no code of the model's.
    :param device: `cuda`, `cuda:1`, `cpu`, …; by default `cuda` if there is one, else `cpu`.
    :param batch_size: pairs of one forward pass; fewer if they are long or memory runs out.
    :param max_concurrency: most requests in flight; by default enough to fill the batches.
    :raises TaskDefinitionError: there is no model, or a batch holds nothing.
    """

    def __init__(
        self,
        model: str = "llm-blender/PairRM",
        *,
        device: str | None = None,
        batch_size: int = 16,
        max_concurrency: int | None = None,
    ) -> None:
        super().__init__(model, device=device, batch_size=batch_size, max_concurrency=max_concurrency)

    def check(self, request: Request) -> None:
        """Refuse what is not a ranking."""
        if not isinstance(request, Rank):
            raise TaskDefinitionError(f"{self!r} ranks candidates, and was asked for a {request.kind!r}; use another model.")
        if not request.candidates:
            raise BadRow("There is no candidate to rank.")

    def count(self, request: Any) -> int:
        """Return the number of pairs."""
        number = len(request.candidates)
        return max(1, number * (number - 1))

    def load(self, torch: Any, transformers: Any, device: str) -> None:
        """Load tokenizer and weights, from the layout of LLM-Blender's own checkpoints or of those made for transformers."""
        from safetensors.torch import load_file

        cached_file = transformers.utils.cached_file
        settings = json.loads(Path(cached_file(self.model, "config.json")).read_text(encoding="utf-8"))
        if "ranker_type" in settings:
            # LLM-Blender's own: settings of its trainer. Architecture and vocabulary are those of the model that it began with.
            origin = settings.get("model_name") or self.model
        elif "source_prefix_id" in settings:
            origin = self.model
        else:
            raise Fatal(f"{self.model!r} is not a PairRM checkpoint: its config.json says nothing of a pair ranker.")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(origin, trust_remote_code=False)
        self._tokenizer.add_tokens([SOURCE, FIRST, SECOND, EITHER])
        self._marks = tuple(self._tokenizer.convert_tokens_to_ids([SOURCE, FIRST, SECOND]))
        weights = load_file(cached_file(self.model, "model.safetensors"))
        words = weights["pretrained_model.embeddings.word_embeddings.weight"].shape[0]
        told = tuple(settings.get(name, mark) for name, mark in zip(_MARKS_IN_CONFIG, self._marks, strict=True))
        if told != self._marks or max(self._marks) >= words:
            raise Fatal(f"{self.model!r}: the tokenizer's marks are {self._marks}, and the weights were trained with {told}.")
        config = transformers.AutoConfig.from_pretrained(origin, trust_remote_code=False)
        config.vocab_size = words
        self._backbone = transformers.AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
        missing = self._backbone.load_state_dict(_below("pretrained_model.", weights), strict=False).missing_keys
        if missing:
            raise Fatal(f"{self.model!r}: the weights lack {', '.join(missing[:3])}.")
        hidden, tasks = config.hidden_size, len(weights["head_layer.4.bias"])
        # Dropout, which the trainer had at 0 and 3, does nothing here but keep the numbering.
        self._head = torch.nn.Sequential(
            torch.nn.Identity(),
            torch.nn.Linear(2 * hidden, hidden),
            torch.nn.Tanh(),
            torch.nn.Identity(),
            torch.nn.Linear(hidden, tasks),
        )
        self._head.load_state_dict(_below("head_layer.", weights))
        for part in (self._backbone, self._head):
            part.to(device).eval()
        self._source_tokens = settings.get("source_maxlength") or SOURCE_TOKENS
        self._candidate_tokens = settings.get("candidate_maxlength") or CANDIDATE_TOKENS

    def compute(self, requests: Sequence[Rank], halted: threading.Event) -> list[Answer | LLMError]:
        """Return the scores of the candidates of each request."""
        began = time.perf_counter()
        told: list[_Pairs | BadRow] = [self._pairs(request) for request in requests]
        rows = [row for pairs in told if isinstance(pairs, _Pairs) for row in pairs.rows.values()]
        pad = self._tokenizer.pad_token_id or 0
        found = iter(self.in_passes(rows, self._preferences, pad=pad, device=self._backbone.device, halted=halted))
        latency = time.perf_counter() - began
        answers: list[Answer | LLMError] = []
        for pairs in told:
            if isinstance(pairs, BadRow):
                answers.append(pairs)
                continue
            matrix = {pair: next(found) for pair in pairs.rows}
            if error := next((value for value in matrix.values() if isinstance(value, BadRow)), None):
                answers.append(error)
            elif not all(map(math.isfinite, matrix.values())):
                answers.append(BadRow(f"{self!r}: a comparison of this row is not a finite number."))
            else:
                usage = Usage(sum(map(len, pairs.rows.values())), 0)
                answers.append(Answer(scores=_scores(pairs.candidates, matrix), model=self.model, usage=usage, latency=latency))
        return answers

    def _pairs(self, request: Rank) -> _Pairs | BadRow:
        try:
            source = self._part(SOURCE, request.input, self._source_tokens)
            room = self._candidate_tokens + (self._source_tokens - len(source)) // 2
            texts = dict.fromkeys(request.candidates)
            first = {text: self._part(FIRST, text, room) for text in texts}
            # The same tokens but for the mark.
            second = {text: [self._marks[2] if i == self._marks[1] else i for i in ids] for text, ids in first.items()}
        except (TypeError, UnicodeError) as error:
            return BadRow(f"{self!r} cannot read this: {error}")
        return _Pairs(request.candidates, {(a, b): source + first[a] + second[b] for a, b in permutations(texts, 2)})

    def _part(self, mark: str, text: str, most: int) -> list[int]:
        # A mark or a separator inside of a text would move its parts.
        for token in (SOURCE, FIRST, SECOND, EITHER, *self._tokenizer.all_special_tokens):
            text = text.replace(token, " ")
        return list(self._tokenizer.encode(mark + text, truncation=True, max_length=most))

    def _preferences(self, ids: Any, mask: Any) -> list[float]:
        states = self._backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        lines = range(len(states))
        source, first, second = (states[lines, (ids == mark).int().argmax(dim=1)] for mark in self._marks)
        torch = self._torch
        left, right = (self._head(torch.cat([source, candidate], dim=-1)) for candidate in (first, second))
        preferences: list[float] = (left - right).mean(dim=-1).cpu().tolist()
        return preferences


# Where transformers' layout says what the marks' numbers were in training.
_MARKS_IN_CONFIG = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")


def _below(prefix: str, weights: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _scores(candidates: Sequence[str], matrix: dict[tuple[str, str], float]) -> list[float]:
    # Equal texts are not compared: neither is better.
    def preferred(one: str, other: str) -> float:
        return 0.0 if one == other else matrix[one, other] - matrix[other, one]

    return [sum(preferred(one, other) for other in candidates) / len(candidates) for one in candidates]
