"""The commit protocol: who may spend, and which one result is published.

A destination holds numbered claims, one per attempt, and numbered manifests, one per edition. Each is written by
put-if-absent, and nothing is ever overwritten, so the protocol needs no lock, no lease and no clock:

1. An attempt *begins*: if what it would make is published already, that is its result. Otherwise it takes the next free claim.
2. It *looks* before each upload: a higher claim means that a newer attempt runs, and this one stops spending.
3. It *publishes* by putting the manifest of its edition. If that edition is there already, it is either the same work by
   another attempt, and adopted, or other work, and then only the holder of the highest claim may go on to the next edition.

Claims decide who spends; the manifest alone decides what is published. A claim that nobody honours any more (a paused
process, a lost host) can therefore waste a few calls but never change or double a dataset.
"""

from __future__ import annotations

import datetime as dt
import platform
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

from airflow_distil.datasets.manifest import (
    CLAIMS,
    DOCUMENT_BYTES,
    MANIFESTS,
    Claim,
    Identity,
    Manifest,
    claim_name,
    manifest_name,
    numbers,
    read_claim,
    read_manifest,
)
from airflow_distil.datasets.stores import Store, create
from airflow_distil.exceptions import DestinationError, Superseded

__all__ = ["Commit", "OnExisting"]

# A destination that every run writes to has a claim of each; reading them is waiting for the store.
READERS = 8

OnExisting: TypeAlias = Literal["reuse", "regenerate", "fail"]


