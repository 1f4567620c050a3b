"""The two documents of the commit protocol: the claim of an attempt, and the manifest of an edition.

Both are read back from storage that others can write to, so they are validated as untrusted input.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from airflow_distil.conversation import digest
from airflow_distil.datasets.stores.base import Store

__all__ = [
    "FORMAT",
    "Claim",
    "Identity",
    "Manifest",
    "Paid",
    "Part",
    "claim_name",
    "manifest_name",
    "numbers",
    "read_claim",
    "read_manifest",
]

FORMAT: Literal["airflow-distil/1"] = "airflow-distil/1"
"""Format of claims, manifests and summaries. It rises when an older version could misread a newer document."""

# Room for 200,000 parts, members or source files of 300 bytes each. It is read in one piece, so there has to be an end.
DOCUMENT_BYTES = 64 * 2**20

# What Arrow, SQL and the log's own columns hold: a forged count must not fail where it is added up.
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Number = Annotated[int, Field(gt=0, lt=2**31)]
_Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]

_D = TypeVar("_D", bound=BaseModel)

CLAIMS = "_distil/claims/"
MANIFESTS = "_distil/manifests/"
LOG = "_distil/log/"


def claim_name(number: int) -> str:
    """Return the name of a claim under its destination."""
    return f"{CLAIMS}{number:06d}.json"


def manifest_name(edition: int) -> str:
    """Return the name of an edition's manifest under its destination."""
    return f"{MANIFESTS}{edition:06d}.json"


def numbers(names: Iterable[str], prefix: str) -> list[int]:
    """Return the numbers of the documents among names, rising; what else somebody left there is none."""
    # Nine digits: more than there will ever be attempts, and a number that the log can hold.
    matches = (re.fullmatch(r"([0-9]{6,9})\.json", name[len(prefix) :]) for name in names)
    return sorted({int(match[1]) for match in matches if match})


class _Document(BaseModel):
    # A newer minor version may add fields; an older reader ignores them.
    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["airflow-distil/1"] = FORMAT

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


class Identity(BaseModel):
    """Whose work it is: one task instance, whatever its try number. Outside Airflow all fields but `task_id` are empty.

    :param map_index: -1 if the task is not mapped.
    :param iteration: pass of the loop that the task is in (Airflow 3.4), from 0; -1 outside of loops.
    """

    model_config = ConfigDict(frozen=True)

    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    map_index: int = -1
    iteration: int = -1

    @property
    def owner(self) -> tuple[str, str]:
        """What a destination belongs to: (dag, task)."""
        return self.dag_id, self.task_id

    @property
    def key(self) -> str:
        """Hash that names this work."""
        parts = (self.dag_id, self.task_id, self.run_id, self.map_index, self.iteration)
        return digest(*(str(part).encode() for part in parts)).hex()

    @property
    def folder(self) -> str:
        """Where this instance writes below its task's destination: no two share one. The empty string for the only one."""
        loop = [f"loop-{self.iteration:05d}"] if self.iteration >= 0 else []
        return "/".join([*loop, *([f"map-{self.map_index:05d}"] if self.map_index >= 0 else [])])

    def ask(self, max_tries: int, started: str) -> str:
        """Name one "please do it": a retry has the same one; a clear, or the run made anew, has another.

        :param max_tries: `ti.max_tries`; a clear inside a run raises it.
        :param started: `dag_run.start_date`; a clear of a finished run, or its recreation, changes it.
        """
        return digest(self.key.encode(), str(max_tries).encode(), started.encode()).hex()


class Claim(_Document):
    """An attempt's announcement. The highest claim is the one that may spend money."""

    number: _Number
    nonce: _Nonce
    identity: Identity
    ask: str
    round: _Number
    edition: _Number
    fingerprint: str
    try_number: int = 0
    host: str = ""
    created_at: str = ""

    @property
    def folder(self) -> str:
        """Name of this attempt's own folders, under `data/` and `_distil/log/`."""
        return f"{self.number:06d}-{self.nonce}"


def _inside(path: str) -> str:
    # Nothing that a store, a URL or a file system could take for more than names of folders and a file.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", path):
        raise ValueError("a part's path is not a plain path below the destination")
    return path


