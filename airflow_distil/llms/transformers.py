"""Embeddings of a model in this process, as Hugging Face transformers loads it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from airflow_distil.conversation import Answer, ChatType, Embed, Request, Usage
from airflow_distil.exceptions import BadRow, Fatal, LLMError, TaskDefinitionError
from airflow_distil.llms.local import LocalLLM

__all__ = ["TransformersLLM"]


class TransformersLLM(LocalLLM):
    """A transformers model in this process, for embeddings: the last layer's hidden state of the last token.

    The vector is neither pooled nor normalised. A text is taken as it is, with the special tokens of the tokenizer; a chat goes
    through the model's chat template, up to where the assistant would answer if it ends with another's message. What is longer
    than the model takes is refused, not cut.

    Needs the extra `transformers`: `pip install 'airflow-distil[transformers]'`. To generate text, serve the model with vLLM,
    llama.cpp or Ollama and use `OpenAILLM`.

    :param model: folder, or id at the Hugging Face Hub. Only safetensors weights are read, and no code of the model's.
    :param device: `cuda`, `cuda:1`, `cpu`, …; by default `cuda` if there is one, else `cpu`.
    :param batch_size: texts of one forward pass; fewer if they are long or memory runs out.
    :param max_concurrency: most requests in flight; by default enough to fill the batches.
    :param input_price: US dollars per million input tokens; None is unknown.
    :param output_price: US dollars per million output tokens; None is unknown.
    :raises TaskDefinitionError: there is no model, or a batch holds nothing.
    """

    def get_last_hidden_state(self, inputs: Sequence[str | ChatType]) -> list[list[float]]:
        """Return the vectors of texts or chats, at once and without an event loop.

        :raises BadRow: one of them is empty, too long, or a chat for a model without a chat template.
        :raises Fatal: the model cannot be loaded.
        """
        vectors = []
        for answer in self._computed([Embed(each) for each in inputs], threading.Event()):
            if isinstance(answer, LLMError):
                raise answer
            vectors.append(list(answer.vector or []))
        return vectors

    def check(self, request: Request) -> None:
        """Refuse what is not an embedding."""
        if not isinstance(request, Embed):
            raise TaskDefinitionError(
                f"{self!r} makes embeddings, and was asked for a {request.kind!r}. To generate text, serve the model with "
                "vLLM, llama.cpp or Ollama, and use a connection with the backend 'openai'."
            )

    def load(self, torch: Any, transformers: Any, device: str) -> None:
        """Load tokenizer and weights."""
        # Half precision is for accelerators; CPUs compute in it slowly, or not at all.
        dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(self.model, trust_remote_code=False)
        self._net, told = transformers.AutoModel.from_pretrained(
            self.model, use_safetensors=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
        )
        # What is missing is filled with random numbers, which would go into every vector. The pooler comes after our layer.
        if missing := [name for name in told["missing_keys"] if not name.startswith("pooler.")]:
            raise Fatal(f"The model {self.model!r} cannot be loaded: its weights lack {', '.join(sorted(missing)[:3])}.")
        if self._net.config.is_encoder_decoder:
            raise Fatal(f"The model {self.model!r} is an encoder with a decoder; use one with either.")
        self._net.to(device).eval()
        limits = (self._tokenizer.model_max_length, self._positions())
        self._longest = min(limit for limit in limits if limit and limit > 0)

    def _positions(self) -> int | None:
        """Return the most tokens that have a position; None if any number has."""
        positions: int | None = getattr(self._net.config.get_text_config(), "max_position_embeddings", None)
        for name, part in self._net.named_modules():
            if positions and name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
                # RoBERTa and its kin count positions from the one after that of padding: of 514, 512 are of use.
                return positions - int(part.padding_idx) - 1
        return positions

    def compute(self, requests: Sequence[Embed], halted: threading.Event) -> list[Answer | LLMError]:
        """Return the vectors of texts and chats."""
        began = time.perf_counter()
        told: list[list[int] | BadRow] = [self._tokens(request.input) for request in requests]
        rows = [tokens for tokens in told if isinstance(tokens, list)]
        pad = self._tokenizer.pad_token_id or 0
        found = iter(self.in_passes(rows, self._vectors, pad=pad, device=self._net.device, halted=halted))
        latency = time.perf_counter() - began
        answers: list[Answer | LLMError] = []
        for tokens in told:
            vector = next(found) if isinstance(tokens, list) else tokens
            if isinstance(tokens, BadRow) or isinstance(vector, BadRow):
                answers.append(vector)
            elif not all(map(math.isfinite, vector)):
                answers.append(BadRow(f"{self!r}: the vector of this text holds numbers that are not finite."))
            else:
                answers.append(Answer(vector=vector, model=self.model, usage=Usage(len(tokens), 0), latency=latency))
        return answers

    def _vectors(self, ids: Any, mask: Any) -> list[list[float]]:
        states = self._net(input_ids=ids, attention_mask=mask).last_hidden_state
        last = mask.sum(dim=1) - 1
        vectors: list[list[float]] = states[range(len(states)), last].float().cpu().tolist()
        return vectors

    def _tokens(self, input: str | ChatType) -> list[int] | BadRow:
        try:
            if isinstance(input, str):
                tokens = self._tokenizer.encode(input, verbose=False)
            elif self._tokenizer.chat_template is None:
                return BadRow(f"The model {self.model!r} has no chat template: give it texts, or a model that has one.")
            else:
                unanswered = input[-1]["role"] != "assistant"
                text = self._tokenizer.apply_chat_template(input, tokenize=False, add_generation_prompt=unanswered)
                tokens = self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        except Exception as error:  # noqa: BLE001 - a template is a program, and raises what it likes over a row
            return BadRow(f"{self!r} cannot read this: {type(error).__name__}: {error}")
        if not tokens:
            return BadRow(f"{self!r}: the text is empty.")
        if len(tokens) > self._longest:
            return BadRow(
                f"{self!r}: the text has {len(tokens)} tokens, and the model takes {self._longest}. Shorten or split it."
            )
        return list(tokens)
