"""What goes wrong where datasets are kept: errors, lost replies, damage, full and read-only disks."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import time
from pathlib import Path
from random import Random

from airflow_distil.datasets.log import decode_segment
from airflow_distil.datasets.stores import FileStore
from tests.chaos.bench import Bench, Catalogue, last_error
from tests.chaos.process_faults import LONG
from tests.chaos.proxy import Asked, Trouble

fault = Catalogue()
FAULTS = fault.faults


def survives(bench: Bench, seconds: float = 150) -> str:
    """Run an attempt to its end, or what Airflow starts after it."""
    return "survived" if bench.start().wait(seconds) == 0 else "failed, " + bench.retried()


def sometimes(bench: Bench, chance: Random, share: float, trouble: Trouble, *kinds: str) -> None:
    """Let a share of the requests to the store have some trouble."""
    drawn = random.Random(chance.random())
    bench.proxy.trouble = lambda asked: trouble if asked.kind in kinds and drawn.random() < share else None


@fault("store: 503 for 20 % of requests", "gs", "s3", proxy=True)
def unavailable_at_times(bench: Bench, chance: Random) -> str:
    """The store refuses requests at random; so it does after a crash."""
    sometimes(bench, chance, 0.2, Trouble(status=503), "write", "read", "list")
    attempt = bench.start()
    bench.at(chance, 0.2, 0.9)
    attempt.kill()
    bench.crash()
    outcome = bench.retried()
    bench.missed = not bench.proxy.struck
    return outcome


def _down(bench: Bench, chance: Random, seconds: float, within: float) -> str:
    attempt = bench.start()
    bench.at(chance, 0.1, 0.9)
    bench.proxy.trouble = lambda asked: Trouble(status=503)
    attempt.poll(seconds)
    bench.proxy.trouble = lambda asked: None
    return "survived" if attempt.wait(within) == 0 else "failed, " + bench.retried()


@fault("store: down for 8 s", "gs", "s3", proxy=True)
def down(bench: Bench, chance: Random) -> str:
    """The store refuses everything for a while, in the middle of a run."""
    return _down(bench, chance, 8, 150)


@fault("store: down for longer than clients retry", "gs", "s3", proxy=True, slow=True)
def down_for_long(bench: Bench, chance: Random) -> str:
    """The store refuses everything for over two minutes: the attempt fails and keeps what is paid, the retry goes on."""
    return _down(bench, chance, 150, 400)


@fault("store: replies lost after the upload", "gs", "s3", proxy=True)
def replies_lost(bench: Bench, chance: Random) -> str:
    """Half of the uploads are done, and their replies lost: the client tries again, and meets what it wrote itself."""
    sometimes(bench, chance, 0.5, Trouble(drop="after"), "write")
    outcome = survives(bench)
    bench.missed = not bench.proxy.struck
    bench.check(len(bench.names("_distil/manifests/")) == 1, "there is more than one edition")
    return outcome


@fault("store: the manifest's reply lost", "gs", "s3", proxy=True)
def manifest_reply_lost(bench: Bench, chance: Random) -> str:
    """The manifest is there, its reply is lost, and the retry of the client gets 412: it is recognised as our own."""
    lost: list[Asked] = []

    def trouble(asked: Asked) -> Trouble | None:
        if asked.kind == "write" and "/_distil/manifests/" in asked.name and len(lost) < 2:
            lost.append(asked)
            return Trouble(drop="after")
        return None

    bench.proxy.trouble = trouble
    outcome = survives(bench)
    bench.check(len(lost) == 2, f"{len(lost)} replies were lost")
    bench.check(len(bench.names("_distil/manifests/")) == 1, "there is more than one edition")
    return outcome


@fault("store: slow listing", "gs", "s3", proxy=True)
def slow_listing(bench: Bench, chance: Random) -> str:
    """Each listing takes two seconds more, and the attempt is killed in between."""
    sometimes(bench, chance, 1.0, Trouble(delay=2.0), "list")
    attempt = bench.start()
    bench.at(chance, 0.1, 0.9)
    attempt.kill()
    bench.crash()
    return bench.retried()


@fault("store: truncated downloads", "gs", "s3", proxy=True, **LONG)
def truncated_downloads(bench: Bench, chance: Random) -> str:
    """Of downloads only a part arrives, for 30 % of requests, when another host reads the log of a lost one."""
    attempt = bench.start()
    bench.until("a log segment", lambda: bench.names("_distil/log/"))
    bench.at(chance, 0.6, 0.9)
    bench.host_lost(attempt)
    sometimes(bench, chance, 0.3, Trouble(cut=0.5), "read")
    return bench.retried()


@fault("store: connections reset", "gs", "s3", proxy=True)
def reset(bench: Bench, chance: Random) -> str:
    """Connections break before the store does anything, for 20 % of requests."""
    sometimes(bench, chance, 0.2, Trouble(drop="before"), "write", "read", "list")
    outcome = survives(bench)
    bench.missed = not bench.proxy.struck
    return outcome


def _damaged(bench: Bench, chance: Random, *, flip: bool) -> str:
    attempt = bench.start()
    bench.until("a log segment", lambda: bench.names("_distil/log/"))
    bench.at(chance, 0.6, 0.95)
    bench.host_lost(attempt)
    [*_, name] = bench.names("_distil/log/")
    data = bench.store.get(name)
    bench.allowed += len(list(decode_segment(data).facts))
    at = int(len(data) * chance.uniform(0.01, 0.99))
    damaged = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :] if flip else data[:at]
    bench.store.delete(name)
    bench.store.put(name, damaged)
    outcome = bench.retried()
    bench.check("is left out" in bench.attempts[-1].said, "the damage was not noticed")
    return outcome


@fault("log segment truncated", "file", "gs", "s3", **LONG)
def segment_truncated(bench: Bench, chance: Random) -> str:
    """A segment of the log is cut off between two attempts: its rows are asked again, and no others."""
    return _damaged(bench, chance, flip=False)


@fault("log segment with a flipped bit", "file", "gs", "s3", **LONG)
def segment_flipped(bench: Bench, chance: Random) -> str:
    """A bit of a segment of the log is another between two attempts: its rows are asked again, and no others."""
    return _damaged(bench, chance, flip=True)


@fault("part deleted", "file", "gs", "s3")
def part_deleted(bench: Bench, chance: Random) -> str:
    """Somebody deletes a published Parquet part. Readers are told; a clear writes it anew, and pays nothing."""
    bench.retried()
    paid = bench.paid
    [part] = bench.names("data/")
    bench.store.delete(part)
    try:
        bench.dataset()
        bench.check(False, "rows were read that are not there")
    except Exception as error:  # noqa: BLE001 - whatever a reader would see
        bench.check("is missing" in str(error), f"a reader is told: {error}")
    outcome = bench.retried(THOUSAND_CLEARED="1")
    bench.check(bench.paid == paid, f"the clear paid {bench.paid - paid}")
    return outcome.replace("retry", "clear")


@fault("manifest overwritten", "file", "gs", "s3")
def manifest_overwritten(bench: Bench, chance: Random) -> str:
    """Somebody overwrites the manifest with rubbish: a clear says so and publishes nothing; with it back all is well."""
    bench.retried()
    paid = bench.paid
    [name] = bench.names("_distil/manifests/")
    good = bench.store.get(name)
    bench.store.delete(name)
    bench.store.put(name, good[: int(len(good) * chance.random())])
    attempt = bench.start(THOUSAND_CLEARED="1")
    bench.check(attempt.wait() != 0, "the clear ended as a success")
    bench.check(name in last_error(attempt.said), f"the error does not name the manifest: {last_error(attempt.said)}")
    bench.check(bench.names("_distil/manifests/") == [name], "something was published over it")
    bench.store.delete(name)
    bench.store.put(name, good)
    outcome = bench.retried(THOUSAND_CLEARED="2")
    bench.check(bench.paid == paid, f"the clear paid {bench.paid - paid}")
    return "failed and said why, " + outcome.replace("retry", "clear")


def _disk(bench: Bench, folder: Path, size: str) -> None:
    """Make a folder a small disk of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", str(folder)], check=True)
    bench.on_exit(lambda: subprocess.run(["umount", "-l", str(folder)], check=False))


