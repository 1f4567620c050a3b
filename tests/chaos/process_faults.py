"""What happens to the processes that execute a task: killed, stopped, paused, superseded, starved."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path
from random import Random

from tests.chaos.bench import UNSEEN, Attempt, Bench, Catalogue
from tests.system.debian import libfaketime

fault = Catalogue()
FAULTS = fault.faults

# One attempt alone takes 27 s: what was superseded and went on would ask for far longer than until its next look.
TWO = {"rows": 480, "latency": 0.9}
# Long enough that a log segment is uploaded on the way, which happens every five seconds.
LONG = {"rows": 500, "concurrency": 8, "latency": 0.12}


def kill(bench: Bench, attempt: Attempt) -> None:
    """Kill an attempt; what was in flight may be paid again."""
    attempt.kill()
    bench.crash()


@fault("SIGKILL early", "file", "gs", "s3")
def killed_early(bench: Bench, chance: Random) -> str:
    """The task's process is killed soon after its first requests."""
    attempt = bench.start()
    bench.at(chance, 0.01, 0.2)
    kill(bench, attempt)
    return bench.retried()


@fault("SIGKILL in the middle", "file", "gs", "s3")
def killed_in_the_middle(bench: Bench, chance: Random) -> str:
    """The task's process is killed while it asks."""
    attempt = bench.start()
    bench.at(chance, 0.2, 0.8)
    kill(bench, attempt)
    return bench.retried()


@fault("SIGKILL near the end", "file", "gs", "s3")
def killed_near_the_end(bench: Bench, chance: Random) -> str:
    """The task's process is killed when the last answers come, or while it writes."""
    attempt = bench.start()
    bench.at(chance, 0.95, 1.0)
    attempt.poll(chance.uniform(0, 0.1))
    kill(bench, attempt)
    return bench.retried()


def _killed_at(bench: Bench, name: str, *, after: bool) -> int:
    """Kill an attempt while the store has, or has not yet, taken an object; return how many editions there are then."""
    attempt = bench.start()
    with bench.proxy.held(writes=name, after=after) as arrived:
        bench.until(f"the upload of {name}", arrived.is_set)
        attempt.kill()
    assert bench.paid >= bench.rows
    return len(bench.names("_distil/manifests/"))


@fault("SIGKILL while a part is uploaded", "gs", "s3", proxy=True)
def killed_at_a_part(bench: Bench, chance: Random) -> str:
    """The process is killed when its Parquet part is on the way. Everything is paid by then, and nothing is paid again."""
    editions = _killed_at(bench, "/data/", after=False)
    bench.check(not editions, "half an edition was published")
    return bench.retried()


@fault("SIGKILL between part and manifest", "gs", "s3", proxy=True)
def killed_before_the_manifest(bench: Bench, chance: Random) -> str:
    """The parts are there, their manifest is not: nothing is published, and nothing is paid again."""
    editions = _killed_at(bench, "/_distil/manifests/", after=False)
    bench.check(not editions, "half an edition was published")
    return bench.retried()


@fault("SIGKILL after the manifest", "gs", "s3", proxy=True)
def killed_after_the_manifest(bench: Bench, chance: Random) -> str:
    """The manifest is there, Airflow was not told: the retry finds the edition, and makes no second one."""
    editions = _killed_at(bench, "/_distil/manifests/", after=True)
    bench.check(editions == 1, f"{editions} editions after the manifest was put")
    outcome = bench.retried()
    bench.check(len(bench.names("_distil/manifests/")) == 1, "the retry published a second edition")
    return outcome


@fault("SIGKILL while writing", "file")
def killed_while_writing(bench: Bench, chance: Random) -> str:
    """The process is killed as soon as the first file of its part is seen."""
    attempt = bench.start()
    bench.until("a part", lambda: [*bench.scratch.rglob("part-*.parquet"), *bench.root.glob("data/*/*")])
    attempt.poll(chance.uniform(0, 0.02))
    kill(bench, attempt)
    return bench.retried()


