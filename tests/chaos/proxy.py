"""A proxy between attempts and a store, which loses, delays, cuts and refuses what a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

import aiohttp
from aiohttp import web

# Of the body of an upload, what may hold its name.
HEAD = 2000
# Those of one connection only, and those that the server writes itself.
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}


@dataclass(frozen=True)
class Asked:
    """A request to the store.

    :param kind: `write`, `list`, `read` or `delete`.
    :param name: path, query and the beginning of the body: the object's name is somewhere in it.
    """

    kind: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens to a request.

    :param status: reply with this instead of asking the store.
    :param drop: close the connection instead of replying: `before` the store is asked, or `after` it has done as told.
    :param delay: seconds to wait before.
    :param cut: share of the reply's body that is sent before the connection closes.
    """

    status: int = 0
    drop: str = ""
    delay: float = 0.0
    cut: float = 1.0


@dataclass(frozen=True, eq=False)
class Held:
    """An upload that waits: it has arrived, and the wait is over."""

    writes: str
    after: bool
    arrived: threading.Event = field(default_factory=threading.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """A server in a thread; `trouble` says of each request what happens to it, None for nothing.

    :param upstream: URL of the store.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._ready = threading.Event()
        self._url = ""
        self.trouble: Callable[[Asked], Trouble | None] = lambda asked: None
        self.struck = 0
        self._held: Held | None = None

    def start(self) -> str:
        """Listen, and return the URL."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="Proxy", daemon=True)
        self._thread.start()
        self._ready.wait()
        return self._url

    def stop(self) -> None:
        """Free the port."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @contextmanager
    def held(self, writes: str, *, after: bool) -> Iterator[threading.Event]:
        """Hold the next upload of an object whose name has `writes` in it; after, the store has done it, and the reply is held.

        Yields an event: it has arrived. What is held is dropped in the end.
        """
        held = self._held = Held(writes, after)
        try:
            yield held.arrived
        finally:
            self._held = None
            self._loop.call_soon_threadsafe(held.over.set)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as self._session:
            runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.01)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        asked = _asked(request, body)
        held = self._held if self._held and asked.kind == "write" and self._held.writes in asked.name else None
        if held and not held.after:
            return await self._hold(request, held)
        trouble = self.trouble(asked) or Trouble()
        self.struck += trouble != Trouble()
        await asyncio.sleep(trouble.delay)
        if trouble.status:
            return web.Response(status=trouble.status, text="The store has trouble.")
        if trouble.drop == "before":
            return _dropped(request)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP]
        # As it came, or the escapes in it would be others.
        url = aiohttp.client.URL(self._upstream + request.raw_path, encoded=True)
        async with self._session.request(request.method, url, data=body, headers=headers, allow_redirects=False) as reply:
            content = await reply.read()
        if held:
            return await self._hold(request, held)
        if trouble.drop == "after":
            return _dropped(request)
        kept = [(name, value) for name, value in reply.headers.items() if name.lower() not in HOP]
        response = web.StreamResponse(status=reply.status, headers=aiohttp.multipart.CIMultiDict(kept))
        if request.method == "HEAD":
            response.headers["Content-Length"] = reply.headers.get("Content-Length", "0")
            await response.prepare(request)
            return response
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(content[: int(len(content) * trouble.cut)])
        if trouble.cut < 1 and content:
            return _dropped(request, response)
        await response.write_eof()
        return response

    async def _hold(self, request: web.BaseRequest, held: Held) -> web.StreamResponse:
        held.arrived.set()
        await held.over.wait()
        return _dropped(request)


def _asked(request: web.BaseRequest, body: bytes) -> Asked:
    name = unquote(request.raw_path) + " " + body[:HEAD].decode("latin-1")
    if request.method in {"PUT", "POST"}:
        return Asked("write", name)
    if request.method == "DELETE":
        return Asked("delete", name)
    return Asked("list" if "prefix=" in request.raw_path else "read", name)


def _dropped(request: web.BaseRequest, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()
    return response or web.Response()
