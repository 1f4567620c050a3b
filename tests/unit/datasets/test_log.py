"""Facts in their two forms: scratch frames and segments. Whatever tears, what stands before it is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from pyarrow import ipc

from airflow_distil.datasets.log import Fact, Kind, Scratch, decode_segment, encode_segment

key = st.binary(min_size=16, max_size=16)
small = st.integers(0, 2**32 - 1)
large = st.integers(0, 2**64 - 1)
facts = st.lists(
    st.builds(
        Fact,
        key=key,
        nonce=st.binary(min_size=8, max_size=8),
        number=large,
        claim=small,
        ask=key,
        work=key,
        ordinal=large,
        sample=small,
        step=small,
        kind=st.sampled_from(Kind),
        body=st.binary(max_size=300),
    ),
    min_size=1,
    max_size=8,
)


def fact(number: int, body: bytes = b"{}") -> Fact:
    return Fact(number.to_bytes(16, "big"), b"n" * 8, number, 1, b"a" * 16, b"w" * 16, number, 0, 0, Kind.ANSWER, body)


class TestScratch:
    @given(batches=st.lists(facts, min_size=1, max_size=4))
    @settings(max_examples=40, deadline=None)
    def test_what_is_written_is_read(self, tmp_path_factory, batches):
        """A field that is lost in packing makes a resumed run ask again, or pay twice."""
        path = tmp_path_factory.mktemp("scratch") / "facts"
        scratch = Scratch(path)
        offsets = [offset for batch in batches for offset in scratch.append(batch)]
        written = [fact for batch in batches for fact in batch]
        assert [scratch.at(offset) for offset in offsets] == written
        assert list(scratch.read()) == list(zip(offsets, written, strict=True))
        scratch.close()
        again = Scratch(path)
        assert [fact for _, fact in again.read()] == written
        assert again.size == path.stat().st_size
        again.remove()
        assert not path.exists()

    def test_torn_at_every_byte_the_frames_before_are_read(self, tmp_path):
        """A kill, or a lost power supply, can end the file anywhere; half a fact must neither be read nor hide the others."""
        path = tmp_path / "facts"
        scratch = Scratch(path)
        offsets = scratch.append([fact(number, b"x" * number) for number in range(4)])
        scratch.close()
        whole = path.read_bytes()
        for length in range(len(whole) + 1):
            path.write_bytes(whole[:length])
            torn = Scratch(path)
            expected = sum(end <= length for end in [*offsets[1:], len(whole)])
            assert len(list(torn.read())) == expected, length
            torn.close()

    def test_flipped_at_every_byte_nothing_wrong_is_read(self, tmp_path):
        """A damaged answer that is believed is published."""
        path = tmp_path / "facts"
        scratch = Scratch(path)
        written = [fact(number, b"body") for number in range(3)]
        scratch.append(written)
        scratch.close()
        whole = bytearray(path.read_bytes())
        for position in range(len(whole)):
            damaged = whole.copy()
            damaged[position] ^= 0xFF
            path.write_bytes(damaged)
            scratch = Scratch(path)
            assert [fact for _, fact in scratch.read()] == written[: position // (len(whole) // 3)]
            scratch.close()

    def test_tail_that_claims_gigabytes_is_torn(self, tmp_path, monkeypatch):
        """The length is garbage too: reading as much as it says would ask for 4 GB of memory."""
        path = tmp_path / "facts"
        scratch = Scratch(path)
        scratch.append([fact(1)])
        scratch.close()
        with path.open("ab") as file:
            file.write(b"\xff" * 64)
        scratch = Scratch(path)
        asked = []
        pread = os.pread
        monkeypatch.setattr(os, "pread", lambda fd, length, at: asked.append(length) or pread(fd, length, at))
        assert len(list(scratch.read())) == 1
        assert max(asked) <= 2**20
        scratch.close()

    def test_range_ends_where_it_is_told(self, tmp_path):
        """The uploading thread reads while the loop appends; what comes after `end` belongs to the next segment."""
        scratch = Scratch(tmp_path / "facts")
        offsets = scratch.append([fact(number) for number in range(5)])
        assert [found.number for _, found in scratch.read(offsets[1], offsets[3])] == [1, 2]
        scratch.close()

    def test_append_of_nothing_is_nothing(self, tmp_path):
        """`n` answers of which none was served."""
        scratch = Scratch(tmp_path / "facts")
        assert scratch.append([]) == []
        assert scratch.size == 0
        scratch.close()

    def test_frame_too_short_for_a_fact_ends_it(self, tmp_path):
        """An error at each attempt on this host; what stands before it is paid for."""
        scratch = Scratch(tmp_path / "facts")
        scratch.append([fact(1)])
        scratch._frames.append([b"short"])
        assert [found.number for _, found in scratch.read()] == [1]
        scratch.close()

    def test_full_disk_keeps_what_was_written_before(self, tmp_path):
        """A short write leaves half a frame; what is appended after it could never be read again."""
        # The limit is the process's own, so it is set in another one.
        program = """
            import resource, signal, sys
            from pathlib import Path
            from tests.unit.datasets.test_log import fact
            from airflow_distil.datasets.log import Scratch
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            scratch = Scratch(Path(sys.argv[1]))
            scratch.append([fact(1)])
            whole = scratch.size
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * whole + 10, resource.RLIM_INFINITY))
            errors = 0
            try:
                scratch.append([fact(2, b"x" * 500)])
            except OSError:
                errors += 1
            assert scratch.size == Path(sys.argv[1]).stat().st_size == whole
            scratch.append([fact(3)])
            print(errors, [found.number for _, found in scratch.read()])
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "facts")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout.strip(), done.returncode) == ("1 [1, 3]", 0), done.stderr


class TestSegment:
    @given(
        facts=facts, covers=st.lists(st.from_regex(r"_distil/log/[0-9a-f]{1,9}/[0-9]{6}\.arrow", fullmatch=True), max_size=3)
    )
    @settings(max_examples=40, deadline=None)
    def test_what_is_written_is_read(self, facts, covers):
        """A compaction that lost an ask or an id would bring void failures back, or count an answer twice."""
        segment = decode_segment(encode_segment(facts, covers or None))
        assert (list(segment.facts), segment.covers) == (facts, covers)

    def test_same_facts_are_the_same_bytes(self):
        """After a lost reply the store compares what is there with what was meant."""
        assert encode_segment([fact(1), fact(2)]) == encode_segment([fact(1), fact(2)])

    def test_torn_or_damaged_it_is_refused(self):
        """Half of a segment may decode to some facts with wrong bodies."""
        whole = encode_segment([fact(number) for number in range(3)])
        for length in range(0, len(whole), 7):
            with pytest.raises(ValueError, match="differs"):
                decode_segment(whole[:length])
        for position in range(0, len(whole), 7):
            damaged = bytearray(whole)
            damaged[position] ^= 1
            with pytest.raises(ValueError, match="differs"):
                decode_segment(bytes(damaged))

    def test_it_opens_in_any_arrow_tool(self):
        """People look into the log with what they have."""
        assert ipc.open_stream(encode_segment([fact(7, json.dumps({"text": "hi"}).encode())])).read_all()[
            "number"
        ].to_pylist() == [7]
