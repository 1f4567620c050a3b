"""Where a secret could come out: files, and what a tool that reports errors would send."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pyarrow.parquet as pq

from airflow_distil.datasets.log import decode_segment


def everything_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and content of all files below a folder, with compression and columns undone."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        data = path.read_bytes()
        yield str(path), data.decode("utf-8", "replace")
        if path.suffix == ".parquet":
            yield str(path), str(pq.read_table(path).to_pylist()) + str(pq.read_metadata(path).metadata)
        elif path.suffix == ".arrow":
            for fact in decode_segment(data).facts:
                yield str(path), fact.body.decode()


def forms_of(secret: str) -> set[str]:
    """Return a secret as it could be written: as such, in a URL, and in base64, wherever in a longer text it stands."""
    shifted = [base64.b64encode(b"\0" * before + secret.encode()).decode() for before in range(3)]
    # The characters at both ends depend on the neighbours.
    middles = {text.rstrip("=")[4:-2] for text in shifted}
    return {secret, quote(secret, safe=""), quote_plus(secret), *middles}


def frames_of(error: BaseException) -> str:
    """Return the messages of an error and of all behind it, and the variables of the frames that are not a test's own."""
    told: list[str] = []
    behind: BaseException | None = error
    while behind is not None:
        told.append(f"{type(behind).__name__}: {behind}")
        for frame in traceback.StackSummary.extract(traceback.walk_tb(behind.__traceback__), capture_locals=True):
            if "/tests/" not in frame.filename:
                told.append(f"{frame.filename}:{frame.lineno} {frame.name} {frame.locals}")
        behind = behind.__cause__ or behind.__context__
    return "\n".join(told)
