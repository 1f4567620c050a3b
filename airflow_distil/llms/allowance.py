"""What an endpoint's headers say about its limits.

OpenAI's names, `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, are also those of Azure, Groq, GitHub Models and most
proxies, with resets in other forms: `6m0s` and `20ms`, plain seconds, a date, an epoch. Mistral and Cerebras append the window
(`x-ratelimit-limit-tokens-minute`), Azure names its seconds in `x-ratelimit-renewalperiod-tokens`, and Anthropic has the same
words in another order. OpenRouter and many proxies name neither unit nor window; of those, what remains until when is believed,
and their limit is not. Headers are foreign input: what cannot be is not there.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import time
from collections.abc import Iterable, Mapping

from airflow_distil.conversation import Allowance, Quota

__all__ = ["allowance_in"]

_BEGINNINGS = {b"x-ratelimit-", b"anthropic-ra"}
_MINUTE = "-minute"
# Name of a header → what it says, and of what.
_NAMES = {
    name.encode(): said
    for name, said in {
        **{
            f"x-ratelimit-{what}-{name}{window}": (of, what, window)
            for of, names in (("requests", ("requests", "req")), ("tokens", ("tokens",)))
            for name in names
            for what in ("limit", "remaining", "reset", "renewalperiod")
            for window in ("", _MINUTE)
        },
        **{
            f"anthropic-ratelimit-{of}-{what}": (of, what, "")
            for of in ("requests", "tokens")
            for what in ("limit", "remaining", "reset")
        },
        "x-ratelimit-remaining": ("calls", "remaining", ""),
        "x-ratelimit-reset": ("calls", "reset", ""),
    }.items()
}
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


def allowance_in(headers: Iterable[tuple[bytes, bytes]]) -> Allowance | None:
    """Return what the headers of a reply say about the endpoint's limits; None if nothing.

    :param headers: names (in any case) and values, as they came.
    """
    found: dict[str, dict[str, str]] | None = None
    for name, value in headers:
        # Asked of each header of each reply, and most have none.
        if name[:12].lower() not in _BEGINNINGS or (known := _NAMES.get(name.lower())) is None or len(value) > LONGEST:
            continue
        of, what, window = known
        if found is None:
            found = {}
        said = found.setdefault(of, {})
        said[what] = value.decode("latin-1")
        if window:
            said["renewalperiod"] = "60"
    if found is None:
        return None
    requests, tokens = _quota(found.get("requests") or found.get("calls")), _quota(found.get("tokens"))
    return None if requests is tokens is None else Allowance(requests, tokens)


def _quota(said: Mapping[str, str] | None) -> Quota | None:
    if said is None:
        return None
    limit, remaining = _number(said.get("limit")), _number(said.get("remaining"))
    if limit is not None and not 1 <= limit <= MOST:
        # Azure says -1 where it counts otherwise, others 0 for "none"; what else they say beside it means as little.
        return None
    if remaining is not None and not 0 <= remaining <= (limit or MOST):
        remaining = None
    reset = _seconds(said.get("reset"))
    if limit is None and (remaining is None or reset is None):
        return None
    window = _number(said.get("renewalperiod"))
    return Quota(limit, remaining, reset, window if window is not None and window >= 1 else None)


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
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