@fault("five SIGKILLs in a row", "file", "gs", "s3", rows=300)
def killed_five_times(bench: Bench, chance: Random) -> str:
    """Attempt after attempt is killed."""
    for number in range(5):
        attempt = bench.start()
        bench.at(chance, number / 6, (number + 1) / 6)
        kill(bench, attempt)
    return bench.retried()


@fault("host lost", "file", "gs", "s3", **LONG)
def host_lost(bench: Bench, chance: Random) -> str:
    """The process is killed and its scratch folder lost; the retry goes on, elsewhere, from what was uploaded."""
    attempt = bench.start()
    bench.until("a log segment", lambda: bench.names("_distil/log/"))
    bench.at(chance, 0.6, 0.95)
    bench.host_lost(attempt)
    return bench.retried()


@fault("SIGTERM", "file", "gs", "s3")
def terminated(bench: Bench, chance: Random) -> str:
    """Airflow asks the task to end. It keeps what is paid, and is no success."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.8)
    attempt.signal(signal.SIGTERM)
    bench.check(attempt.wait(30) != 0, "a stopped task ended as a success")
    bench.check("Stopped" in attempt.said, "the log does not say that it was stopped")
    bench.check(not bench.published(), "something was published")
    return bench.retried()


@fault("SIGTERM twice", "file")
def terminated_twice(bench: Bench, chance: Random) -> str:
    """Airflow asks again while the task is ending."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.8)
    attempt.signal(signal.SIGTERM)
    attempt.poll(chance.uniform(0, 0.1))
    attempt.signal(signal.SIGTERM)
    bench.check(attempt.wait(30) != 0, "a stopped task ended as a success")
    bench.check(not bench.published(), "something was published")
    bench.crash()
    return bench.retried()


@fault("zombie: paused, superseded, awakened", "file", "gs", "s3")
def zombie(bench: Bench, chance: Random) -> str:
    """A process is paused, its successor publishes, and it wakes up. It must change nothing, and send nothing more."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.8)
    attempt.signal(signal.SIGSTOP)
    paused = time.monotonic()
    outcome = bench.retried()
    bench.whole()
    bench.beyond_clock_jump(paused)
    before, awake = bench.published(), time.monotonic()
    attempt.signal(signal.SIGCONT)
    bench.check(attempt.wait(60) != 0, "the superseded attempt ended as a success")
    bench.check("Superseded" in attempt.said, f"it does not say that it was superseded: {attempt.said[-200:]}")
    bench.check(bench.published() == before, "the zombie changed the dataset")
    bench.noticed(attempt, awake)
    return f"{outcome}, the zombie stopped"


@fault("two attempts alive", "file", "gs", "s3", **TWO)
def two_alive(bench: Bench, chance: Random) -> str:
    """A process is paused, its successor begins, and both go on."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.3)
    attempt.signal(signal.SIGSTOP)
    successor = bench.start()
    bench.at(chance, 0.4, 0.5)
    awake = time.monotonic()
    attempt.signal(signal.SIGCONT)
    ended = attempt.wait(60)
    bench.superseded(attempt, awake)
    if successor.wait(60) == 0:
        bench.check(ended != 0 or "published" in attempt.said, "both ended as a success")
        return "the successor finished, the other was superseded" if ended else "both finished, with one edition"
    return bench.retried()


@fault("two attempts at once", "file", "gs", "s3", **TWO)
def two_at_once(bench: Bench, chance: Random) -> str:
    """Two processes execute the same task, the second from when the first has its claim."""
    both = [bench.start()]
    # Not both at one moment: they would quarrel in Airflow's database, and one would end before its task began.
    bench.until("the first claim", lambda: bench.names("_distil/claims/"))
    both.append(bench.start())
    bench.until("the second claim", lambda: len(bench.names("_distil/claims/")) > 1)
    claimed = time.monotonic()
    codes = [attempt.wait() for attempt in both]
    bench.superseded(min(both, key=lambda attempt: bench.since(attempt, claimed)), claimed)
    bench.check(len(bench.names("_distil/manifests/")) <= 1, "two editions of one ask")
    if 0 in codes:
        return "one finished" if any(codes) else "both finished, with one edition"
    return bench.retried()