def _fill(folder: Path) -> Path:
    """Write a file until the disk is full."""
    filler = folder / "filler"
    # Unbuffered: what a buffer still holds is written, in vain again, when the file is closed.
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return filler


@fault("destination disk full", "file", rows=300)
def destination_full(bench: Bench, chance: Random) -> str:
    """The destination's disk is full from some moment on: nothing half is published, and with room again the retry goes on."""
    _disk(bench, bench.root, "4m")
    attempt = bench.start()
    bench.at(chance, 0.02, 0.9)
    filler = _fill(bench.root)
    bench.check(attempt.wait(150) != 0, "it ended as a success")
    bench.check("No space left" in attempt.said, f"it does not say why: {last_error(attempt.said)}")
    bench.check(not bench.published(), "something was published")
    filler.unlink()
    outcome = bench.retried()
    # Before its umount: what lies under the mount is empty.
    rows = bench.dataset()
    bench.check(len(rows) == bench.rows, f"{len(rows)} rows")
    return "failed and said why, " + outcome


@fault("file size limit", "file", "gs", rows=300)
def file_size(bench: Bench, chance: Random) -> str:
    """The process may write no more to any file, as with a quota: it fails, and the retry goes on."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.8)
    resource.prlimit(attempt.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    bench.check(attempt.wait(150) != 0, "it ended as a success")
    bench.crash()
    return "failed, " + bench.retried()


@fault("scratch disk full", "file", "gs", rows=300)
def scratch_full(bench: Bench, chance: Random) -> str:
    """The worker's own disk is full from some moment on: the attempt stops asking, and the retry goes on."""
    _disk(bench, bench.scratch, "4m")
    attempt = bench.start()
    bench.at(chance, 0.02, 0.8)
    filler = _fill(bench.scratch)
    code = attempt.wait(150)
    bench.crash()
    filler.unlink()
    return "failed, " + bench.retried() if code else "survived"


