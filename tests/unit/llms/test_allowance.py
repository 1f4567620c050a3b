"""What headers say about limits: as providers really send them, and as nobody should."""

from __future__ import annotations

import datetime as dt
import math
import time

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from airflow_distil.conversation import Allowance, Quota
from airflow_distil.llms.allowance import LONGEST, MOST, allowance_in


def read(text: str) -> Allowance | None:
    """Read headers as they are written down."""
    lines = [line.split(": ", 1) for line in text.strip().splitlines()]
    return allowance_in((name.strip().encode(), value.encode()) for name, value in lines)


OPENAI = """
    x-ratelimit-limit-requests: 5000
    x-ratelimit-limit-tokens: 160000
    x-ratelimit-limit-tokens_usage_based: 160000
    x-ratelimit-remaining-requests: 4999
    x-ratelimit-remaining-tokens: 159976
    x-ratelimit-reset-requests: 12ms
    x-ratelimit-reset-tokens: 6m0s
"""
GROQ = """
    X-RateLimit-Limit-Requests: 14400
    X-RateLimit-Limit-Tokens: 6000
    X-RateLimit-Remaining-Requests: 14370
    X-RateLimit-Remaining-Tokens: 5997
    X-RateLimit-Reset-Requests: 2m59.56s
    X-RateLimit-Reset-Tokens: 7.66ms
    Retry-After: 2
"""
AZURE = """
    x-ratelimit-limit-requests: 1000
    x-ratelimit-remaining-requests: 999
    x-ratelimit-renewalperiod-requests: 60
    x-ratelimit-reset-requests: 3
    x-ratelimit-limit-tokens: -1
    x-ratelimit-remaining-tokens: -1
    x-ratelimit-reset-tokens: 0
"""
MISTRAL = """
    x-ratelimit-limit-tokens-minute: 5000000
    x-ratelimit-remaining-tokens-minute: 4999911
    x-ratelimit-tokens-query-cost: 52
    x-ratelimit-limit-req-minute: 720
    x-ratelimit-remaining-req-minute: 717
"""
CEREBRAS = """
    x-ratelimit-limit-requests-day: 2400
    x-ratelimit-limit-tokens-minute: 60000
    x-ratelimit-remaining-tokens-minute: 12000
    x-ratelimit-reset-tokens-minute: 45
"""


@pytest.mark.parametrize(
    ("headers", "requests", "tokens"),
    [
        (OPENAI, Quota(5000, 4999, 0.012), Quota(160_000, 159_976, 360)),
        (GROQ, Quota(14_400, 14_370, 179.56), Quota(6000, 5997, 0.00766)),
        (AZURE, Quota(1000, 999, 3, 60), None),
        (MISTRAL, Quota(720, 717, None, 60), Quota(5_000_000, 4_999_911, None, 60)),
        (CEREBRAS, None, Quota(60_000, 12_000, 45, 60)),
    ],
    ids=["OpenAI", "Groq", "Azure", "Mistral", "Cerebras"],
)
def test_providers(headers, requests, tokens):
    """Each has its own dialect: a reader of one reads nonsense of another (Groq's day, Azure's -1)."""
    assert read(headers) == Allowance(requests, tokens)


def test_dates_of_anthropic():
    """Its resets are dates; read as numbers they were ignored."""
    at = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=30)).isoformat(timespec="seconds").replace("+00:00", "Z")
    allowance = read(f"""
        anthropic-ratelimit-requests-limit: 1000
        anthropic-ratelimit-requests-remaining: 999
        anthropic-ratelimit-requests-reset: {at}
    """)
    assert (allowance.requests.limit, allowance.requests.remaining) == (1000, 999)
    assert 25 < allowance.requests.reset < 31


@pytest.mark.parametrize("factor", [1, 1000])
def test_epochs(factor):
    """OpenRouter's reset is the epoch in milliseconds: as seconds from now, a cool-down of fifty thousand years."""
    allowance = read(f"""
        x-ratelimit-limit: 50
        x-ratelimit-remaining: 0
        x-ratelimit-reset: {int((time.time() + 40) * factor)}
    """)
    # Whether 50 are of a minute or of an hour is not said.
    assert (allowance.requests.limit, allowance.requests.remaining) == (None, 0)
    assert 35 < allowance.requests.reset < 41


@pytest.mark.parametrize(
    "headers",
    [
        "content-type: application/json",
        "x-ratelimit-limit-requests: 0",
        "x-ratelimit-limit-requests: -1",
        "x-ratelimit-limit-requests: many",
        "x-ratelimit-limit-requests: nan",
        "x-ratelimit-limit-requests: inf",
        "x-ratelimit-limit-requests: 1e300",
        "x-ratelimit-limit-requests: 10, 10;w=60",
        "x-ratelimit-limit-requests: " + "1" * 41,
        "x-ratelimit-remaining-requests: 79",
        "x-ratelimit-reset-requests: 1s",
        "x-ratelimit-limit-images: 5",
        "x-request-id: x-ratelimit-limit-requests",
    ],
)
def test_what_cannot_be_is_not_there(headers):
    """A header that is nonsense sized the bucket of a whole run."""
    assert read(headers) is None


@pytest.mark.parametrize(("remaining", "reset"), [("-1", "-120"), ("501", "soon"), ("", ""), ("nan", "1h2"), ("0x10", "1 s")])
def test_half_a_sense_is_half_believed(remaining, reset):
    """One field of nonsense hid the limit beside it."""
    allowance = allowance_in(
        [
            (b"x-ratelimit-limit-requests", b"500"),
            (b"x-ratelimit-remaining-requests", remaining.encode()),
            (b"x-ratelimit-reset-requests", reset.encode()),
        ]
    )
    assert allowance == Allowance(Quota(500))


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
@settings(max_examples=100, deadline=None)
def test_durations_as_go_writes_them(hours, minutes, seconds, milliseconds):
    """`1m30.5s` was a minute, or thirty seconds, or five."""
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{seconds}.{milliseconds:03}s"
    allowance = read(f"x-ratelimit-remaining-requests: 1\nx-ratelimit-reset-requests: {text}")
    assert allowance.requests.reset == pytest.approx(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from(
                    [
                        f"x-ratelimit-{what}-{of}".encode()
                        for what in ("limit", "remaining", "reset", "renewalperiod")
                        for of in ("requests", "tokens", "tokens-minute")
                    ]
                ),
                st.binary(max_size=30),
            ),
            st.one_of(
                st.binary(max_size=LONGEST + 2),
                st.from_regex(rb"\A[0-9]{1,20}(ms|s|m|h|d|)\Z"),
                st.sampled_from(
                    [b"1e9999", b"-0", b"\xff", b"9999-12-31T23:59:59", b"0001-01-01T00:00:00Z", b"1_0", b"9" * 39]
                ),
            ),
        ),
        max_size=12,
    )
)
@example([(b"x-ratelimit-limit-tokens", b"5"), (b"x-ratelimit-reset-tokens", b"0001-01-01T00:00:00+23:59")])
@settings(max_examples=400, deadline=None)
def test_anything_may_come(headers):
    """An exception for a header cost the answer, which was paid for."""
    allowance = allowance_in(headers)
    for quota in (allowance.requests, allowance.tokens) if allowance else ():
        if quota is not None:
            assert quota.limit is None or 1 <= quota.limit <= MOST
            assert quota.remaining is None or 0 <= quota.remaining <= (quota.limit or MOST)
            assert quota.reset is None or 0 <= quota.reset < math.inf
            assert quota.window is None or 1 <= quota.window < math.inf