@fault("execution_timeout", "file", rows=300, latency=0.2)
def timed_out(bench: Bench, chance: Random) -> str:
    """The task is too slow for its execution_timeout: every try gets on, and none pays again."""
    attempt = bench.start(THOUSAND_TIMEOUT=f"{chance.uniform(2, 3.4):.2f}")
    bench.check(attempt.wait(60) != 0, "it ended as a success")
    bench.check(not bench.published(), "something was published")
    bench.check(0 < bench.paid < bench.rows, f"{bench.paid} answers until then")
    return bench.retried()


@fault("out of memory", "file", "gs")
def out_of_memory(bench: Bench, chance: Random) -> str:
    """The kernel kills the process, as its memory cgroup is full; without cgroups it cannot get memory."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.7)
    group = Path(f"/sys/fs/cgroup/memory/distil-{attempt.pid}")
    try:
        group.mkdir()
        bench.on_exit(group.rmdir)
        (group / "memory.limit_in_bytes").write_text(str(2 * 2**20))
        (group / "cgroup.procs").write_text(str(attempt.pid))
        how = "the kernel killed it, "
    except OSError:
        resource.prlimit(attempt.pid, resource.RLIMIT_DATA, (2**20, 2**20))
        how = "it got no memory, "
    try:
        code = attempt.wait(20)
    except TimeoutError:
        code = 0
        attempt.kill()
        how = "it lived in no memory, was killed, "
    if how.startswith("the kernel"):
        bench.check(code == -signal.SIGKILL, f"it ended with {code} instead of an OOM kill")
    bench.crash()
    return how + bench.retried()


@fault("clear of a finished run", "file", "gs", "s3")
def cleared(bench: Bench, chance: Random) -> str:
    """A finished run is cleared: there is nothing to pay, and no second edition."""
    outcome = bench.retried()
    before, paid = bench.published(), bench.paid
    bench.retried(THOUSAND_CLEARED="1")
    bench.check(bench.published() == before, "the clear changed the dataset")
    bench.check(bench.paid == paid, f"the clear paid {bench.paid - paid}")
    return outcome.replace("retry", "clear")


@fault("SIGKILL during regenerate", "file", "gs", "s3")
def killed_during_regenerate(bench: Bench, chance: Random) -> str:
    """A clear with `regenerate` is killed: its retry goes on in the new round, and readers see the old edition until then."""
    bench.retried()
    before = bench.published()
    bench.needed += bench.rows
    attempt = bench.start(THOUSAND_CLEARED="1", THOUSAND_ON_EXISTING="regenerate")
    bench.arrived(bench.rows + int(bench.rows * chance.uniform(0.1, 0.9)))
    kill(bench, attempt)
    bench.check(bench.published() == before, "half of the new edition can be seen")
    bench.whole()
    outcome = bench.retried(THOUSAND_CLEARED="1", THOUSAND_ON_EXISTING="regenerate")
    bench.check(len(bench.names("_distil/manifests/")) == 2, "there is no second edition")
    bench.check(bench.paid >= 2 * bench.rows, "regenerate did not ask everything anew")
    return outcome


@fault("second DAG run to the destination", "file", "gs", "s3")
def second_run(bench: Bench, chance: Random) -> str:
    """A later DAG run writes the same to the same place: it pays nothing."""
    bench.retried()
    paid = bench.paid
    outcome = bench.retried(THOUSAND_RUN="1")
    bench.check(bench.paid == paid, f"the second run paid {bench.paid - paid}")
    return outcome.replace("the retry", "the second run")


@fault("two DAG runs at once", "file", "gs", "s3", **TWO)
def two_runs(bench: Bench, chance: Random) -> str:
    """Two DAG runs write to the same place at the same time: one is superseded and says so; its clear pays nothing."""
    first = bench.start(THOUSAND_RUN="0")
    bench.at(chance, 0.01, 0.3)
    second = bench.start(THOUSAND_RUN="1")
    bench.until("the second claim", lambda: first.poll() == 0 or len(bench.names("_distil/claims/")) > 1)
    claimed = time.monotonic()
    codes = [first.wait(), second.wait()]
    bench.superseded(first, claimed)
    bench.check(0 in codes, "neither finished")
    bench.whole()
    outcomes = []
    for number, (attempt, code) in enumerate(zip((first, second), codes, strict=True)):
        if code:
            bench.check("Superseded" in attempt.said, f"run {number} does not say why it failed")
            paid = bench.paid
            bench.retried(THOUSAND_RUN=str(number), THOUSAND_CLEARED="1")
            bench.check(bench.paid == paid, f"the clear of run {number} paid {bench.paid - paid}")
            outcomes.append("one superseded, its clear finished")
    return outcomes[0] if outcomes else "both finished"


@fault("old code wakes up", "file", "gs", "s3")
def old_code(bench: Bench, chance: Random) -> str:
    """An attempt with an older prompt is paused; new code publishes; the old wakes up. The dataset is the new code's."""
    attempt = bench.start(THOUSAND_PROMPT="Answer as last year.")
    bench.at(chance, 0.1, 0.8)
    attempt.signal(signal.SIGSTOP)
    paused, paid = time.monotonic(), bench.llm.answered.calls
    outcome = bench.retried(THOUSAND_PROMPT="Answer as today.")
    before = bench.published()
    bench.needed += paid
    bench.beyond_clock_jump(paused)
    awake = time.monotonic()
    attempt.signal(signal.SIGCONT)
    bench.check(attempt.wait(60) != 0, "the old code ended as a success")
    bench.noticed(attempt, awake)
    bench.check(bench.published() == before, "the old code changed the dataset")
    return f"{outcome}, the old code stopped"


