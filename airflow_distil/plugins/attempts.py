"""What each attempt at a dataset did and paid, from its claim and from the facts in the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_distil.datasets.log import Fact, Kind, decode_segment
from airflow_distil.datasets.manifest import CLAIMS, LOG, MANIFESTS, Claim, Manifest, numbers, read_claim, read_manifest
from airflow_distil.datasets.stores import Store
from airflow_distil.engine.budget import Paid
from airflow_distil.engine.dialogue import check_body
from airflow_distil.plugins.evidence import Place

__all__ = ["attempts"]

# The latest are what people ask about.
MOST_CLAIMS = 50
# Facts are read for their bills; beyond that much of them it takes longer than a person waits.
MOST_BYTES = 96 * 2**20


@dataclass
class _Bill:
    """What was paid for under one claim, and how many requests were refused."""

    paid: Paid = field(default_factory=Paid)
    refused: int = 0
    seen: set[int] = field(default_factory=set)

    def add(self, fact: Fact) -> bool:
        """Add a fact; tell whether it is one that we could have written."""
        try:
            body = check_body(fact)
        except ValueError:
            return False
        if fact.number in self.seen:  # copies, made by compaction
            return True
        self.seen.add(fact.number)
        if fact.kind is not Kind.ANSWER:
            self.refused += 1
            return True
        tokens_in, tokens_out = body.get("usage") or (None, None)
        self.paid.add(tokens_in, tokens_out, body.get("cost"))
        return True


def attempts(store: Store, place: Place) -> dict[str, Any]:
    """Return the attempts of one task instance at a destination, the latest first.

    :return: `attempts`; `others`, how many other claims there are (of other runs, or too many to show); `complete`, whether all
        of the log was read for what was paid.
    :raises LookupError: if the destination does not belong to this DAG and task.
    """
    claimed = numbers((entry.name for entry in store.list(CLAIMS)), CLAIMS)
    # The first claim is never deleted: it names the owner.
    if not claimed or read_claim(store, claimed[0]).identity.owner != place.owner:
        raise LookupError("it is not of this task")
    claims = [read_claim(store, number) for number in claimed[-MOST_CLAIMS:]]
    ours = [claim for claim in claims if _is_of(claim, place)]
    bills, complete = _bills(store, {claim.nonce for claim in ours})
    published = _published(store)
    return {
        "attempts": [_told(claim, bills[claim.nonce], published.get(claim.nonce)) for claim in reversed(ours)],
        "others": len(claimed) - len(ours),
        "complete": complete,
    }


def _is_of(claim: Claim, place: Place) -> bool:
    identity = claim.identity
    return (identity.dag_id, identity.run_id, identity.task_id, identity.map_index) == tuple(place)


def _bills(store: Store, nonces: Iterable[str]) -> tuple[dict[str, _Bill], bool]:
    wanted = set(nonces)
    bills: dict[str, _Bill] = defaultdict(_Bill)
    left, complete = MOST_BYTES, True
    for entry in store.list(LOG):
        left -= entry.size
        if left < 0:
            return bills, False
        try:
            facts = decode_segment(store.get(entry.name)).facts
        except (ValueError, FileNotFoundError):  # damaged, or compacted meanwhile
            complete = False
            continue
        for fact in facts:
            if fact.nonce.hex() in wanted:
                complete &= bills[fact.nonce.hex()].add(fact)
    return bills, complete


def _published(store: Store) -> dict[str, Manifest]:
    editions = numbers((entry.name for entry in store.list(MANIFESTS)), MANIFESTS)[-MOST_CLAIMS:]
    manifests = [read_manifest(store, edition) for edition in editions]
    return {manifest.nonce: manifest for manifest in manifests}


def _told(claim: Claim, bill: _Bill, manifest: Manifest | None) -> dict[str, Any]:
    paid = bill.paid
    counts = Counter({name: getattr(manifest, name) for name in ("ok", "unparsed", "failed", "skipped")}) if manifest else None
    return {
        "claim": claim.number,
        "try_number": claim.try_number,
        "host": claim.host,
        "created_at": claim.created_at,
        "round": claim.round,
        "edition": manifest.edition if manifest else None,
        "published_at": manifest.created_at if manifest else None,
        "rows": dict(counts) if counts else None,
        "answers": paid.answers,
        "refused": bill.refused,
        "input_tokens": paid.input_tokens,
        "output_tokens": paid.output_tokens,
        "cost_usd": paid.summary["cost_usd"] if paid.answers else None,
    }
