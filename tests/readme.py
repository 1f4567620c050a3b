"""What is written into README.md by code: a text between two marks."""

from __future__ import annotations

from pathlib import Path

__all__ = ["README", "put"]

README = Path(__file__).resolve().parents[1] / "README.md"


def put(text: str, begin: str, end: str, readme: Path = README) -> None:
    """Write a text between its marks, in place of what stands there."""
    before, found, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"README.md has no {begin.strip()} … {end.strip()}.")
    readme.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")
