"""Everything that airflow-distil raises on purpose.

    DistilError
    ├── SourceError            rows cannot be read, are not there, or changed while they were read
    ├── DestinationError       the destination cannot be written, or belongs to another task     (the latter is final)
    ├── NotPublished           somebody reads a destination that has no published edition
    ├── TaskDefinitionError    the task or its arguments are wrong: columns, collisions, prompts that drift     (final)
    ├── LLMError               asking a model failed
    │   ├── RateLimited        the endpoint asks us to slow down: wait as told, then go on
    │   ├── Transient          might work next time: ask again
    │   ├── BadRow             this request will never work: its row fails, the others go on
    │   └── Fatal              no request will work (key, model): stop at once, keep what is paid     (final, mostly)
    │       └── QuotaExceeded  nor will it for some time (quota, a long Retry-After): see `on_quota`
    ├── TooManyFailures        more rows failed than `max_failure_ratio` allows, or nobody answers (final if all are permanent)
    ├── BudgetExceeded         the task has spent what it was given     (final)
    ├── Superseded             a newer attempt has taken over this destination     (final)
    └── Stopped                the task was told to stop (SIGTERM, deadline); what is paid is kept

"Final" errors make Airflow fail the task instance without a retry; after the others the next try continues where this one
stopped. A message says what happened, where, what was kept, and what to do next. It is one line, whatever it quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

    from airflow_distil.conversation import Allowance

__all__ = [
    "BadRow",
    "BudgetExceeded",
    "DestinationError",
    "DistilError",
    "Fatal",
    "LLMError",
    "NotPublished",
    "QuotaExceeded",
    "RateLimited",
    "SourceError",
    "Stopped",
    "Superseded",
    "TaskDefinitionError",
    "TooManyFailures",
    "Transient",
]


# What ends a line of a log, colours a terminal or turns text around: control characters, Unicode's line ends and marks of
# direction.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# URIs are refused for these; libraries may quote one all the same.
_PASSWORD = re.compile(r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]*(?=@)")
_SIGNATURE = re.compile(
    r"([?&][\w.-]*(?:sig|signature|token|credential|secret|password|accesskeyid)=)[^&\s'\"]+", re.IGNORECASE
)
# Arrow quotes the value that it cannot read, and a cell may have 50 MB. The end of a message says what to do.
_BEGINNING, _END = 6000, 2000


def one_line(text: str) -> str:
    """Return foreign text as a log or an error may show it: on one line, printable, without passwords in URIs, not endless."""
    if len(text) > _BEGINNING + _END:
        text = f"{text[:_BEGINNING]} […] {text[-_END:]}"
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # of half a surrogate pair no file can be made
    text = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return _SIGNATURE.sub(r"\1***", _PASSWORD.sub("***", text))


def invalid(error: ValidationError) -> str:
    """Return what is wrong in pydantic's words, field by field, without what was given."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "))))
        for each in error.errors(include_url=False, include_input=False)
    )


class DistilError(Exception):
    """Base of all errors of this package."""

    final: bool = False
    """True if the next attempt would end the same way, so that a retry is a waste."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class SourceError(DistilError):
    """Rows cannot be read, are not there, or changed while they were read."""


class DestinationError(DistilError):
    """The destination cannot be written, or belongs to another task.

    :param final: True if the next attempt would find it the same.
    """

    def __init__(self, message: object = "", *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class NotPublished(DistilError):
    """The destination has no published edition to read."""


class TaskDefinitionError(DistilError):
    """The task or its arguments are wrong; no call is made, or no further one."""

    final = True


class LLMError(DistilError):
    """Asking a model failed.

    :param retry_after: seconds to wait before the next request, as the endpoint told; None if it did not.
    """

    allowance: Allowance | None = None
    """What the endpoint said about its limits."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(LLMError):
    """The endpoint asks us to slow down."""


class Transient(LLMError):
    """A failure that may not happen again: a lost connection, a timeout, a server error, a reply that is not JSON."""


class BadRow(LLMError):
    """The endpoint refuses this request and always will: too long, filtered, malformed.

    :param usages: tokens (`Usage`) that are paid for all the same, one per answer that was asked for; empty if none are.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, usages: Sequence[Any] = ()) -> None:
        super().__init__(message, retry_after)
        self.usages = usages


class Fatal(LLMError):
    """No request can succeed: wrong key, no such model.

    :param final: False if the next attempt may find it mended, such as a model hub that could not be reached.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, final: bool = True) -> None:
        super().__init__(message, retry_after)
        self.final = final


class QuotaExceeded(Fatal):
    """The endpoint serves this account no more for now: its quota is used up, or it says to come back much later.

    :param final: False if the endpoint opens again by itself, True if somebody has to raise a quota or pay a bill first.
    """


class TooManyFailures(DistilError):
    """More rows failed or were unparsed than `max_failure_ratio` allows; or none of the first was answered.

    :param final: True if every failure is permanent.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class BudgetExceeded(DistilError):
    """The task has spent what it was given."""

    final = True


class Superseded(DistilError):
    """A newer attempt has taken over this destination."""

    final = True


class Stopped(DistilError):
    """The task was told to stop before it was done."""
