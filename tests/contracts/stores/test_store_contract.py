"""What every store promises; the commit protocol is built on nothing else."""

from __future__ import annotations

import datetime as dt
import errno
import gzip
import multiprocessing
import os
import sys
import traceback
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from urllib.parse import quote

import pytest

from airflow_distil.datasets.stores import FileStore, RangeFile, Store, create, open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.exceptions import SourceError, TaskDefinitionError
from tests.contracts.stores.serving import Reply, Request, serving

SPECIAL = ["a b", "é/ü 日本", "dt=2026-01-01/x", "a%2Fb", "100%", "q?x#y&z+", "a.tmp", "[1]*", "'\"", "a:b@c"]


class StoreContract:
    @pytest.fixture
    def root(self) -> URI:
        raise NotImplementedError

    @pytest.fixture
    def store(self, root) -> Store:
        return open_store(root)

    def test_put_and_get(self, store):
        """A store that changes bytes."""
        content = bytes(range(256)) * 100
        store.put("folder/deep/er/x.bin", content)
        assert store.get("folder/deep/er/x.bin") == content

    def test_never_overwrites(self, store):
        """A store whose put replaces would let two attempts both believe they published."""
        store.put("x", b"first")
        with pytest.raises(FileExistsError):
            store.put("x", b"second")
        assert store.get("x") == b"first"

    def test_one_winner_among_threads(self, store):
        """Check-then-write lets two racing writers win now and then; so many rounds."""
        racers, rounds = 8, 30
        barrier = Barrier(racers)

        def race(racer: int) -> list[int]:
            won = []
            for number in range(rounds):
                barrier.wait(30)
                try:
                    store.put(f"race/{number}", b"%d" % racer * 1000)
                except FileExistsError:
                    continue
                won.append(number)
            return won

        with ThreadPoolExecutor(racers) as pool:
            won = list(pool.map(race, range(racers)))
        assert sorted(number for wins in won for number in wins) == list(range(rounds))
        for racer, wins in enumerate(won):
            for number in wins:
                assert store.get(f"race/{number}") == b"%d" % racer * 1000

    def test_put_of_a_file_is_the_same(self, store, tmp_path):
        """A part file that is cut, or that overwrites (the emulator does not check that for uploads above 8 MiB; GCS does)."""
        path = tmp_path / "part"
        content = os.urandom(9 * 2**20)  # above 8 MiB Google's client uploads in another way
        path.write_bytes(content)
        store.put("part", path)
        assert store.get("part") == content
        small = tmp_path / "small"
        small.write_bytes(b"small")
        store.put("small", small)
        with pytest.raises(FileExistsError):
            store.put("small", small)

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [
            (0, None, b"0123456789"),
            (3, None, b"3456789"),
            (3, 2, b"34"),
            (0, 1, b"0"),
            (8, 100, b"89"),
            (10, 5, b""),
            (99, None, b""),
            (2, 0, b""),
        ],
    )
    def test_ranges(self, store, start, length, expected):
        """A range that is inclusive at its end, or fails beyond the object's end."""
        store.put("x", b"0123456789")
        assert store.get("x", start, length) == expected

    def test_empty_object(self, store):
        """Asking an empty object for bytes from 0 on is an error in HTTP."""
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert store.get("empty", 0, 10) == b""
        assert [(entry.name, entry.size) for entry in store.list()] == [("empty", 0)]

    def test_missing(self, store):
        """Callers tell "not there" from "cannot be read" by the exception."""
        with pytest.raises(FileNotFoundError, match="none"):
            store.get("none")
        with pytest.raises(FileNotFoundError):
            store.get("folder/none", 1, 2)
        assert list(store.list()) == []
        assert list(store.list("none/")) == []

    def test_list_by_prefix_in_order(self, store):
        """Part order is row order; and a prefix is a prefix of the name, not a folder."""
        names = ["a-b/x", "a.b", "a/b", "a/b-c/d", "a0", "b/1", "b/10", "b/2", "é"]
        for name in reversed(names):
            store.put(name, name.encode())
        assert [entry.name for entry in store.list()] == sorted(names)
        assert [entry.name for entry in store.list("b/1")] == ["b/1", "b/10"]
        assert [entry.name for entry in store.list("b/")] == ["b/1", "b/10", "b/2"]
        assert [entry.size for entry in store.list("é")] == [2]

    def test_list_is_complete(self, store):
        """A listing that stops after its first page of 1,000."""
        names = [f"many/{number:04d}" for number in range(1100)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: store.put(name, b"x"), names))
        assert [entry.name for entry in store.list("many/")] == names

    @pytest.mark.parametrize("name", SPECIAL)
    def test_special_names(self, store, name):
        """A name that is encoded twice, decoded once too often, or taken for a pattern."""
        store.put(name, b"content")
        assert [entry.name for entry in store.list()] == [name]
        assert [entry.name for entry in store.list(name[:2])] == [name]
        assert store.get(name) == b"content"
        store.delete(name)
        assert list(store.list()) == []

    @pytest.mark.parametrize(
        "name", ["../x", "a/../../x", "/x", "a//b", "", "a/", "./a", "a\0b", ".distil-x", "a/.distil-x.tmp"]
    )
    def test_names_stay_below_the_root(self, store, name):
        """A part path from an edited manifest that writes or reads elsewhere; a name that means another object elsewhere."""
        with pytest.raises(ValueError, match="name"):
            store.put(name, b"x")

    def test_delete(self, store):
        """Clean-up runs again after a crash, on what is already deleted."""
        store.put("x", b"1")
        store.delete("x")
        store.delete("x")
        with pytest.raises(FileNotFoundError):
            store.get("x")
        store.put("x", b"2")
        assert store.get("x") == b"2"

    def test_versions(self, store):
        """Half of the rows from the old file and half from its replacement."""
        store.put("x", b"old content")
        (entry,) = store.list()
        assert (entry.name, entry.size) == ("x", 11)
        assert store.get("x", version=entry.version) == b"old content"
        store.delete("x")
        store.put("x", b"new, other content")
        with pytest.raises(SourceError, match="x changed"):
            store.get("x", 0, 3, version=entry.version)
        (again,) = store.list()
        assert again.version != entry.version
        store.delete("x")
        with pytest.raises(FileNotFoundError):
            store.get("x", version=entry.version)

    def test_when_an_object_was_written(self, store, tmp_path):
        """A time without a zone, or the time of the uploaded file, would let upkeep take what is new for old."""
        path = tmp_path / "part"
        path.write_bytes(b"part")
        os.utime(path, (0, 0))
        # Some stores tell whole seconds.
        before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=2)
        store.put("bytes", b"x")
        store.put("file", path)
        for entry in store.list():
            assert before < entry.modified < dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)

    def test_the_time_makes_no_other_entry(self, store):
        """A source whose files were touched, or listed with more digits, was said to have changed."""
        store.put("x", b"x")
        [entry] = store.list()
        assert replace(entry, modified=dt.datetime.fromtimestamp(0, dt.UTC)) == entry

    def test_two_stores_on_one_root_share_it(self, root):
        """The attempt that looks for a higher claim has a store of its own."""
        open_store(root).put("folder/x", b"1")
        assert open_store(root).get("folder/x") == b"1"
        assert open_store(root / "folder").get("x") == b"1"
        assert [entry.name for entry in open_store(root / "folder").list()] == ["x"]
        assert list(open_store(root / "fold").list()) == []

    @pytest.mark.parametrize("as_file", [False, True])
    def test_lost_reply(self, store, tmp_path, as_file):
        """A put that succeeded, whose reply got lost, and whose retry finds its own object: that is success."""
        content = b"mine" * 10
        path = tmp_path / "content"
        path.write_bytes(content)
        data = path if as_file else content
        assert create(LostReply(store), "x", data)
        other = tmp_path / "other"
        for wrong in (b"mine" * 9, b"mine" * 11, b"yours" * 8, b""):
            other.write_bytes(wrong)
            assert not create(store, "x", other if as_file else wrong)
        assert store.get("x") == content

    def test_half_written_is_invisible(self, store):
        """A reader that sees half a manifest while it is being written."""
        content = os.urandom(2**22)
        seen = []
        with ThreadPoolExecutor(1) as pool:
            for number in range(5):
                put = pool.submit(store.put, f"{number}", content)
                while not put.done():
                    seen += [entry.size for entry in store.list(f"{number}")]
                    with suppress(FileNotFoundError):
                        seen.append(len(store.get(f"{number}")))
                put.result()
                seen.append(len(store.get(f"{number}")))
        assert set(seen) == {len(content)}

    def test_range_file(self, store):
        """The file that every reader reads through: seeks, short reads at the end, and the pinned version."""
        store.put("x", bytes(range(100)))
        (entry,) = store.list()
        with RangeFile(store, entry) as file:
            assert file.seek(-3, os.SEEK_END) == 97
            assert file.read(10) == bytes([97, 98, 99])
            assert file.read(10) == b""
            file.seek(10)
            buffer = bytearray(5)
            assert file.readinto(buffer) == 5
            assert bytes(buffer) == bytes(range(10, 15))
            assert file.tell() == 15
            store.delete("x")
            store.put("x", b"y" * 100)
            with pytest.raises(SourceError):
                file.read(1)


