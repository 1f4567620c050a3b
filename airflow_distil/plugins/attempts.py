"""What each attempt at a dataset did and paid, from its claim and from the facts in the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_distil.datasets.log import Fact, Kind, decode_segment
from airflow_distil.datasets.manifest import CLAIMS, LOG, MANIFESTS, Claim, Manifest, numbers, read_claim, read_manifest
from airflow_distil.datasets.stores import Store
from airflow_distil.engine.dialogue import read_body
from airflow_distil.plugins.evidence import Place

__all__ = ["attempts"]

# The latest are what people ask about.
MOST_CLAIMS = 50
# Facts are read for their bills; beyond that much of them it takes longer than a person waits.
MOST_BYTES = 96 * 2**20


@dataclass
class _Paid:
    """What was paid for under one claim."""

    answers: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    seen: set[int] = field(default_factory=set)

    def add(self, fact: Fact) -> None:
        if fact.number in self.seen:  # copies, made by compaction
            return
        self.seen.add(fact.number)
        if fact.kind is not Kind.ANSWER:
            self.refused += 1
            return
        self.answers += 1
        body = read_body(fact)
        usage = body.get("usage")
        tokens_in, tokens_out = usage if isinstance(usage, list) and len(usage) == 2 else (None, None)
        self.input_tokens += tokens_in if isinstance(tokens_in, int) else 0
        self.output_tokens += tokens_out if isinstance(tokens_out, int) else 0
        cost = body.get("cost")
        self.cost_usd = self.cost_usd + cost if isinstance(cost, int | float) and self.cost_usd is not None else None


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
    paid, complete = _paid(store, {claim.nonce for claim in ours})
    published = _published(store)
    return {
        "attempts": [_told(claim, paid[claim.nonce], published.get(claim.nonce)) for claim in reversed(ours)],
        "others": len(claimed) - len(ours),
        "complete": complete,
    }


def _is_of(claim: Claim, place: Place) -> bool:
    identity = claim.identity
    return (identity.dag_id, identity.run_id, identity.task_id, identity.map_index) == tuple(place)


def _paid(store: Store, nonces: Iterable[str]) -> tuple[dict[str, _Paid], bool]:
    wanted = set(nonces)
    paid: dict[str, _Paid] = defaultdict(_Paid)
    left, complete = MOST_BYTES, True
    for entry in store.list(LOG):
        left -= entry.size
        if left < 0:
            return paid, False
        try:
            facts, _ = decode_segment(store.get(entry.name))
            for fact in facts:
                if fact.nonce.hex() in wanted:
                    paid[fact.nonce.hex()].add(fact)
        except (ValueError, FileNotFoundError):  # damaged, or compacted meanwhile
            complete = False
    return paid, complete


def _published(store: Store) -> dict[str, Manifest]:
    editions = numbers((entry.name for entry in store.list(MANIFESTS)), MANIFESTS)[-MOST_CLAIMS:]
    manifests = [read_manifest(store, edition) for edition in editions]
    return {manifest.nonce: manifest for manifest in manifests}


def _told(claim: Claim, paid: _Paid, manifest: Manifest | None) -> dict[str, Any]:
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
        "refused": paid.refused,
        "input_tokens": paid.input_tokens,
        "output_tokens": paid.output_tokens,
        "cost_usd": paid.cost_usd if paid.answers else None,
    }