@fault("destination read-only", "file", rows=300)
def read_only(bench: Bench, chance: Random) -> str:
    """The destination is mounted read-only for a while, and comes back."""
    _disk(bench, bench.root, "16m")
    attempt = bench.start()
    bench.at(chance, 0.02, 0.9)
    subprocess.run(["mount", "-o", "remount,ro", str(bench.root)], check=True)
    attempt.poll(chance.uniform(0, 8))
    subprocess.run(["mount", "-o", "remount,rw", str(bench.root)], check=True)
    return "survived" if attempt.wait(150) == 0 else "failed, " + bench.retried()


@fault("destination deleted", "file", **LONG)
def destination_deleted(bench: Bench, chance: Random) -> str:
    """Somebody deletes the destination under a running attempt: it notices and stops; what its host keeps is not lost."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.95)
    assert isinstance(bench.store, FileStore)
    shutil.rmtree(bench.root)
    gone, code = time.monotonic(), attempt.wait(150)
    # What was uploaded is gone with the destination, and may be paid again; so may what it asked before it looked.
    bench.allowed += bench.paid - bench.since(attempt, gone) + bench.in_flight + bench.unseen(attempt)
    bench.check(code != 0, "it published into nothing")
    bench.check("was deleted while" in attempt.said, f"it does not say why: {last_error(attempt.said)}")
    return "failed and said why, " + bench.retried()
