"""What a task instance has paid, and what it may pay.

It is summed over the facts that were paid for under the claims of this identity, each once: over all its attempts and clears,
not over other runs that share the destination.

A limit is looked at before a request waits for its place in flight, and again when it has it. What is in flight counts as much
as the dearest answer so far, and a request that does not fit waits until it does, or until nothing is in flight any more. So no
answer that is paid for is thrown away, and all that fits is asked. A limit is passed by one call at most, or by what those in
flight cost more than the dearest answer before: of eight calls at the very beginning, when there was none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_distil.conversation import LLM, Embed, Request, Usage
from airflow_distil.datasets.log import Fact, Kind
from airflow_distil.exceptions import BudgetExceeded, TaskDefinitionError
from airflow_distil.llms.prices import dollars, price_of

__all__ = ["Budget", "Paid"]

# Until the first answer nobody knows what one costs. So many at a time find it out: enough that a slow or failing endpoint is
# not asked one by one, and few enough to be a small part of a budget that is worth setting.
FIRST = 8
# Numbers of facts are kept as bits, so many to a piece: a million facts of an attempt take 128 kB, and a forged number no more
# than one piece.
BITS = 4096
# Of a dollar. Ten times 0.1 are less than 1.0 in floating point, and there would always be room for one more call. The cheapest
# token of any list costs some thousands of these.
PARTS = 10**12


@dataclass(slots=True)
class Paid:
    """Answers that were paid for, with their tokens and dollars as far as they are known.

    :param uncounted: answers of which the endpoint did not say the tokens.
    :param unpriced: answers of which the cost is not known.
    """

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    uncounted: int = 0
    unpriced: int = 0

    def add(self, tokens_in: int | None, tokens_out: int | None, cost: float | None) -> None:
        """Add an answer."""
        self.answers += 1
        if tokens_in is None or tokens_out is None:
            self.uncounted += 1
        self.input_tokens += tokens_in or 0
        self.output_tokens += tokens_out or 0
        if cost is None:
            self.unpriced += 1
        else:
            self.cost_usd += cost

    def __add__(self, other: Paid) -> Paid:
        return Paid(*(getattr(self, name) + getattr(other, name) for name in Paid.__slots__))

    @property
    def summary(self) -> dict[str, Any]:
        """The figures that are known, and null for those that are not."""
        return {
            "answers": self.answers,
            "input_tokens": None if self.uncounted else self.input_tokens,
            "output_tokens": None if self.uncounted else self.output_tokens,
            "cost_usd": None if self.unpriced else self.cost_usd,
        }


@dataclass(slots=True)
class _Meter:
    """One limit, and what is spent of it, in whole parts. An answer of unknown size counts as the dearest of known size."""

    limit: int | None
    spent: int = 0
    dearest: int | None = None
    unknown: int = 0

    def add(self, value: int | None) -> None:
        if value is None:
            self.unknown += 1
        else:
            self.spent += value
            if self.dearest is None or value > self.dearest:
                self.dearest = value

    @property
    def total(self) -> int:
        return self.spent + self.unknown * (self.dearest or 0)

    def has_room(self, in_flight: int, answers: int) -> bool:
        """Tell whether answers may be asked for beside those in flight; if none are, as soon as anything is left."""
        if self.limit is None:
            return True
        left = self.limit - self.total
        if left <= 0 or not in_flight:
            return left > 0
        return (in_flight + answers) * (left / FIRST if self.dearest is None else self.dearest) <= left


@dataclass(slots=True)
class Budget:
    """What a task instance has paid, over all its attempts, and what it may pay.

    :param llm: whose prices hold.
    :param max_cost_usd: most US dollars; None is no limit.
    :param max_total_tokens: most tokens, of input and output together; None is no limit.
    :param earlier: what earlier attempts paid.
    :param own: what this attempt paid.
    """

    llm: LLM
    max_cost_usd: float | None = None
    max_total_tokens: int | None = None
    earlier: Paid = field(init=False, default_factory=Paid)
    own: Paid = field(init=False, default_factory=Paid)
    _nonces: frozenset[bytes] = field(init=False, default=frozenset())
    _seen: dict[tuple[bytes, int], bytearray] = field(init=False, default_factory=dict)
    _dollars: _Meter = field(init=False)
    _tokens: _Meter = field(init=False)
    _in_flight: int = field(init=False, default=0)
    _blind: int = field(init=False, default=0)
    _asked: bool = field(init=False, default=False)
    _moved: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _closed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._dollars, self._tokens = _Meter(_parts(self.max_cost_usd)), _Meter(self.max_total_tokens)

    @property
    def limited(self) -> bool:
        """Whether there is a limit to look at."""
        return self.max_cost_usd is not None or self.max_total_tokens is not None

    @property
    def paid(self) -> Paid:
        """What all attempts paid together."""
        return self.earlier + self.own

    def belongs_to(self, nonces: frozenset[bytes]) -> None:
        """Say whose facts count.

        :param nonces: of all claims of this task instance.
        """
        self._nonces = nonces

    def count(self, fact: Fact, body: Mapping[str, Any]) -> None:
        """Count a fact that the log or an earlier attempt's scratch file held, unless it was counted or others paid for it.

        :param body: its own, read.
        """
        if fact.nonce not in self._nonces or not self._is_new(fact):
            return
        if fact.kind is Kind.ANSWER or "usage" in body:
            self._add(self.earlier, body)

    def add(self, body: Mapping[str, Any]) -> None:
        """Count an answer of this attempt.

        :param body: the body of its fact.
        """
        self._add(self.own, body)

    async def admit(self, answers: int, request: Request) -> bool:
        """Wait until there is room for a request; tell whether there is. If so, `release` it when it is answered, or failed.

        :param answers: how many answers it asks for.
        :raises TaskDefinitionError: if there is a limit in dollars, and no price.
        :raises BudgetExceeded: if a limit cannot be kept, as the endpoint does not say what answers cost.
        """
        self._check_price(request)
        while not self._closed:
            self._check_counts()
            if self._has_room(self._in_flight, answers):
                self._in_flight += answers
                return True
            if not self._in_flight:
                break
            self._moved.clear()
            await self._moved.wait()
        return False

    def fits(self, answers: int) -> bool:
        """Tell whether there still is room for a request that was let through, at what answers cost by now."""
        return self._has_room(self._in_flight - answers, answers)

    def release(self, answers: int) -> None:
        """Note that a request is in flight no more."""
        self._in_flight -= answers
        self._moved.set()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        self._moved.set()

    def exceeded(self, done: int, total: int) -> BudgetExceeded:
        """Return what to raise when there is no room left.

        :param done: output rows that are done.
        :param total: output rows there will be.
        """
        in_tokens = self._dollars.has_room(0, 1)
        limit = f"max_total_tokens={self.max_total_tokens}" if in_tokens else f"max_cost_usd={self.max_cost_usd:.10g}"
        return BudgetExceeded(
            f"{limit} is used up: all attempts of this task instance paid {self._spent}. {done:,} of "
            f"{total:,} rows are done. Nothing was published in this attempt, and all answers are kept. To go on, raise the "
            "limit and clear the task instance: it asks only what is missing. A new run does so only at the same `destination`."
        )

    @property
    def line(self) -> str:
        """What this attempt paid and, if there is a limit, what all attempts did, as part of a line of the log."""
        own = f"{self.own.input_tokens} + {self.own.output_tokens} tokens"
        if self.own.answers and not self.own.unpriced:
            own += f", {dollars(self.own.cost_usd)}"
        limits = []
        if self.max_cost_usd is not None:
            limits.append(f"{dollars(self._dollars.total / PARTS)} of {dollars(self.max_cost_usd)}")
        if self.max_total_tokens is not None:
            limits.append(f"{self._tokens.total} of {self.max_total_tokens} tokens")
        return f"{own}; budget: {' and '.join(limits)}" if limits else own

    @property
    def _spent(self) -> str:
        paid = self.paid
        cost = "" if paid.unpriced else f" and {dollars(paid.cost_usd)}"
        unknown = f"; {paid.uncounted:,} of them without a count" if paid.uncounted else ""
        return f"{paid.input_tokens:,} + {paid.output_tokens:,} tokens{cost} for {paid.answers:,} answers{unknown}"

    def _has_room(self, in_flight: int, answers: int) -> bool:
        return all(meter.has_room(in_flight, answers) for meter in (self._dollars, self._tokens))

    def _is_new(self, fact: Fact) -> bool:
        piece, bit = divmod(fact.number, BITS)
        bits = self._seen.get((fact.nonce, piece))
        if bits is None:
            bits = self._seen[fact.nonce, piece] = bytearray(BITS // 8)
        mask = 1 << bit % 8
        if bits[bit // 8] & mask:
            return False
        bits[bit // 8] |= mask
        return True

    def _add(self, paid: Paid, body: Mapping[str, Any]) -> None:
        tokens_in, tokens_out = body.get("usage") or (None, None)
        cost = body.get("cost")
        paid.add(tokens_in, tokens_out, cost)
        if not self.limited:
            return
        if cost is None and tokens_in is not None and paid is self.earlier:
            # Paid for when its price was not known yet: what it would cost now is as near as one can get.
            price = price_of(self.llm, body.get("model"))
            cost = price and price.of(Usage(tokens_in, tokens_out))
        tokens = None if tokens_in is None or tokens_out is None else tokens_in + tokens_out
        self._dollars.add(_parts(cost))
        self._tokens.add(tokens)
        self._blind += paid is self.own and (
            (self.max_cost_usd is not None and self._dollars.dearest is None)
            or (self.max_total_tokens is not None and self._tokens.dearest is None)
        )

    def _check_price(self, request: Request) -> None:
        if self.max_cost_usd is None or self._asked:
            return
        price = price_of(self.llm)
        if price is None or (price.output is None and not isinstance(request, Embed)):
            which = "that" if price is None else "the output_price"
            raise TaskDefinitionError(
                f"max_cost_usd={self.max_cost_usd:g} needs a price, and {which} of {self.llm.model!r} at this endpoint is not "
                "known. Nothing was asked. Set input_price and output_price (US dollars per million tokens) on the connection, "
                "or use max_total_tokens instead."
            )
        self._asked = True

    def _check_counts(self) -> None:
        if self._blind >= FIRST:
            raise BudgetExceeded(
                f"The budget cannot be kept: of {self._blind} answers of {self.llm.model!r} the tokens or the price are not "
                "known. They are kept, and nothing more is asked. Let the server report `usage`, set input_price and "
                "output_price on the connection, or leave the limit out; then clear the task instance."
            )


def _parts(amount: float | None) -> int | None:
    return None if amount is None else round(amount * PARTS)