@fault("source replaced while it is read", "file")
def source_replaced(bench: Bench, chance: Random) -> str:
    """Ten rows of the source change under a running attempt: it says so, and the retry asks those ten."""
    bench.write_source(lambda n: f"old question {n}" if n < 10 else f"question {n}")
    attempt = bench.start()
    bench.at(chance, 0.1, 0.8)
    bench.write_source()
    bench.check(attempt.wait(60) != 0, "it published rows of a source that is gone")
    bench.check("SourceError" in attempt.said, "it does not say that the source changed")
    bench.check(not bench.published(), "something was published")
    bench.needed += 10
    return "failed and said why, " + bench.retried()


def _clock_jumps(bench: Bench, chance: Random, jump: str) -> str:
    clock = bench.folder / "clock"
    clock.write_text("+0\n")
    attempt = bench.start(
        plain=True,
        LD_PRELOAD=str(libfaketime()),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        DONT_FAKE_MONOTONIC="1",
    )
    bench.at(chance, 0.1, 0.6)
    clock.write_text(jump)
    code = attempt.wait(60)
    bench.check("clock jumped" in attempt.said, "it did not see the jump")
    return bench.retried() if code else "survived"


@fault("clock jumps forwards", "file", rows=300, latency=0.1)
def clock_forwards(bench: Bench, chance: Random) -> str:
    """The host's clock is set an hour ahead: the attempt looks whether it was superseded, and goes on."""
    return _clock_jumps(bench, chance, "+3600\n")


@fault("clock jumps backwards", "file", rows=300, latency=0.1)
def clock_backwards(bench: Bench, chance: Random) -> str:
    """The host's clock is set an hour back."""
    return _clock_jumps(bench, chance, "-3600\n")


@fault("host suspended", "file", "gs", rows=300)
def suspended(bench: Bench, chance: Random) -> str:
    """The whole process stands still for longer than Airflow's heartbeat is awaited, and nobody takes over."""
    attempt = bench.start()
    bench.at(chance, 0.1, 0.8)
    attempt.signal(signal.SIGSTOP)
    attempt.poll(2 * UNSEEN)
    attempt.signal(signal.SIGCONT)
    bench.crash()
    return bench.retried() if attempt.wait(60) else "survived"


@fault("open files used up", "file", "gs")
def no_more_files(bench: Bench, chance: Random) -> str:
    """The process may open no further file and no further connection."""
    attempt = bench.start()
    bench.at(chance, 0.02, 0.8)
    resource.prlimit(attempt.pid, resource.RLIMIT_NOFILE, (8, 8))
    code = attempt.wait(100)
    bench.crash()
    return "failed, " + bench.retried() if code else "survived"