class LostReply:
    """A store whose put succeeds and then looks like its own retry."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def put(self, name, data):
        self.store.put(name, data)
        self.store.put(name, data)

    def __getattr__(self, name):
        return getattr(self.store, name)


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def root(self, memory_root) -> URI:
        return memory_root


class TestGCSStore(StoreContract):
    @pytest.fixture
    def root(self, gs_root) -> URI:
        return gs_root

    def test_trouble_names_the_object(self, gs_root):
        """Google's own exceptions are no OSErrors, and callers would take them for bugs."""
        store = open_store(URI.parse("gs://no-such-bucket/folder"))
        for act in (lambda: store.put("x", b""), lambda: store.get("x"), lambda: list(store.list())):
            with pytest.raises(FileNotFoundError, match="gs://no-such-bucket/folder/"):
                act()

    def test_folder_placeholders_are_no_objects(self, gs_root, gcs_url):
        """The console's empty object "folder/" was read as a file without a format."""
        from tests.contracts.stores.backends import storage

        bucket = storage.Client(project="test").bucket(gs_root.bucket)
        for name in ("", "sub/"):
            bucket.blob(f"{gs_root.key}/{name}").upload_from_string(b"")
        store = open_store(gs_root)
        store.put("sub/x", b"")
        assert [entry.name for entry in store.list()] == ["sub/x"]


