"""Every order of verbs, crashes, lost replies, pauses, clears and changes of code that Hypothesis can think of."""

from __future__ import annotations

import hashlib
import os
import uuid
from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_distil.datasets.manifest import Claim, Manifest, claim_name, manifest_name
from airflow_distil.datasets.stores import MemoryStore
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import DestinationError, Superseded
from tests.contracts.protocol.attempts import Attempt, Crash

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
AT_ONCE = 3

pick = st.integers(0, AT_ONCE - 1)


class Protocol(RuleBasedStateMachine):
    """What may happen to a destination, and what must hold whatever happens."""

    @initialize()
    def open(self) -> None:
        self.bucket = uuid.uuid4().hex
        self.store = MemoryStore(URI.parse(f"memory://{self.bucket}/destination"))
        self.attempts: list[Attempt] = []
        self.ask = 1
        self.code = 1
        self.seen: dict[str, bytes] = {}

    def attempt(self, ask: str, code: str, on_existing: str, **more: int) -> Attempt:
        return Attempt(self.store, ask, code, on_existing, **more)

    def must_have_data(self, edition: int, latest: int) -> bool:
        return edition <= latest

    @property
    def moving(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.alive and not attempt.frozen]

    @property
    def alive(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.alive]

    @precondition(lambda self: len(self.alive) < AT_ONCE)
    @rule(
        clear=st.sampled_from([False, False, True]),
        change=st.sampled_from([0, 0, 0, 1, -1]),
        on_existing=st.sampled_from(["reuse", "reuse", "regenerate", "fail"]),
        failed=st.integers(0, 1),
    )
    def start(self, clear, change, on_existing, failed) -> None:
        """A retry, or a clear; with the same code, or changed code, or the code of before."""
        self.ask += clear
        self.code = max(1, self.code + change)
        self.attempts.append(
            self.attempt(f"ask {self.ask}", f"code {self.code}", on_existing, failed=failed, number=len(self.attempts) + 1)
        )

    @precondition(lambda self: self.moving)
    @rule(who=pick, times=st.integers(1, 8))
    def step(self, who, times) -> None:
        attempt = self.moving[who % len(self.moving)]
        for _ in range(times):
            if attempt.alive:
                attempt.step()
                self.what_must_hold()

    @precondition(lambda self: self.moving)
    @rule(who=pick)
    def finish(self, who) -> None:
        attempt = self.moving[who % len(self.moving)]
        while attempt.alive:
            attempt.step()
            self.what_must_hold()

    @precondition(lambda self: self.moving)
    @rule(where=st.sampled_from(["put _distil/claims", "put _distil/manifests"]))
    def all_to(self, where) -> None:
        """The moment that matters: all have looked, and none knows what the others will do."""
        for attempt in self.moving:
            while attempt.alive and not attempt.verb.startswith(where):
                attempt.step()

    @precondition(lambda self: self.moving)
    @rule(who=pick, steps=st.integers(0, 12), order=st.sampled_from(["refuse", "lose", "retry", "crash", "crash after"]))
    def go_wrong(self, who, steps, order) -> None:
        attempt = self.moving[who % len(self.moving)]
        for _ in range(steps):
            if attempt.alive:
                attempt.step()
        if attempt.alive:
            attempt.step(order)

    @precondition(lambda self: self.moving)
    @rule(who=pick)
    def freeze(self, who) -> None:
        self.moving[who % len(self.moving)].frozen = True

    @precondition(lambda self: len(self.alive) > len(self.moving))
    @rule(who=pick)
    def thaw(self, who) -> None:
        frozen = [attempt for attempt in self.alive if attempt.frozen]
        frozen[who % len(frozen)].frozen = False

    @invariant()
    def what_must_hold(self) -> None:
        if not hasattr(self, "store"):
            return
        claims = self._documents("_distil/claims/", claim_name, Claim.model_validate_json)
        manifests = self._documents("_distil/manifests/", manifest_name, Manifest.parse)
        self._claims_hold(claims)
        for edition, manifest in enumerate(manifests, 1):
            assert manifest.edition == edition
            claim = claims[manifest.claim - 1]
            assert (manifest.nonce, manifest.ask, manifest.fingerprint, manifest.round, manifest.edition) == (
                claim.nonce,
                claim.ask,
                claim.fingerprint,
                claim.round,
                claim.edition,
            )
            for part in manifest.parts if self.must_have_data(edition, len(manifests)) else ():
                data = self.store.get(part.path)
                assert (len(data), hashlib.sha256(data).hexdigest()) == (part.bytes, part.sha256)
        works = [(manifest.ask, manifest.fingerprint) for manifest in manifests]
        assert all(one != next_ for one, next_ in pairwise(works)), "the same work was published twice"
        for attempt in self.attempts:
            for claim in attempt.claims:
                assert claims[claim.number - 1] == claim, "two attempts believe that they hold one claim"
            if not attempt.alive:
                self._ended_well(attempt, claims, manifests)

    def _documents(self, prefix, name_of, parse):
        names = [entry.name for entry in self.store.list(prefix)]
        assert names == [name_of(number) for number in range(1, len(names) + 1)]
        documents = []
        for name in names:
            data = self.store.get(name)
            assert self.seen.setdefault(name, data) == data, f"{name} was changed"
            documents.append(parse(data))
        return documents

    def _claims_hold(self, claims: list[Claim]) -> None:
        assert len({claim.nonce for claim in claims}) == len(claims)
        by_nonce = {claim.nonce: attempt for attempt in self.attempts for claim in attempt.claims}
        manifests = [Manifest.parse(self.store.get(entry.name)) for entry in self.store.list("_distil/manifests/")]
        for position, claim in enumerate(claims):
            earlier = claims[:position]
            highest = max((before.round for before in earlier), default=1)
            attempt = by_nonce.get(claim.nonce)  # None: it died before it knew
            again = attempt is not None and len(attempt.claims) > 1 and claim in attempt.claims[1:]
            if again:
                assert claim.round == attempt.claims[0].round
            elif claim.round > highest:
                assert claim.round == highest + 1
                assert attempt is None or attempt.on_existing == "regenerate"
                assert any(edition.round == highest and edition.ask != claim.ask for edition in manifests)
            elif attempt is not None and attempt.on_existing == "regenerate":
                assert claim.round == highest, "answers that somebody wanted replaced"
            else:
                assert claim.round in {before.round for before in earlier} | {1}

    def _ended_well(self, attempt: Attempt, claims: list[Claim], manifests: list[Manifest]) -> None:
        result, error = attempt.result, attempt.error
        if result is not None:
            assert result.sha256 == manifests[result.edition - 1].sha256
            own = (result.ask, result.fingerprint) == (attempt.ask, attempt.fingerprint)
            reused = (
                not attempt.claims
                and attempt.on_existing == "reuse"
                and result.fingerprint == attempt.fingerprint
                and result.failed + result.unparsed == 0
            )
            assert own or reused
            return
        if isinstance(error, Superseded):
            assert len(claims) > attempt.claims[-1].number
        elif isinstance(error, DestinationError):
            assert attempt.on_existing == "fail"
            assert not attempt.claims
        else:
            assert isinstance(error, OSError | Crash), repr(error)
            assert attempt.hit, f"{error!r} without a reason"

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            # The scheduler gives all of them up and tries once more.
            clean = self._alone()
            assert clean.result is not None
            self.what_must_hold()
            claims = len(list(self.store.list("_distil/claims/")))
            again = self._alone()
            assert again.result is not None
            assert again.result.sha256 == clean.result.sha256
            assert len(list(self.store.list("_distil/claims/"))) == claims
            # Those who were given up wake.
            for attempt in self.alive:
                attempt.finish()
            self.what_must_hold()
        finally:
            for attempt in self.alive:
                attempt.kill()
            with MemoryStore._registry:
                del MemoryStore._buckets[self.bucket]

    def _alone(self) -> Attempt:
        attempt = self.attempt(f"ask {self.ask}", f"code {self.code}", "reuse")
        attempt.finish()
        self.attempts.append(attempt)
        return attempt


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=5000 if LONG else 250,
    stateful_step_count=80 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