class Part(BaseModel):
    """One Parquet file of an edition."""

    model_config = ConfigDict(frozen=True)

    path: Annotated[str, AfterValidator(_inside)]
    rows: _Count
    bytes: _Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Paid(BaseModel):
    """What a task instance paid, over all its attempts at this dataset; null where the endpoint or the price is unknown."""

    model_config = ConfigDict(frozen=True)

    answers: _Count = 0
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cost_usd: _Dollars | None = None


class Manifest(_Document):
    """One published edition: exactly these parts, and how they came to be."""

    edition: _Number
    claim: _Number
    nonce: _Nonce
    identity: Identity
    ask: str
    round: _Number
    fingerprint: str
    fencing: Literal["put-if-absent", "none"] = "put-if-absent"
    created_at: str = ""
    parts: list[Part] = []
    # Of a dataset that is a list of others, recorded without copying: the summaries, in order.
    members: list[dict[str, Any]] = []
    columns: dict[str, str] = {}
    rows: _Count = 0
    ok: _Count = 0
    unparsed: _Count = 0
    failed: _Count = 0
    skipped: _Count = 0
    # A generator's candidates that became no row: rejected, unparsed, failed.
    lost: dict[str, _Count] = {}
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cost_usd: _Dollars | None = None
    # The former are of the answers behind the rows, whoever paid them and when; this is of the task instance that published.
    paid: Paid | None = None
    model: str | None = None
    numbers: dict[str, dict[str, float]] = {}
    reasons: dict[str, int] = {}
    task: dict[str, Any] = {}
    source: dict[str, Any] = {}
    limits: list[dict[str, Any]] = []
    versions: dict[str, str] = {}

    _sha256: str | None = PrivateAttr(default=None)

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a stored manifest.

        :raises pydantic.ValidationError: if it is not one.
        """
        manifest = cls.model_validate_json(data)
        # Of the bytes as stored: another version may have written fields that this one does not know.
        manifest._sha256 = hashlib.sha256(data).hexdigest()  # noqa: SLF001 - our own, in a second constructor
        return manifest

    @property
    def sha256(self) -> str:
        """Checksum of the stored document."""
        return self._sha256 or hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def folder(self) -> str:
        """The folder below the destination that holds all parts, or the empty string for a list of other datasets."""
        return self.parts[0].path.rpartition("/")[0] if self.parts else ""

    def summary(self, destination: str, page: str | None = None) -> dict[str, Any]:
        """Return what the task passes on by XCom: where the edition is and what is in it, never rows.

        :param page: address of the task instance's page in the UI, if it has one.
        """
        base = destination.rstrip("/")
        return {
            "format": FORMAT,
            "uri": base,
            "manifest": f"{base}/{manifest_name(self.edition)}",
            "sha256": self.sha256,
            "data_uri": f"{base}/{self.folder}" if self.folder else None,
            "edition": self.edition,
            "rows": self.rows,
            "ok": self.ok,
            "unparsed": self.unparsed,
            "failed": self.failed,
            "skipped": self.skipped,
            "lost": self.lost,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": self.cost_usd,
            "paid": self.paid.model_dump() if self.paid else None,
            "model": self.model,
            "columns": self.columns,
            "numbers": self.numbers,
            "page": page,
        }


def read_claim(store: Store, number: int) -> Claim:
    """Return a claim that is there; see `read_manifest`."""
    claim = _read("claim", store, claim_name(number), Claim.model_validate_json)
    if claim.number != number:
        raise ValueError(f"{store}/{claim_name(number)} is of claim {claim.number}.")
    return claim


def read_manifest(store: Store, edition: int) -> Manifest:
    """Return the manifest of an edition. Others can write where it is, so it is not believed.

    :raises FileNotFoundError: if there is none.
    :raises ValueError: if it is no manifest of this version, or another edition's. The message quotes nothing of it.
    """
    manifest = _read("manifest", store, manifest_name(edition), Manifest.parse)
    if manifest.edition != edition:
        raise ValueError(f"{store}/{manifest_name(edition)} is of edition {manifest.edition}.")
    return manifest


def _read(what: str, store: Store, name: str, parse: Callable[[bytes], _D]) -> _D:
    data = store.get(name, 0, DOCUMENT_BYTES + 1)
    problem = f"it is larger than {DOCUMENT_BYTES // 2**20} MiB"
    if len(data) <= DOCUMENT_BYTES:
        try:
            return parse(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    raise ValueError(f"{store}/{name} is no {what} of this version of airflow-distil: {problem}.")
