"""A model in this process: loaded once, asked in a thread, one forward pass at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any

from airflow_distil.conversation import Answer, Request, resolve
from airflow_distil.exceptions import BadRow, Fatal, LLMError, TaskDefinitionError, Transient
from airflow_distil.llms.gathering import Gathering

__all__ = ["LocalLLM"]

log = logging.getLogger(__name__)

# Of a pass, per item of the batch: a batch of long texts is made smaller, so that memory is bounded by `batch_size` alone.
TOKENS = 512
# Gathered for one call, in batches: among twice as many there are some of like length, and less is computed for padding.
GATHERED = 2
# In flight, in batches: while one call is computed, the next one gathers.
IN_FLIGHT = 4


class LocalLLM(ABC):
    """Base of models that PyTorch computes in this process.

    :param model: folder, or id at the Hugging Face Hub. Only safetensors weights are read, and no code of the model's.
    :param device: `cuda`, `cuda:1`, `cpu`, …; by default `cuda` if there is one, else `cpu`.
    :param batch_size: items of one forward pass; fewer if they are long or memory runs out.
    :param max_concurrency: most requests in flight; by default enough to fill the batches.
    :param input_price: US dollars per million input tokens; None is unknown.
    :param output_price: US dollars per million output tokens; None is unknown.
    :raises TaskDefinitionError: there is no model, or a batch holds nothing.
    """

    parameters: Mapping[str, Any] = MappingProxyType({})
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        batch_size: int = 32,
        max_concurrency: int | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
    ) -> None:
        if not model:
            raise TaskDefinitionError(f"{type(self).__name__} needs a model: a folder, or an id at the Hugging Face Hub.")
        if batch_size < 1:
            raise TaskDefinitionError(f"batch_size is {batch_size}; it must be at least 1.")
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.max_concurrency: int | None = max_concurrency or IN_FLIGHT * batch_size
        self.input_price = input_price
        self.output_price = output_price
        # Passes share memory and cores: two at once, also from two event loops, are slower than one after the other.
        self._pass = threading.Lock()
        self._loaded = False
        self._gathering = Gathering[Request, Answer](self._serve, room=GATHERED * batch_size, size=self.count, most_calls=1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    async def answer(self, request: Request, n: int = 1) -> list[Answer]:  # noqa: ARG002 - equal samples have equal answers
        """Return one answer, computed together with those of others that are asked for at the same time.

        :raises TaskDefinitionError: this model cannot answer such a request.
        :raises BadRow: it cannot answer this one.
        :raises Fatal: the model cannot be loaded.
        """
        if request.model is None:
            request = resolve(request, self.model, self.parameters)
        if request.model != self.model:
            raise TaskDefinitionError(f"{self!r} was asked for the model {request.model!r}. Leave `model` out of the request.")
        if request.parameters:
            names = ", ".join(map(repr, request.parameters))
            raise TaskDefinitionError(f"{self!r} computes without parameters; leave out {names}.")
        self.check(request)
        return [await self._gathering.ask(request)]

    async def aclose(self) -> None:
        """End what is under way: a forward pass, or loading, is not waited for, and what comes of it is dropped.

        What is loaded stays so, for another event loop too.
        """
        await self._gathering.aclose()

    @abstractmethod
    def check(self, request: Request) -> None:
        """Check that a request is of the kind that this model answers; the model is not loaded yet.

        :raises TaskDefinitionError: if it is not.
        """

    @abstractmethod
    def load(self, torch: Any, transformers: Any, device: str) -> None:
        """Load tokenizer and weights. Whatever it raises is `Fatal`."""

    @abstractmethod
    def compute(self, requests: Sequence[Any], halted: threading.Event) -> list[Answer | LLMError]:
        """Answer requests; the model is loaded. An error in place of an answer is of that request alone."""

    def count(self, request: Any) -> int:  # noqa: ARG002
        """Return how many items of a batch a request is."""
        return 1

    async def _serve(self, requests: Sequence[Request]) -> list[Answer | LLMError]:
        halted = threading.Event()
        computed: Future[list[Answer | LLMError]] = Future()

        def compute() -> None:
            try:
                computed.set_result(self._computed(requests, halted))
            except BaseException as error:  # noqa: BLE001 - raised where the answers are waited for
                computed.set_exception(error)

        # Not of the loop's own threads: those are waited for at the end, and a model that loads would hold up a stop.
        computed.set_running_or_notify_cancel()
        threading.Thread(target=compute, name="airflow-distil-model", daemon=True).start()
        try:
            return await asyncio.wrap_future(computed)
        finally:
            # Of no matter to a thread that is done; one that nobody waits for any more ends at its next look.
            halted.set()

    def _computed(self, requests: Sequence[Any], halted: threading.Event) -> list[Answer | LLMError]:
        with self._pass:
            if halted.is_set():
                raise Transient("The model was stopped before it began.")
            if not self._loaded:
                self._load()
            return self.compute(requests, halted)

    def _load(self) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise Fatal(
                f"{self!r} needs PyTorch and transformers, which are not there ({error}). "
                "Next: pip install 'airflow-distil[transformers]' on the worker."
            ) from error
        if self.model.startswith((".", "/", "~")) and not Path(self.model).expanduser().exists():
            raise Fatal(f"There is no folder {self.model} on this machine. Next: put the model there, or name another one.")
        self._torch = torch
        began = time.perf_counter()
        # A bar per model in the log of each task says nothing; the line below says it.
        bars = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()
        try:
            self.load(torch, transformers, self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except Fatal:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            unreachable = _is_unreachable(error)
            raise Fatal(
                f"The model {self.model!r} cannot be loaded: {type(error).__name__}: {reason} Next: name a folder, or a model "
                "of the Hugging Face Hub that this machine can reach, with its tokenizer and weights in safetensors format.",
                final=not unreachable,
            ) from error
        finally:
            if bars:
                transformers.utils.logging.enable_progress_bar()
        self._loaded = True
        log.info("Loaded %s in %.1f s", self.model, time.perf_counter() - began)

    def in_passes(
        self,
        rows: Sequence[list[int]],
        run: Callable[[Any, Any], list[Any]],
        *,
        pad: int,
        device: Any,
        halted: threading.Event,
    ) -> list[Any]:
        """Compute rows of token ids in as few forward passes as fit; return a value, or the error, of each.

        :param run: computes the values of padded rows: takes ids and attention mask, padded at the right.
        :raises Transient: it was halted between two passes.
        """
        torch = self._torch
        values: list[Any] = [None] * len(rows)
        left = sorted(range(len(rows)), key=lambda position: len(rows[position]))
        while left:
            if halted.is_set():
                raise Transient("The model was stopped between two forward passes.")
            group = self._group(left, rows)
            ids = torch.full((len(group), len(rows[group[-1]])), pad, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for line, position in enumerate(group):
                ids[line, : len(rows[position])] = torch.tensor(rows[position])
                mask[line, : len(rows[position])] = 1
            try:
                with torch.inference_mode():
                    found = run(ids.to(device), mask.to(device))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                if len(group) > 1:
                    self.batch_size = max(1, min(self.batch_size, len(group)) // 2)
                    log.warning("%s: out of memory with %d items; from now on at most %d", self, len(group), self.batch_size)
                    continue
                found = [BadRow(f"{self!r}: not enough memory on {device} for a text of {len(rows[group[0]])} tokens.")]
            for position, value in zip(group, found, strict=True):
                values[position] = value
            left = left[len(group) :]
        return values

    def _group(self, left: list[int], rows: Sequence[list[int]]) -> list[int]:
        """Return the rows of the next pass: the shortest that are left."""
        size = 1
        while size < min(len(left), self.batch_size) and len(rows[left[size]]) * (size + 1) <= TOKENS * self.batch_size:
            size += 1
        return left[:size]


def _is_unreachable(error: BaseException | None) -> bool:
    """Tell whether the hub could not be reached: another night it can, unlike a model that does not exist."""
    # By name: the hub's client has changed its HTTP library before.
    names = {"ConnectError", "ConnectTimeout", "ConnectionError", "ReadTimeout", "LocalEntryNotFoundError"}
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in names:
            return True
        error = error.__cause__ or error.__context__
    return False
