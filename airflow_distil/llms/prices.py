"""What an answer costs: the connection's prices, else the list prices of whoever serves the endpoint, else unknown.

List prices are those that the installed `genai-prices` brings along; nothing is fetched. A provider is known by the URL of its
API and by nothing else: a local server may call its model "gpt-4o", and costs what its owner's electricity costs.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from airflow_distil.conversation import LLM, Answer, Usage

__all__ = ["Price", "cost_of", "dollars", "price_of"]

# Some models are cheaper at night, and a price may change while a long run is under way. Hours of a price list are whole or
# half ones, so a price that is looked up anew every quarter of an hour is the right one.
LOOKED_UP_EVERY = 900
# A run asks one model, which may report a few exact names of itself.
MODELS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in US dollars.

    :param input: per input token that was not cached.
    :param output: per output token; None if unknown.
    :param cached: per input token that the provider had in its prompt cache.
    :param cache_write: per input token that it put there.
    :param call: per call.
    :param longer: prices of longer calls, the longest first, as (more input tokens than this, price).
    """

    input: float
    output: float | None
    cached: float
    cache_write: float
    call: float = 0.0
    longer: tuple[tuple[int, Price], ...] = ()

    def of(self, usage: Usage, sharing: int = 1) -> float | None:
        """Return what an answer costs; None if a price or a count is unknown.

        :param sharing: answers that came with the same call; each has its share of the call's tokens.
        """
        tokens, said = usage.input_tokens, usage.output_tokens
        if tokens is None or said is None:
            return None
        price = self
        for start, other in self.longer:
            if tokens * sharing > start:
                price = other
                break
        if price.output is None:
            if said:
                return None
            output = 0.0
        else:
            output = said * price.output
        cost = output + price.call / sharing + tokens * price.input
        if cached := min(usage.cached_tokens, tokens):
            cost -= cached * (price.input - price.cached)
        if written := min(usage.cache_write_tokens, tokens - cached):
            cost -= written * (price.input - price.cache_write)
        return cost


def cost_of(llm: LLM, answer: Answer, sharing: int = 1) -> float | None:
    """Return what an answer costs in US dollars; None if it is not known.

    :param sharing: answers that came with the same call.
    """
    price = price_of(llm, answer.model)
    return None if price is None else price.of(answer.usage, sharing)


def price_of(llm: LLM, reported: str | None = None) -> Price | None:
    """Return what a model costs now; None if it is not known.

    :param reported: the name of the model that the endpoint reported. It is the more exact one (a dated version, the model
        behind a deployment of Azure), so it is looked up first; before the first answer there is none.
    """
    tier = llm.parameters.get("service_tier")
    return _price(
        getattr(llm, "endpoint", None),
        (llm.model, reported),
        (llm.input_price, llm.output_price),
        tier if isinstance(tier, str) else None,
        int(time.time() // LOOKED_UP_EVERY),
    )


def dollars(amount: float) -> str:
    """Return dollars as people write them: cents, and of less than one dollar the first two digits that say something."""
    digits = 2 if amount >= 1 or amount <= 0 else max(2, 1 - math.floor(math.log10(amount)))
    return f"${amount:,.{digits}f}"


@lru_cache(MODELS_KEPT)
def _price(
    endpoint: str | None,
    names: tuple[str, str | None],
    own: tuple[float | None, float | None],
    tier: str | None,
    _now: int,
) -> Price | None:
    own_input, own_output = (None if price is None else price / 1e6 for price in own)
    listed = None
    if endpoint and (own_input is None or own_output is None):
        listed = _listed(endpoint, *names, tier)
    if own_input is not None:
        # Who pays another price than the list's has hardly its discounts for cached input.
        output = listed.output if listed and own_output is None else own_output
        return Price(own_input, output, own_input, own_input)
    if listed is None or own_output is None:
        return listed
    return replace(
        listed,
        output=own_output,
        longer=tuple((start, replace(price, output=own_output)) for start, price in listed.longer),
    )


def _listed(endpoint: str, asked: str, reported: str | None, tier: str | None) -> Price | None:
    scheme, separator, rest = endpoint.partition("://")
    if scheme.lower() != "https":
        return None  # nobody sells answers over plain HTTP: a server near by need not wait for the list
    # Half a second and 20 MB: not before a price is wanted.
    from genai_prices import Usage as Counted
    from genai_prices import calc_price

    host, slash, path = rest.partition("/")
    url = f"{scheme.lower()}{separator}{host.lower()}{slash}{path}"
    for name in (reported, asked):
        if not name:
            continue
        try:
            found = calc_price(Counted(), name, provider_api_url=url, price_context={"service_tier": tier} if tier else None)
        except LookupError:
            continue
        if name is not reported and reported and found.provider.id == "azure":
            # A deployment is called what its owner likes. It will do for an estimate, but not once the model has a name.
            return None
        return _price_in(found.model_price)
    return None


def _price_in(listed: Any) -> Price | None:
    """Return the prices of an entry of the list, each tier's put together; None if it has none for input."""
    if listed.input_mtok is None:
        return None
    kinds = [listed.input_mtok, listed.output_mtok, listed.cache_read_mtok, listed.cache_write_mtok]
    starts = sorted({tier.start for kind in kinds for tier in getattr(kind, "tiers", ())}, reverse=True)
    call = float(listed.requests_kcount or 0) / 1000

    def at(tokens: int) -> tuple[float, float | None, float, float]:
        base, output, cached, written = (_per_token(kind, tokens) for kind in kinds)
        plain = base or 0.0
        return plain, output, plain if cached is None else cached, plain if written is None else written

    return Price(*at(0), call, tuple((start, Price(*at(start + 1), call)) for start in starts))


def _per_token(kind: Any, tokens: int) -> float | None:
    if kind is None:
        return None
    price = getattr(kind, "base", kind)
    for tier in getattr(kind, "tiers", ()):
        if tokens > tier.start:
            price = tier.price
    return float(price) / 1e6