class TestS3Store(StoreContract):
    @pytest.fixture
    def root(self, s3_root) -> URI:
        return s3_root

    def test_trouble_names_the_object(self, s3_root):
        """Obstore's own exceptions are no OSErrors, and callers would take them for bugs."""
        store = open_store(URI.parse("s3://no-such-bucket/folder"))
        for act in (
            lambda: store.put("x", b""),
            lambda: store.get("x"),
            lambda: list(store.list()),
            lambda: list(store.list("x")),
        ):
            with pytest.raises(FileNotFoundError, match="s3://no-such-bucket/folder/"):
                act()

    def test_folder_placeholders_are_no_objects(self, s3_root, s3_url):
        """The console's empty object "folder/" was read as a file without a format; an empty file beside it is one."""
        for name in ("", "sub/", "sub/empty/", "full/"):
            raw_put(f"{s3_url}/{s3_root.bucket}/{quote(s3_root.key)}/{name}")
        store = open_store(s3_root)
        for name, content in {"sub/x": b"", "sub/empty": b"", "full": b"1", "sub/empty-x": b""}.items():
            store.put(name, content)
        names = ["full", "sub/empty", "sub/empty-x", "sub/x"]
        assert [(entry.name, entry.size) for entry in store.list()] == [(name, int(name == "full")) for name in names]
        assert [entry.name for entry in store.list("sub/")] == names[1:]
        assert [entry.name for entry in store.list("sub")] == names[1:]
        assert [entry.name for entry in store.list("sub/empty")] == names[1:3]
        assert [entry.name for entry in store.list("full")] == ["full"]

    def test_a_name_is_found_without_listing_its_neighbours(self, s3_environment):
        """Obstore lists whole folders: to look for one file beside a million others took a thousand requests."""
        asked = []

        def reply(request: Request) -> Reply:
            asked.append(f"{request.command} {request.path}")
            if request.command == "HEAD":
                return Reply(404)
            keys = "".join(f"<Contents><Key>in/b{number}</Key>{LISTED}</Contents>" for number in range(PAGE))
            more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
            return Reply(200, f"<ListBucketResult>{keys}{more}</ListBucketResult>".encode())

        with serving(reply) as url:
            store = open_store(URI.parse("s3://bucket/in"), endpoint=url)
            assert list(store.list("a")) == []
        assert [verb.partition("?")[0] for verb in asked[:2]] == ["HEAD /bucket/in/a", "GET /bucket"]
        assert "start-after=in%2Fa" in asked[1]
        assert len(asked) <= 3  # the client may have asked for the next page already

    def test_lost_replies_and_conflicts(self, s3_root, s3_environment):
        """S3's "conflict, try again" was taken for "exists", and what nobody had written for another attempt's claim."""
        for fault in (409, 503, "lost", "drop"):
            puts, stored = [], {}

            def reply(request: Request, fault=fault, puts=puts, stored=stored) -> Reply:
                if request.command != "PUT":
                    whole = {"Content-Range": "bytes 0-3/4"} if "Range" in request.headers else {}
                    return Reply(206 if whole else 200, stored["x"], whole) if stored else Reply(404)
                assert request.headers["If-None-Match"] == "*"
                puts.append(request.body)
                if stored:
                    return Reply(412)
                if len(puts) == 1 and fault != "lost":
                    return Reply(fault if isinstance(fault, int) else 0)
                stored["x"] = request.body
                return Reply(0 if fault == "lost" and len(puts) == 1 else 200)

            with serving(reply) as url:
                assert create(open_store(URI.parse("s3://bucket/in"), endpoint=url), "x", b"mine")
            assert puts == [b"mine"] * 2
            assert stored == {"x": b"mine"}

    def test_a_conflict_without_end_is_no_endless_loop(self, s3_environment):
        """A server that always says "conflict" kept the attempt busy until it was killed."""
        with serving(lambda request: Reply(409 if request.command == "PUT" else 404)) as url:
            store = open_store(URI.parse("s3://bucket/in"), endpoint=url)
            with pytest.raises(FileExistsError):
                store.put("x", b"")

    def test_replies_are_not_quoted(self, s3_environment):
        """S3 quotes an expired session token in its reply, and the error about it took that to the log."""
        said = b"<?xml?><Error><Code>ExpiredToken</Code><Message>It has expired.</Message><Token-0>hunter2</Token-0></Error>"
        for status, kind in ((400, OSError), (403, PermissionError)):
            with serving(lambda _, status=status: Reply(status, said)) as url:
                store = open_store(URI.parse("s3://my_conn@bucket/in"), endpoint=url)
                with pytest.raises(kind, match="s3://my_conn@bucket/in/x: ExpiredToken: It has expired") as caught:
                    store.get("x")
                assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_compressed_objects_are_read_as_stored(self, s3_environment):
        """A range of what a client decompresses on the way is a range of something else."""
        content = gzip.compress(b"a" * 1000)
        with serving(lambda _: Reply(200, content, {"Content-Encoding": "gzip"})) as url:
            assert open_store(URI.parse("s3://bucket"), endpoint=url).get("x") == content

    def test_keys_that_are_no_paths(self, s3_root, s3_url):
        """An error about a folder that does not name the key that makes it unreadable."""
        raw_put(f"{s3_url}/{s3_root.bucket}/{quote(s3_root.key)}/a//b")
        with pytest.raises(OSError, match="a//b"):
            list(open_store(s3_root).list())

    def test_another_key_is_no_version(self, s3_environment):
        """A server without ETags let two versions of a file pass for one."""
        keys = f"<Contents><Key>x</Key>{LISTED.partition('<ETag>')[0]}</Contents>"
        listing = f"<ListBucketResult>{keys}</ListBucketResult>".encode()
        with (
            serving(lambda _: Reply(200, listing)) as url,
            pytest.raises(OSError, match="x is listed without an ETag"),
        ):
            list(open_store(URI.parse("s3://bucket"), endpoint=url).list())

    def test_without_the_extra(self, monkeypatch):
        """A ModuleNotFoundError of a library that the user never heard of."""
        monkeypatch.delitem(sys.modules, "airflow_distil.datasets.stores.s3", raising=False)
        monkeypatch.setitem(sys.modules, "obstore", None)
        with pytest.raises(TaskDefinitionError, match=r"pip install 'airflow-distil\[s3\]'"):
            open_store(URI.parse("s3://bucket"))