class Commit:
    """The protocol as seen by one attempt.

    :param store: the destination, by its four verbs.
    :param identity: the task instance.
    :param ask: the "please do it" that this attempt serves; see `Identity.ask`.
    :param try_number: for people who read claims; nothing depends on it.
    """

    def __init__(self, store: Store, identity: Identity, ask: str, *, try_number: int = 0) -> None:
        self.store = store
        self.identity = identity
        self.ask = ask
        self.try_number = try_number
        self.fences = True
        self._claim: Claim | None = None

    @property
    def claim(self) -> Claim:
        """The claim that this attempt holds."""
        if self._claim is None:
            raise RuntimeError("this attempt has not begun")
        return self._claim

    def latest(self) -> Manifest | None:
        """Return the latest published edition, or None."""
        numbers = self._numbers(MANIFESTS)
        return self._manifest(numbers[-1]) if numbers else None

    def begin(self, fingerprint: str, on_existing: OnExisting = "reuse") -> Manifest | Claim:
        """Return the edition that already answers this ask, or claim the right to make one.

        :param fingerprint: names the work: source, task, model and parameters.
        :param on_existing: what a new ask does with an edition made for another one. `reuse`: return it if it is of the
            same work and has no failed or unparsed row; `regenerate`: ask everything anew; `fail`: refuse.
        :raises DestinationError: if the destination belongs to another task, or `on_existing` is `fail`.
        """
        while True:
            claims = self._numbers(CLAIMS)
            self._check_owner(claims)
            latest = self.latest()
            if latest is not None and self._settled(latest, fingerprint, on_existing):
                return latest
            claimed = self._put_claim(
                number=claims[-1] + 1 if claims else 1,
                edition=latest.edition + 1 if latest else 1,
                round=self._round(claims, latest, on_existing),
                fingerprint=fingerprint,
            )
            if claimed is not None:
                self.fences = self._probe(claimed)
                return claimed

    def nonces(self) -> frozenset[bytes]:
        """Return the nonces of all claims of this task instance, of whichever ask."""
        others = [number for number in self._numbers(CLAIMS) if number != self.claim.number]
        with ThreadPoolExecutor(READERS) as readers:
            claims = [self.claim, *readers.map(self._claim_if_any, others)]
        return frozenset(bytes.fromhex(each.nonce) for each in claims if each and each.identity == self.identity)

    def look(self) -> None:
        """Look for a newer attempt.

        :raises Superseded: if there is one; this attempt must not send another request.
        """
        highest = max(self._numbers(CLAIMS), default=0)
        if highest < self.claim.number:
            raise DestinationError(
                f"{self.store} was deleted while it was being written: claim {self.claim.number} is gone. "
                "The next attempt starts anew."
            )
        if highest > self.claim.number:
            newer = self._read_claim(highest)
            raise Superseded(
                f"attempt {self.claim.number} of {self.store} was superseded by attempt {highest} "
                f"(try {newer.try_number} on {newer.host or 'an unknown host'}). "
                "What this one paid for is kept, and used by whoever runs next."
            )

    def publish(self, content: Mapping[str, Any]) -> Manifest:
        """Publish what the content describes, and return the edition that is now valid for this work.

        :param content: fields of the manifest: its parts, counts, provenance. Who and which edition is added here.
        :raises Superseded: if a newer attempt has taken over and other work was published meanwhile.
        """
        while True:
            self.look()
            manifest = Manifest(
                **content,
                edition=self.claim.edition,
                claim=self.claim.number,
                nonce=self.claim.nonce,
                identity=self.identity,
                ask=self.ask,
                round=self.claim.round,
                fingerprint=self.claim.fingerprint,
                fencing="put-if-absent" if self.fences else "none",
                created_at=_now(),
            )
            content_bytes = manifest.to_bytes()
            if len(content_bytes) > DOCUMENT_BYTES:
                raise DestinationError(
                    f"The manifest of {self.store} would have {len(content_bytes)} bytes, and no reader takes more than "
                    f"{DOCUMENT_BYTES}: too many source files or parts. The answers are kept. Split the source."
                )
            if create(self.store, manifest_name(manifest.edition), content_bytes):
                return manifest
            there = self._manifest(manifest.edition)
            if (there.fingerprint, there.ask) == (manifest.fingerprint, manifest.ask):
                return there
            self._claim_again()

    def _settled(self, latest: Manifest, fingerprint: str, on_existing: OnExisting) -> bool:
        same_work = latest.fingerprint == fingerprint
        if latest.ask == self.ask:
            return same_work and self._is_there(latest)
        if on_existing == "fail":
            raise DestinationError(
                f"{self.store} has edition {latest.edition}, published {latest.created_at}, and on_existing is 'fail'. "
                "Nothing was asked. Choose another destination, or on_existing='reuse' or 'regenerate'.",
                final=True,
            )
        return on_existing == "reuse" and same_work and latest.failed + latest.unparsed == 0 and self._is_there(latest)

    def _is_there(self, manifest: Manifest) -> bool:
        """Tell whether an edition has all its parts: what somebody has deleted is written anew, from the facts."""
        folders = {part.path.rpartition("/")[0] for part in manifest.parts}
        sizes = {entry.name: entry.size for folder in folders for entry in self.store.list(f"{folder}/")}
        return all(sizes.get(part.path) == part.bytes for part in manifest.parts)

    def _round(self, claims: list[int], latest: Manifest | None, on_existing: OnExisting) -> int:
        """Return the round of answers to work in.

        A crash, a retry or a clear before publication resumes the round it was in, and does not pay again.
        """
        if on_existing == "regenerate":
            highest = max((self._read_claim(number).round for number in claims), default=1)
            return highest + 1 if self._published_for_others(highest) else highest
        # A round that somebody else began with `regenerate` and did not publish has no answers to reuse: the edition's has.
        unpublished = [self._read_claim(number) for number in claims if latest is None or number > latest.claim]
        for claim in reversed(unpublished):
            if claim.ask == self.ask:
                return claim.round
        if latest is not None:
            return latest.round
        return unpublished[-1].round if unpublished else 1

    def _published_for_others(self, round: int) -> bool:
        manifests = (self._manifest(edition) for edition in reversed(self._numbers(MANIFESTS)))
        return any(manifest.round == round and manifest.ask != self.ask for manifest in manifests)

    def _put_claim(self, *, number: int, edition: int, round: int, fingerprint: str) -> Claim | None:
        claim = Claim(
            number=number,
            nonce=secrets.token_hex(8),
            identity=self.identity,
            ask=self.ask,
            round=round,
            edition=edition,
            fingerprint=fingerprint,
            try_number=self.try_number,
            host=platform.node(),
            created_at=_now(),
        )
        if not create(self.store, claim_name(number), claim.to_bytes()):
            return None
        self._claim = claim
        return claim

    def _claim_again(self) -> None:
        # The very next number, not the next free one: if anybody holds it, this attempt was not the highest any more.
        latest = self.latest()
        mine = self.claim
        again = self._put_claim(
            number=mine.number + 1,
            edition=latest.edition + 1 if latest else 1,
            round=mine.round,
            fingerprint=mine.fingerprint,
        )
        if again is None:
            self.look()

    def _probe(self, claim: Claim) -> bool:
        """Put the claim a second time: a store that lets it pass cannot tell two attempts apart."""
        try:
            self.store.put(claim_name(claim.number), claim.to_bytes())
        except FileExistsError:
            return True
        return False

    def _check_owner(self, claims: list[int]) -> None:
        if not claims:
            return
        # The first claim is never deleted: it names the owner.
        owner = self._read_claim(claims[0]).identity.owner
        if owner != self.identity.owner:
            raise DestinationError(
                f"{self.store} belongs to task {owner[1]!r} of DAG {owner[0]!r}; this is task {self.identity.task_id!r} of DAG "
                f"{self.identity.dag_id!r}. Nothing was written. Give each task a destination of its own.",
                final=True,
            )

    def _numbers(self, prefix: str) -> list[int]:
        return numbers((entry.name for entry in self.store.list(prefix)), prefix)

    def _claim_if_any(self, number: int) -> Claim | None:
        # One that upkeep has just removed, or that somebody damaged, is nobody's.
        try:
            return read_claim(self.store, number)
        except (FileNotFoundError, ValueError):
            return None

    def _read_claim(self, number: int) -> Claim:
        try:
            return read_claim(self.store, number)
        except ValueError as error:
            raise DestinationError(str(error)) from error

    def _manifest(self, edition: int) -> Manifest:
        try:
            return read_manifest(self.store, edition)
        except ValueError as error:
            raise DestinationError(str(error)) from error


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
