"""A function as an HTTP server, for what no emulator ever says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["Reply", "Request", "serving"]


class Request(BaseHTTPRequestHandler):
    """A request, with its body."""

    protocol_version = "HTTP/1.1"
    body = b""

    def log_message(self, *args):
        pass


class Reply(NamedTuple):
    """A reply; status 0 closes the connection instead."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


@contextmanager
def serving(reply: Callable[[Request], Reply]) -> Iterator[str]:
    """Answer requests by a function."""

    class Handler(Request):
        def answer(self):
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body, more = reply(self)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            headers = {"Content-Length": str(len(body)), "ETag": '"e"', "Last-Modified": formatdate(usegmt=True), **more}
            for header in headers.items():
                self.send_header(*header)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_DELETE = answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