LISTED = "<LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size><ETag>&quot;e&quot;</ETag>"
PAGE = 1000


def raw_put(url: str) -> None:
    """Put an empty object under a key that we would not choose."""
    urllib.request.urlopen(urllib.request.Request(url, b"", method="PUT"), timeout=10).close()


def _race(root: str, racer: int, rounds: int, barrier) -> list[int]:
    store = open_store(URI.parse(root))
    won = []
    for number in range(rounds):
        barrier.wait(60)
        try:
            store.put(f"race/{number}", b"%d" % racer * 1000)
        except FileExistsError:
            continue
        won.append(number)
    return won


class TestFileStore(StoreContract):
    @pytest.fixture
    def root(self, file_root) -> URI:
        return file_root

    def test_one_winner_among_processes(self, root):
        """Threads share the interpreter's lock; two workers do not."""
        racers, rounds = 4, 60
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager, context.Pool(racers) as pool:
            barrier = manager.Barrier(racers)
            won = pool.starmap(_race, [(str(root), racer, rounds, barrier) for racer in range(racers)])
        assert sorted(number for wins in won for number in wins) == list(range(rounds))

    def test_lost_reply_of_a_link(self, store, monkeypatch):
        """Over NFS a link can succeed and its reply get lost; the retry then finds our own file."""
        link = os.link

        def lost(*args, **kwargs):
            link(*args, **kwargs)
            raise FileExistsError(errno.EEXIST, "File exists")

        monkeypatch.setattr(os, "link", lost)
        store.put("x", b"mine")
        assert store.get("x") == b"mine"
        with pytest.raises(FileExistsError):
            store.put("x", b"other")

    def test_file_system_without_links(self, store, monkeypatch):
        """On such a mount every put failed, or fell back to a rename that overwrites."""

        def refused(*args, **kwargs):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
        self.test_one_winner_among_threads(store)
        assert [entry.name for entry in store.list()] == sorted(f"race/{number}" for number in range(30))
        store.delete("race/0")
        store.put("race/0", b"again")
        assert store.get("race/0") == b"again"

    def test_writer_died_on_a_file_system_without_links(self, store, monkeypatch, root):
        """A name that is taken for ever and never there made the next attempt loop; it must say which file to delete."""
        store.put("other", b"")
        (Path("/", root.key) / ".distil-x.claim").touch()
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "no links")))
        with pytest.raises(OSError, match=r"delete the \*\.claim file"):
            create(store, "x", b"mine")

    def test_killed_writer_leaves_nothing_to_see(self, store, root):
        """The temporary file of a killed attempt was listed as an object."""
        store.put("x", b"")
        (Path("/", root.key) / ".distil-0123.tmp").write_bytes(b"half")
        assert [entry.name for entry in store.list()] == ["x"]

    def test_sweeping_leaves_what_is_young_or_an_object(self, store, root):
        """Half a part of 256 MiB stayed for ever, as no listing shows it; or the one that is being written was taken away."""
        folder, old = Path("/", root.key), dt.datetime(2020, 1, 1, tzinfo=dt.UTC).timestamp()
        store.put("data/x", b"object")
        files = {name: folder / "data" / name for name in (".distil-old.tmp", ".distil-new.tmp", ".distil-x.claim", "y.tmp")}
        for path in files.values():
            path.write_bytes(b"half")
        for path in (*files.values(), folder / "data" / "x"):
            if path.name != ".distil-new.tmp":
                os.utime(path, (old, old))
        before = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        assert store.sweep(before, dry_run=True) == (1, 4)
        assert files[".distil-old.tmp"].exists()
        assert store.sweep(before) == (1, 4)
        assert store.sweep(before) == (0, 0)
        left = {path.name for path in (folder / "data").iterdir()}
        assert left == {"x", ".distil-new.tmp", ".distil-x.claim", "y.tmp"}

    def test_failed_write_leaves_nothing(self, store, root, monkeypatch):
        """A full disk, found when the file is synced, left a cut object or a stray file."""
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                store.put("x", b"content")
        assert list(Path("/", root.key).iterdir()) == []
        store.put("x", b"content")

    def test_readable_by_others(self, store, root):
        """A temporary file made for its owner only stayed so; downstream runs as another user."""
        store.put("x", b"")
        mask = os.umask(0o022)
        os.umask(mask)
        assert (Path("/", root.key) / "x").stat().st_mode & 0o777 == 0o666 & ~mask

    def test_links_to_folders_are_not_followed(self, store, root):
        """A link to the folder above made the listing endless."""
        store.put("x", b"")
        (Path("/", root.key) / "loop").symlink_to(Path("/", root.key))
        assert [entry.name for entry in store.list()] == ["x"]


def test_contract_of_file_store_type():
    """`open_store` chooses by scheme."""
    assert isinstance(open_store(URI.parse("/x")), FileStore)
