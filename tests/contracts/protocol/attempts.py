"""Attempts that take one store verb at a time, when a test says so, and go wrong where it says so."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from airflow_distil.datasets.commit import Commit, OnExisting
from airflow_distil.datasets.manifest import Claim, Identity, Manifest
from airflow_distil.datasets.stores import Entry, Store, create

IDENTITY = Identity(dag_id="dag", task_id="task", run_id="run")
PARTS = 2
# Only a hang of the code under test takes this long.
HANG = 20.0


class Crash(BaseException):
    """The process is gone: nothing of it runs any more, so nothing may catch this."""


class Stepped:
    """A store whose verbs each ask for permission first.

    :param gate: called before each verb; returns what shall become of it: `go`, `refuse` (an error, no effect), `lose` (an
        effect, and an error), `retry` (an effect, and the client's own retry), `crash` (before), `crash after`.
    """

    def __init__(self, store: Store, gate: Callable[[str], str]) -> None:
        self._store = store
        self._gate = gate

    def __str__(self) -> str:
        return str(self._store)

    def put(self, name: str, data: bytes | Path) -> None:
        self._verb(f"put {name}", lambda: self._store.put(name, data))

    def get(self, name: str, start: int = 0, length: int | None = None, version: str | None = None) -> bytes:
        return self._verb(f"get {name}", lambda: self._store.get(name, start, length, version))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return iter(self._verb(f"list {prefix}", lambda: list(self._store.list(prefix))))

    def delete(self, name: str) -> None:
        self._verb(f"delete {name}", lambda: self._store.delete(name))

    def _verb(self, label: str, effect: Callable[[], Any]) -> Any:
        match self._gate(label):
            case "go":
                return effect()
            case "refuse":
                raise OSError(f"{label}: 503")
            case "lose":
                effect()
                raise OSError(f"{label}: the reply was lost")
            case "retry":
                effect()
                return effect()
            case "crash":
                raise Crash
            case "crash after":
                effect()
                raise Crash
            case other:
                raise AssertionError(other)


class Actor:
    """Somebody who works on a store in a thread of its own, and stands still before each verb."""

    def __init__(self, store: Store) -> None:
        self.verb: str | None = None
        self.hit = False
        self.frozen = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.store = Stepped(store, self._gate)
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.verb}>"

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def step(self, order: str = "go") -> None:
        """Take the verb that it stands before, and come to stand before the next, or end."""
        self.hit = self.hit or order in {"refuse", "lose", "crash", "crash after"}
        self._orders.put(order)
        self._wait()

    def finish(self) -> None:
        while self.alive:
            self.step()

    def kill(self) -> None:
        if self.alive:
            self.step("crash")

    def _wait(self) -> None:
        self.verb = self._reports.get(timeout=HANG)
        if self.verb is None:
            self._thread.join(HANG)

    def _gate(self, label: str) -> str:
        self._note()
        self._reports.put(label)
        return self._orders.get()

    def _note(self) -> None:
        """Look at the work, between verbs and at the end."""

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error
        finally:
            self._note()
            self._reports.put(None)

    def _work(self) -> Any:
        raise NotImplementedError


class Attempt(Actor):
    """One attempt.

    :param failed: failed rows of what it would publish.
    """

    def __init__(
        self, store: Store, ask: str, fingerprint: str, on_existing: OnExisting, *, failed: int = 0, number: int = 0
    ) -> None:
        self.ask = ask
        self.fingerprint = fingerprint
        self.on_existing: OnExisting = on_existing
        self.failed = failed
        self.number = number
        self.claims: list[Claim] = []
        self.commit: Commit | None = None
        super().__init__(store)

    def __repr__(self) -> str:
        return f"<{self.ask} {self.fingerprint} {self.on_existing} at {self.verb}>"

    def _note(self) -> None:
        try:
            claim = self.commit.claim if self.commit else None
        except RuntimeError:
            return
        if claim and claim not in self.claims:
            self.claims.append(claim)

    def _work(self) -> Manifest:
        self.commit = Commit(self.store, IDENTITY, self.ask, try_number=self.number)
        begun = self.commit.begin(self.fingerprint, self.on_existing)
        return begun if isinstance(begun, Manifest) else self._produce(self.commit, begun)

    def _produce(self, commit: Commit, claim: Claim) -> Manifest:
        parts = []
        for number in range(PARTS):
            commit.look()
            data = f"{claim.nonce} wrote part {number} of {self.fingerprint}".encode()
            path = f"data/{claim.folder}/part-{number:05d}.parquet"
            assert create(self.store, path, data)
            parts.append({"path": path, "rows": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        return commit.publish({"parts": parts, "rows": PARTS, "ok": PARTS - self.failed, "failed": self.failed})
