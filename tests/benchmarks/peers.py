"""The peers, each in an environment of its own, which is made when it is first asked for: `.venv-peers/<name>`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.runs import CLIENTS, Client

__all__ = ["PEERS", "installed"]

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = PROJECT / ".venv-peers"
# Name → its script, and the package that it is.
PEERS = {
    "curator": ("ask_curator.py", "bespokelabs-curator"),
    "Data Designer": ("ask_data_designer.py", "data-designer"),
    "distilabel": ("ask_distilabel.py", "distilabel"),
}


def installed(names: list[str] | None = None) -> list[Client]:
    """Return the peers (by default all), installed at the versions of `clients/<name>.txt`."""
    return [Client(name, *PEERS[name], python=str(_environment(name)), alone=False) for name in names or PEERS]


def _environment(name: str) -> Path:
    name = name.lower().replace(" ", "-")
    folder, pinned = ENVIRONMENTS / name, CLIENTS / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if not stamp.exists() or stamp.read_text() != pinned.read_text():
        print(f"Installing {name} into {folder.relative_to(PROJECT)} ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        # Beside the interpreter, which itself may be a link to one elsewhere.
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r", pinned], check=True, env=_with_index())
        stamp.write_text(pinned.read_text())
    return python


def _with_index() -> dict[str, str]:
    """Return this environment, with the index that is set up for pip: uv does not read pip's configuration."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], check=False, capture_output=True, text=True
    )
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or asked.stdout.strip()
    return {**os.environ, **({"UV_DEFAULT_INDEX": index} if index else {})}
