"""What a failed call means for the run: which of the four kinds of `LLMError` a status or a broken reply is."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from email.utils import mktime_tz, parsedate_tz
from html import escape
from typing import Any
from urllib.parse import quote

from airflow_distil.exceptions import BadRow, Fatal, LLMError, QuotaExceeded, RateLimited, Transient

__all__ = ["ADVICE", "LONGEST", "kind_of", "masked", "retry_after", "secrets_in", "words_of"]

# OpenAI sends these as 429, though no waiting helps: going on would mean a run that retries until its deadline.
OUT_OF_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}

# Some gateways answer 400 where OpenAI answers 401 or 404; the code is the same, and so is every further request.
WRONG_FOR_ALL = {"invalid_api_key", "model_not_found", "DeploymentNotFound"}

# 408 and 409 are timeouts and lock conflicts of the server, 425 asks to come again; all statuses from 500 up are
# transient too (529 is "overloaded"), but for 501: a server without, say, embeddings will not grow them.
PASSING = {408, 409, 425}

ADVICE = {
    401: "check the API key of the connection",
    402: "pay the provider's bill",
    403: "the key is known but may not do this: check its rights, its project and its region",
    404: "check the model's name, and that the base URL ends with the API's version (often /v1)",
    407: "check the user and password of the proxy that the environment names",
    405: "check the base URL; it should end with the API's version (often /v1)",
    429: "raise the quota or pay the provider's bill",
    501: "this server cannot do what the task asks; use another endpoint",
}
"""What to do next after a status that stops the run."""

# Enough to read what the provider means; some repeat the whole prompt, which would go into a column of every failed row.
LONGEST = 300

# A month, in seconds. No provider means more, and what a server made up must not overflow a date.
LONGEST_TOLD = 30 * 86_400.0


# As Airflow's own masker: to servers that take any key people give "x", and not every x is a secret.
SHORTEST = 5


def kind_of(status: int, error: Any) -> type[LLMError]:
    """Return the kind of failure that a status and the error object of the reply's body stand for."""
    detail = error if isinstance(error, Mapping) else {}
    codes = {str(detail.get("code")), str(detail.get("type"))}
    if status == 402 or (status == 429 and codes & OUT_OF_MONEY):
        return QuotaExceeded
    if status == 429:
        return RateLimited
    if status in PASSING or (status >= 500 and status != 501):
        return Transient
    # Routers that moderate answer 403 for one flagged row; the key is fine.
    metadata = detail.get("metadata")
    if status == 403 and isinstance(metadata, Mapping) and "flagged_input" in metadata:
        return BadRow
    if status in ADVICE or status < 400 or codes & WRONG_FOR_ALL:
        return Fatal
    return BadRow


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a reply asks to wait, from `retry-after-ms` or `Retry-After` (seconds, or an HTTP date)."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    seconds = _number(milliseconds, 0.001)
    if seconds is None:
        seconds = _number(value, 1.0)
    if seconds is None and value and (date := parsedate_tz(value)):
        seconds = mktime_tz(date) - time.time()
    return None if seconds is None else min(max(0.0, seconds), LONGEST_TOLD)


def _number(text: str | None, unit: float) -> float | None:
    try:
        number = float(text or "") * unit
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def words_of(error: Any) -> str:
    """Return what the provider said, in one line: `error` is the error object of its reply, in one of many forms."""
    while isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("detail") or error.get("error") or error
    return " ".join(str(error or "").split())


def secrets_in(header: str) -> set[str]:
    """Return what of a header's value may be secret: all of it, what follows `Bearer`, the password after `Basic`."""
    scheme, _, key = header.rpartition(" ")
    password = ""
    if scheme.lower() == "basic":
        with suppress(ValueError):
            password = base64.b64decode(key, validate=True).decode().partition(":")[2]
    return {header, key, password} - {""}


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return the text without the secrets, as they are and as servers repeat them: in URLs, in JSON, in HTML, in base64."""
    forms = {form for secret in secrets if len(secret) >= SHORTEST for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def _forms(secret: str) -> set[str]:
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    return {
        secret,
        " ".join(secret.split()),  # as `words_of` leaves it
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        escape(secret),
        encoded,
        encoded.translate(str.maketrans("+/", "-_")),
    }
