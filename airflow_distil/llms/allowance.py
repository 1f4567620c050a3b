"""What an endpoint's headers say about its limits.

OpenAI's names, `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, are also those of Azure, Groq, xAI, GitHub Models and most
proxies, with resets in other forms: `6m0s` and `20ms`, plain seconds, a date, an epoch. Mistral and Cerebras append the window
(`x-ratelimit-limit-tokens-minute`), Azure names its seconds in `x-ratelimit-renewalperiod-tokens`, and Anthropic has the same
words in another order. Headers are foreign input: what cannot be is not there.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import time
from collections.abc import Iterable

from airflow_distil.conversation import Allowance, Quota

__all__ = ["allowance_in"]

_NAME = re.compile(
    r"(?:x-ratelimit-(?P<what>limit|remaining|reset|renewalperiod)-(?P<of>requests|req|tokens)(?P<minute>-minute)?"
    r"|anthropic-ratelimit-(?P<of_>requests|tokens)-(?P<what_>limit|remaining|reset))"
)
_BEGINNINGS = {"x-ratelimit-", "anthropic-ra"}
# As Go writes a duration; OpenAI and Groq send these.
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:h|ms|m|s|us|µs|ns|d))+")
_PART = re.compile(r"(\d+(?:\.\d*)?)(h|ms|m|s|us|µs|ns|d)")
_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
# Nothing that is meant is longer, and patterns need not look at a megabyte.
LONGEST = 40
# More than any provider's day brings, in tokens. What is above it is a way to say "no limit", or nonsense.
MOST = 1e12
# Resets from here on are not seconds from now but of the epoch, and from there on its milliseconds.
EPOCH = 1e9
EPOCH_MS = 1e12


def allowance_in(headers: Iterable[tuple[str, str]]) -> Allowance | None:
    """Return what the headers of a reply say about the endpoint's limits; None if nothing.

    :param headers: names (in any case) and values.
    """
    found: dict[tuple[str, str], str] | None = None
    for name, value in headers:
        # Asked of each header of each reply, and most have none.
        if name[:12].lower() in _BEGINNINGS:
            match = _NAME.fullmatch(name.lower())
            if match is None or len(value) > LONGEST:
                continue
            of = match["of"] or match["of_"]
            found = {} if found is None else found
            found["tokens" if of == "tokens" else "requests", match["what"] or match["what_"]] = value
            if match["minute"]:
                found["tokens" if of == "tokens" else "requests", "renewalperiod"] = "60"
    if not found:
        return None
    requests, tokens = _quota("requests", found), _quota("tokens", found)
    return None if requests is tokens is None else Allowance(requests, tokens)


def _quota(of: str, found: dict[tuple[str, str], str]) -> Quota | None:
    limit, window = _number(found.get((of, "limit"))), _number(found.get((of, "renewalperiod")))
    if limit is not None and not 1 <= limit <= MOST:
        # Azure says -1 where it counts otherwise, others 0 for "none"; what else they say beside it means as little.
        return None
    remaining = _number(found.get((of, "remaining")))
    if remaining is not None and not 0 <= remaining <= (limit or MOST):
        remaining = None
    reset = _seconds(found.get((of, "reset")))
    if limit is None and (remaining is None or reset is None):
        return None
    return Quota(limit, remaining, reset, window if window is not None and window >= 1 else None)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds(text: str | None) -> float | None:
    """Return the seconds from now that a reset stands for."""
    if not text:
        return None
    seconds = _number(text)
    if seconds is not None:
        if seconds >= EPOCH:
            seconds = (seconds / 1000 if seconds >= EPOCH_MS else seconds) - time.time()
    elif _DURATION.fullmatch(text):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    else:
        try:
            seconds = (dt.datetime.fromisoformat(text) - dt.datetime.now(dt.UTC)).total_seconds()
        except (ValueError, TypeError):  # not a date, or one of nowhere
            return None
    # A moment ago is now: clocks differ.
    return None if seconds < -60 else max(0.0, seconds)
