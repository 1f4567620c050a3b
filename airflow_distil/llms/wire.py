"""HTTP/1.1 as a client of a model needs it: kept connections, and on each one request and its reply at a time.

It is here because the client's CPU is what limits an endpoint that answers fast, or one of a thousand requests in flight. One
request through the OpenAI SDK costs some 700 µs of it, through aiohttp alone 75 to 150, through this 20 to 25, when reading,
prompts, hashing, the log and Parquet together cost about 80 (`tests/benchmarks`). What to send is still the SDK's to say, the
connections are asyncio's, and replies are parsed by httptools, which is Node's parser. No redirects, no cookies, no HTTP/2.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from aiohappyeyeballs import start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

__all__ = ["BadReply", "Reply", "Target", "TooLong", "Unusable", "Wire"]

# uvicorn (vLLM, llama-cpp-python, TGI's proxies) closes idle connections after 5 s; a request that is sent into the closing one
# is lost. Ours go first.
KEEP = 4.0
# A host that does not answer the handshake is down; the rest of the timeout is for the model to think.
CONNECT_TIMEOUT = 30.0
# The second address of a host (often IPv4 after IPv6) is tried when the first has not answered for this long: RFC 8305.
HAPPY_EYEBALLS = 0.25
# Bytes of a reply. No answer is a tenth of it, and what is longer than a segment of the log could not be kept.
MOST = 32 * 2**20
# Seconds. A host may move to other addresses, and they say so for minutes.
RESOLVE_EVERY = 10.0
# What belongs to a connection, or depends on the body: said here and not by whoever drafts a request.
OURS = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding", b"accept-encoding", b"expect"))


class BadReply(ConnectionError):
    """What came back was not HTTP, or not all of it."""


class Unusable(ConnectionError):
    """What is on the way to the model will not let any request through, or any reply."""


class TooLong(ConnectionError):
    """The reply is longer than anybody could keep."""


@dataclass(slots=True)
class Reply:
    """What came back. It may repeat the key, so it is not shown.

    :param raw: headers as they came, names in lower case.
    :param content: the body, unpacked.
    """

    status: int
    raw: dict[bytes, bytes] = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """All headers as text. A provider sends 30 with each reply, and most replies are read without one."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw.items()}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy on the way.

    :param authorization: the header that it wants, if any; it holds a password.
    """

    host: str
    port: int
    authorization: list[bytes] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and all that they have in common.

    :param head: their beginning, up to the length of the body. It holds the key, so it is not shown.
    """

    scheme: str
    host: str
    port: int
    head: bytes = field(repr=False)
    proxy: Proxy | None = None

    @classmethod
    def of(cls, method: str, url: str, headers: list[tuple[bytes, bytes]]) -> Target:
        """Return the target of requests that are alike but for their bodies. Proxies are those of the environment.

        :raises ValueError: if the URL, a header or the proxy cannot be used. It quotes none of them.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _port(parts)
        proxy = _proxy(parts.scheme, host, port)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [b"Host: " + parts.netloc.encode("ascii"), b"Accept-Encoding: identity"]
        if proxy is not None and parts.scheme == "http":
            path = f"{parts.scheme}://{parts.netloc}{path}"
            lines += proxy.authorization
        lines += [name + b": " + value for name, value in headers if name.lower() not in OURS]
        if any(set(line) & set(b"\r\n\0") for line in lines):
            raise ValueError("a header holds a line break, which no header may")
        first = f"{method} {path} HTTP/1.1".encode("ascii")
        return cls(parts.scheme, host, port, b"\r\n".join([first, *lines, b"Content-Length: "]), proxy)

    @property
    def origin(self) -> tuple[Any, ...]:
        """What connections are kept for."""
        return self.scheme, self.host, self.port, self.proxy and (self.proxy.host, self.proxy.port)


class Wire:
    """Connections of one event loop, opened as they are needed, and kept for a while.

    :param trust: makes the TLS settings, when the first connection needs them.
    """

    def __init__(self, trust: Callable[[], ssl.SSLContext]) -> None:
        self._trust = trust
        self._context: ssl.SSLContext | None = None
        self._free: dict[tuple[Any, ...], deque[_Connection]] = {}
        self._addresses: dict[tuple[str, int], tuple[asyncio.Future[Any], float]] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def runs_here(self) -> bool:
        """Whether its event loop is the one that runs in this thread. Of two nested ones there, the outer counts as well."""
        # Not `get_running_loop() is`: before Python 3.12 that is a system call, for each request.
        return self._loop.is_running() and self._thread == threading.get_ident()

    async def send(self, target: Target, body: bytes, within: float) -> Reply:
        """Send a request and wait for its reply.

        :param within: seconds, from now to the last byte.
        :raises TimeoutError: if it takes longer.
        :raises BadReply: if the reply breaks off or is not HTTP.
        :raises OSError: if there is no connection, or it is lost; `ssl.SSLError` if nobody trusts the other side.
        """
        origin = target.origin
        free = self._free.get(origin)
        if free is None:
            free = self._free[origin] = deque()
        connection = self._kept(free)
        if connection is None:
            began = self._loop.time()
            try:
                async with asyncio.timeout(min(CONNECT_TIMEOUT, within)):
                    connection = await self._connect(target)
            except TimeoutError:
                waited = f"{min(CONNECT_TIMEOUT, within):g} s"
                raise ConnectionError(f"there was no connection to {target.host}:{target.port} within {waited}") from None
            if not connection.usable:
                raise BadReply("the connection was closed at once")
            within -= self._loop.time() - began
        try:
            reply = await connection.ask(target.head, body, within)
        except BaseException:
            connection.close()
            raise
        if connection.usable:
            connection.since = self._loop.time()
            free.append(connection)
        return reply

    async def aclose(self) -> None:
        """Close the connections that nobody uses."""
        for free in self._free.values():
            for connection in free:
                connection.close()
        self._free.clear()
        # asyncio frees a socket in the next turn of the loop, and this may be its last.
        await asyncio.sleep(0)

    def _kept(self, free: deque[_Connection]) -> _Connection | None:
        """Return the connection that was used last, and close those that were used too long ago."""
        latest = self._loop.time() - KEEP
        while free and free[0].since < latest:
            free.popleft().close()
        while free:
            connection = free.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, target: Target) -> _Connection:
        tls = self._tls() if target.scheme == "https" else None
        if target.proxy is None:
            opened = await self._open(target.host, target.port)
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self._loop), sock=opened, ssl=tls, server_hostname=target.host if tls else None
            )
            return connection
        proxy = target.proxy
        connection = _Connection(self._loop)
        opened = await self._open(proxy.host, proxy.port)
        if tls is None:
            await self._loop.create_connection(lambda: connection, sock=opened)
            return connection
        through, tunnel = await self._loop.create_connection(lambda: _Tunnel(self._loop), sock=opened)
        try:
            place = f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"
            lines = [f"CONNECT {place} HTTP/1.1\r\nHost: {place}".encode("ascii"), *proxy.authorization]
            through.write(b"\r\n".join(lines) + b"\r\n\r\n")
            said = await tunnel.answer
            if said.split(b" ", 2)[1:2] != [b"200"]:
                kind = Unusable if said.split(b" ", 2)[1:2] in ([b"403"], [b"407"]) else OSError
                raise kind(f"the proxy {proxy.host} answered {said.splitlines()[0][:80]!r} to CONNECT")
            transport = await self._loop.start_tls(through, connection, tls, server_hostname=target.host)
        except BaseException:
            through.abort()
            raise
        connection.connection_made(cast("asyncio.BaseTransport", transport))
        return connection

    async def _open(self, host: str, port: int) -> socket.socket:
        """Connect to the first address of a host that answers."""
        known, since = self._addresses.get((host, port), (None, 0.0))
        if known is None or since < self._loop.time() - RESOLVE_EVERY:
            # Shared at once by all who ask meanwhile: a thousand connections need no thousand look-ups.
            known = asyncio.ensure_future(self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            known.add_done_callback(lambda done: done.cancelled() or done.exception())  # all who asked may have gone
            self._addresses[host, port] = known, self._loop.time()
        try:
            found = await asyncio.shield(known)
        except OSError:
            if self._addresses.get((host, port), (None,))[0] is known:
                del self._addresses[host, port]
            raise
        return await start_connection(found, happy_eyeballs_delay=HAPPY_EYEBALLS, interleave=1, loop=self._loop)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self._trust()
        return self._context


class _Connection(asyncio.Protocol):
    """A connection: at most one request is on it at a time."""

    # One of a thousand in flight: no dict for each.
    __slots__ = (
        "_body",
        "_ends",
        "_expiry",
        "_headers",
        "_loop",
        "_lost",
        "_parser",
        "_reply",
        "_size",
        "_told",
        "_transport",
        "since",
        "usable",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = HttpResponseParser(self)
        self._reply: asyncio.Future[Reply] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._ends = self._told = self._lost = False
        self._expiry: asyncio.TimerHandle | None = None
        self.since = 0.0
        self.usable = False

    def ask(self, head: bytes, body: bytes, within: float) -> asyncio.Future[Reply]:
        """Send a request; the future is its reply."""
        self._reply = reply = self._loop.create_future()
        self._forget()
        self._expiry = self._loop.call_later(within, self._fail, TimeoutError())
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        return reply

    def close(self) -> None:
        """Close it at once."""
        self.usable = False
        self._transport.abort()
        if self._expiry is not None:
            self._expiry.cancel()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.usable = not self._lost  # behind a proxy, it may have been before this is told

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self.close()  # nobody asked: what follows is no reply to the next request
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(BadReply(f"the reply was not HTTP ({type(error).__name__})"))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable, self._lost = False, True
        if self._reply is None:
            return
        if exc is None and self._ends:
            # Nothing said how long the body is: it ends here.
            self.on_message_complete()
        else:
            lost = BadReply("the connection was closed before the reply was complete")
            self._fail(exc if isinstance(exc, OSError) else lost)

    # What httptools calls

    def on_message_begin(self) -> None:
        if self._reply is None:
            self.close()  # the beginning of another reply, which nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._told:  # else it stands behind the body, where it changes nothing
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._told = True
        self._ends = b"content-length" not in self._headers and b"transfer-encoding" not in self._headers

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MOST:
            self._fail(TooLong(f"the reply is longer than {MOST >> 20} MiB"))
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._forget()  # "100 Continue" and its like: the reply follows
            return
        reply, self._reply = self._reply, None
        if self._expiry is not None:
            self._expiry.cancel()
        if not self._parser.should_keep_alive():
            self.close()
        if reply is None:
            self.close()  # a second reply to one request
        elif not reply.done():
            try:
                reply.set_result(Reply(status, self._headers, self._unpacked()))
            except OSError as error:
                reply.set_exception(error)

    def _forget(self) -> None:
        self._headers, self._body, self._size, self._ends, self._told = {}, [], 0, False, False

    def _unpacked(self) -> bytes:
        content = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        # We do not ask for it; some gateways do it to all replies.
        coding = self._headers.get(b"content-encoding", b"identity").lower()
        if coding == b"identity" or not content:
            return content
        if coding not in (b"gzip", b"x-gzip", b"deflate"):
            raise Unusable(f"the reply is packed as {coding.decode('latin-1')!r}, though none was asked for")
        for bits in (47, -15):  # with gzip's or zlib's head; some send deflate without any
            unpacking = zlib.decompressobj(bits)
            try:
                unpacked = unpacking.decompress(content, MOST + 1)
            except zlib.error:
                continue
            if len(unpacked) > MOST:
                raise TooLong(f"the reply unpacks to more than {MOST >> 20} MiB")
            if unpacking.eof:
                return unpacked
        raise BadReply("the body cannot be unpacked")

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        self.close()
        if reply is not None and not reply.done():
            reply.set_exception(error)


class _Tunnel(asyncio.Protocol):
    """A connection to a proxy, until the proxy has answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self._said = b""

    def data_received(self, data: bytes) -> None:
        self._said += data
        if b"\r\n\r\n" in self._said and not self.answer.done():
            self.answer.set_result(self._said)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc or ConnectionError("the proxy closed the connection"))


def _port(parts: SplitResult) -> int:
    return 443 if parts.scheme == "https" else 80


def _proxy(scheme: str, host: str, port: int) -> Proxy | None:
    proxies = getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or proxy_bypass(f"{host}:{port}"):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme == "http" and parts.hostname:
            return Proxy(parts.hostname, parts.port or 80, _authorization(parts))
    except ValueError:
        pass  # what it says quotes the password
    raise ValueError("the proxy that the environment names for it must be http://host:port")


def _authorization(proxy: SplitResult) -> list[bytes]:
    if proxy.username is None:
        return []
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return [b"Proxy-Authorization: Basic " + base64.b64encode(user.encode())]
