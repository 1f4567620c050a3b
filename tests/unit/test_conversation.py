"""Requests have one form, and their hash is what answers are found by."""

from __future__ import annotations

import datetime as dt
import json
import math
import subprocess
import sys
import textwrap

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import replace

from airflow_distil.conversation import (
    LLM,
    Allowance,
    Answer,
    Chat,
    Complete,
    Embed,
    Quota,
    Rank,
    Unparsed,
    Usage,
    canonical,
    digest,
    resolve,
    system,
    user,
)
from tests.unit.engine.lab import Model

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
chats = st.builds(
    Chat,
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": values}), max_size=3),
    response_format=st.none() | st.dictionaries(st.text(max_size=3), values, max_size=2),
    parameters=st.dictionaries(st.text(max_size=3), values, max_size=2),
    model=st.none() | st.text(max_size=3),
)


class Words(str):
    """Text of another type."""

    __slots__ = ()


def shuffled(value):
    """Return an equal value whose dicts have another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


class TestCanonical:
    @given(chat=chats)
    def test_equal_requests_have_equal_bytes(self, chat):
        """The order of a dict's keys is an accident: an answer that is paid would not be found."""
        again = Chat(
            shuffled(chat.messages),
            response_format=shuffled(chat.response_format),
            parameters=shuffled(chat.parameters),
            model=chat.model,
        )
        assert canonical(chat) == canonical(again)

    @given(one=chats, other=chats)
    def test_different_requests_have_different_bytes(self, one, other):
        """Two questions with one answer."""
        as_json = [json.dumps([c.messages, c.response_format, c.parameters, c.model], sort_keys=True) for c in (one, other)]
        assert (canonical(one) == canonical(other)) == (as_json[0] == as_json[1])

    @given(value=values, text=st.text(max_size=5), chat=chats)
    def test_types_that_say_the_same_have_equal_bytes(self, value, text, chat):
        """A template that marks its text as safe, or a list that became a tuple: all was paid again."""
        plain = replace(chat, messages=[user([text, value])])
        other = replace(chat, messages=[user((Words(text), value))])
        assert canonical(plain) == canonical(other)

    def test_kinds_are_told_apart(self):
        """A completion of "x" is not its embedding."""
        requests = [Chat([user("x")]), Complete("x"), Embed("x"), Embed([user("x")]), Rank("x", ["y"]), Rank("x", ["y", "z"])]
        assert len({canonical(request) for request in requests}) == len(requests)

    def test_form_is_what_it_was(self):
        """The bytes are hashed into every log there is: a change makes all paid answers strangers."""
        assert (
            canonical(Chat([user("naïve 🙂")], parameters={"temperature": 0.5}))
            == (
                '{"kind":"chat","messages":[{"content":"naïve 🙂","role":"user"}],"model":null,'
                '"parameters":{"temperature":0.5},"response_format":null}'
            ).encode()
        )
        assert canonical(Complete("", parameters={"x": [1e-5, 1e16, 1.5e300, -0.0, 1.0]})) == (
            b'{"kind":"complete","model":null,"parameters":{"x":[0.00001,1e16,1.5e300,-0.0,1.0]},"prompt":""}'
        )
        assert canonical(Rank("q", ["a", "b"])) == (
            b'{"candidates":["a","b"],"input":"q","kind":"rank","model":null,"parameters":{}}'
        )

    def test_half_a_surrogate_pair_has_a_name(self):
        """A row with half an emoji must not stop the others."""
        assert canonical(Chat([user("\ud83d")])) != canonical(Chat([user("\ude00")]))

    @pytest.mark.parametrize("content", [dt.date(2026, 1, 2), b"x", {1, 2}, math.nan, math.inf])
    def test_what_no_endpoint_could_be_sent_has_no_form(self, content):
        """Written as its text, it would have a key, and break the call."""
        with pytest.raises((TypeError, ValueError)):
            canonical(Chat([user(content)]))

    def test_same_in_every_process(self):
        """`hash` is salted; a log outlives its process."""
        program = """
            from airflow_distil.conversation import *
            print(digest(canonical(Chat([user("x")], parameters={"b": 1, "a": [1.5, None]}))).hex())
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
        here = digest(canonical(Chat([user("x")], parameters={"a": [1.5, None], "b": 1}))).hex()
        assert done.stdout.strip() == here


class TestDigest:
    def test_parts_do_not_run_together(self):
        """("ab", "c") and ("a", "bc") are two things."""
        assert len({digest(b"ab", b"c"), digest(b"a", b"bc"), digest(b"abc"), digest(b"abc", b""), digest()}) == 5

    def test_it_is_16_bytes_and_what_it_was(self):
        """The log has room for 16, and holds old ones."""
        assert digest(b"x").hex() == "1ff47a876f42e33dda291cecd644c99d"


class TestResolve:
    def test_request_wins_over_the_llm(self):
        """A task that asks for temperature 0 means it."""
        request = Chat([user("x")], parameters={"temperature": 0, "stop": ["."]})
        resolved = resolve(request, "m", {"temperature": 1, "top_p": 0.5})
        assert dict(resolved.parameters) == {"temperature": 0, "stop": ["."], "top_p": 0.5}
        assert (resolved.model, request.model) == ("m", None)

    def test_model_of_the_request_stays(self):
        """A judge may name its own."""
        assert resolve(Complete("x", model="own"), "m", {}).model == "own"

    def test_kind_and_content_stay(self):
        """Resolving adds; it does not change."""
        rank = resolve(Rank("q", ["a"]), "m", {})
        assert (type(rank), rank.input, rank.candidates) == (Rank, "q", ["a"])


class TestValues:
    @pytest.mark.parametrize("value", [Chat([user("x")]), Complete("x"), Usage(1, 2)], ids=lambda value: type(value).__name__)
    def test_they_are_frozen(self, value):
        """A request that is changed after its key was made is logged under another's name."""
        [name, *_] = value.__slots__ or ["model"]
        with pytest.raises(AttributeError, match="immutable"):
            setattr(value, name, "other")

    def test_what_is_left_of_a_limit_makes_no_other_answer(self):
        """Two equal answers of a real endpoint always differed: it had one request less to give."""
        one, other = (Answer("a", allowance=Allowance(Quota(100, left))) for left in (2, 1))
        assert one == other == Answer("a") != Answer("b")
        assert len({one, other}) == 1
        assert repr(one) == repr(Answer("a"))

    def test_messages(self):
        """In OpenAI's form."""
        assert [system("s"), user(["part"])] == [{"role": "system", "content": "s"}, {"role": "user", "content": ["part"]}]

    def test_unparsed_carries_its_reason_and_what_was_read(self):
        """Both end up in the row."""
        partial = {"a": 1}
        error = Unparsed("no score", partial)
        partial["a"] = 2
        assert (str(error), error.reason, error.partial) == ("no score", "no score", {"a": 1})
        assert Unparsed("x").partial == {}

    def test_model_of_the_tests_is_an_llm(self):
        """Else the engine is tested with something that nobody has."""
        assert isinstance(Model(), LLM)
