"""The wire against servers that say exactly what a test wants, byte by byte. `tests/contracts/llms` has the rest."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_distil.llms import wire
from airflow_distil.llms.wire import BadReply, Reply, Target, TooLong, Unusable, Wire

T = TypeVar("T")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
Script = Callable[[bytes], list[bytes | None]]
"""From a request to what is sent in turn; None closes the connection."""


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


LOOP: list[Callable[[], asyncio.AbstractEventLoop]] = []


@pytest.fixture(autouse=True, params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request) -> None:
    """Every test on both: a job takes uvloop where it is installed."""
    LOOP[:] = [request.param]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=LOOP[0]) as runner:
        return runner.run(coroutine)


class Server:
    """A server of scripted replies.

    :param script: what it says.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b": 0")
                body = await reader.readexactly(int(length.partition(b":")[2]))
                self.requests.append(head + body)
                for said in self.script(head + body):
                    if said is None:
                        return
                    writer.write(said)
                    await writer.drain()
                    await asyncio.sleep(0)  # so that it comes in pieces
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def listening(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, int]]:
    server = Server(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server, listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for writer in server.writers:
            writer.transport.abort()
        await listener.wait_closed()
        await asyncio.sleep(0)


def target(port: int, scheme: str = "http", method: str = "POST", host: str = "127.0.0.1") -> Target:
    return Target.of(method, f"{scheme}://{host}:{port}/v1/chat?x=1", [(b"Authorization", b"Bearer sk-key")])


def ask(*said: bytes | None, times: int = 1, within: float = 10.0) -> list[Reply]:
    """Ask a server that always says the same."""

    async def asking() -> list[Reply]:
        async with listening(lambda _: list(said)) as (_, port):
            line = Wire(ssl.create_default_context)
            try:
                return [await line.send(target(port), b"{}", within) for _ in range(times)]
            finally:
                await line.aclose()

    return run(asking())


async def until(true: Callable[[], object]) -> None:
    """Let the loop turn until something is true."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - asyncio has no event for it
            await asyncio.sleep(0)


def test_what_is_sent():
    """A wrong length, a missing Host or a second one: the server waits for more, or refuses."""

    async def asking() -> Server:
        async with listening(lambda _: [OK]) as (server, port):
            line = Wire(ssl.create_default_context)
            await line.send(target(port), "é".encode(), 10)
            await line.send(target(port, method="GET"), b"", 10)
            await line.aclose()
            return server

    server = run(asking())
    lines = server.requests[0].split(b"\r\n")
    assert lines[0] == b"POST /v1/chat?x=1 HTTP/1.1"
    names = sorted(line.split(b":")[0] for line in lines[1:5])
    assert names == [b"Accept-Encoding", b"Authorization", b"Content-Length", b"Host"]
    assert server.requests[0].endswith(b"Content-Length: 2\r\n\r\n\xc3\xa9")
    assert server.requests[1].startswith(b"GET /v1/chat?x=1 HTTP/1.1\r\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 120)), chunks=st.lists(st.binary(min_size=1, max_size=9), max_size=6))
def test_a_reply_in_any_pieces(cuts, chunks):
    """A reply was taken to come in one piece, and its parts as they were sent."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Request-Id: 7\r\n\r\n" + body
    places = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(places)]

    async def asking() -> list[Reply]:
        line = wire._Connection(asyncio.get_running_loop())
        line.connection_made(Transport())
        replies = []
        for _ in range(2):
            asked = line.ask(b"POST / HTTP/1.1\r\nContent-Length: ", b"", 10)
            for piece in pieces:
                line.data_received(piece)
            replies.append(await asked)
        return replies

    for reply in run(asking()):
        assert (reply.status, reply.content, reply.headers["x-request-id"]) == (200, b"".join(chunks), "7")


class Transport(asyncio.Transport):
    """Takes everything."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


def test_an_upgrade_and_a_reply_that_nobody_asked_for():
    """`101` escaped as a bug of ours and ended the run; the beginning of a second reply became the next request's answer."""
    with pytest.raises(BadReply):
        ask(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")

    async def asking() -> tuple[list[bytes], int]:
        replies = iter([[OK + b"HTTP/1.1 200 OK\r\nContent-"], [b"Length: 4\r\n\r\nEVIL"]])
        async with listening(lambda _: next(replies)) as (server, port):
            line = Wire(ssl.create_default_context)
            contents = [(await line.send(target(port), b"", 10)).content]
            server.script = lambda _: [OK]
            contents.append((await line.send(target(port), b"", 10)).content)
            await line.aclose()
            return contents, server.connections

    assert run(asking()) == ([b"hi", b"hi"], 2)


def test_a_reply_that_is_too_long(monkeypatch):
    """Three hundred kilobytes of gzip filled the worker's memory."""
    monkeypatch.setattr(wire, "MOST", 1000)
    bomb = gzip.compress(bytes(2000))
    with pytest.raises(TooLong):
        ask(b"HTTP/1.1 200 OK\r\nContent-Encoding: x-gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)
    with pytest.raises(TooLong):
        ask(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001))


def test_a_coding_that_nobody_asked_for():
    """A complete answer in brotli was 'not JSON', and paid for again at each try."""
    with pytest.raises(Unusable, match="br"):
        ask(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nhi")


def test_trailers_change_nothing():
    """What stood behind the body overwrote what had been said before it."""
    [reply] = ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n2\r\nhi\r\n0\r\nX-A: 2\r\n\r\n")
    assert (reply.content, reply.headers["x-a"]) == (b"hi", "1")


def test_a_body_that_ends_with_the_connection():
    """Old servers name no length: the reply was waited for until the timeout."""
    [reply] = ask(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{", b"}", None)
    assert reply.content == b"{}"


def test_a_reply_after_an_interim_one():
    """`100 Continue` and `103 Early Hints` were taken for the reply, and the reply for the next one's."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    replies = ask(b"HTTP/1.1 100 Continue\r\n\r\n", hints + OK, times=2)
    assert [(reply.status, reply.content) for reply in replies] == [(200, b"hi")] * 2


def test_a_packed_reply():
    """Gateways that pack whatever is asked for made every reply 'not JSON'."""
    packed = gzip.compress(b'{"a": 1}')
    [reply] = ask(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    assert reply.content == b'{"a": 1}'
    with pytest.raises(BadReply):
        ask(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi")


@pytest.mark.parametrize(
    "said",
    [
        [None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", None],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi", None],
        [b"HTTP/1.1 200 OK\r\nContent-", None],
        [b"220 smtp.example ESMTP\r\n", None],
    ],
)
def test_what_is_no_reply(said):
    """Half an answer was taken for a whole one, or waited for until the timeout."""
    with pytest.raises(OSError, match="reply"):
        ask(*said)


def test_a_server_that_never_answers():
    """A server that keeps a connection open and says nothing held a place in flight for ever."""
    with pytest.raises(TimeoutError):
        ask(within=0.05)


def test_connections_are_kept_until_they_are_old(monkeypatch):
    """A new connection for each request doubles the latency; one that the server is about to close loses the request."""

    async def asking() -> list[int]:
        async with listening(lambda _: [OK]) as (server, port):
            line = Wire(ssl.create_default_context)
            seen = []
            for keep in (60.0, 60.0, -1.0):
                monkeypatch.setattr(wire, "KEEP", keep)
                await line.send(target(port), b"", 10)
                seen.append(server.connections)
            await line.aclose()
            return seen

    assert run(asking()) == [1, 1, 2]


@pytest.mark.parametrize("last", [[OK, None], [OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")], [OK + OK]])
def test_a_connection_that_is_no_good_any_more(last):
    """The next request went into a closed connection, or got a reply that nobody had asked for."""

    async def asking() -> tuple[list[bytes], int]:
        async with listening(lambda _: last) as (server, port):
            line = Wire(ssl.create_default_context)
            contents = []
            for _ in range(3):
                contents.append((await line.send(target(port), b"", 10)).content)
                if None in last:
                    await until(lambda: not any(each.usable for free in line._free.values() for each in free))
            await line.aclose()
            return contents, server.connections

    assert run(asking()) == ([b"hi"] * 3, 3)


def test_one_who_gives_up_leaves_nothing_behind():
    """The reply to a cancelled request was given to the next one on its connection."""

    async def asking() -> tuple[bytes, int]:
        replies = iter([[b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"], [OK]])
        async with listening(lambda _: next(replies)) as (server, port):
            line = Wire(ssl.create_default_context)
            first = asyncio.ensure_future(line.send(target(port), b"", 10))
            await until(lambda: server.requests)
            first.cancel()
            content = (await line.send(target(port), b"", 10)).content
            await line.aclose()
            return content, server.connections

    assert run(asking()) == (b"hi", 2)


@pytest.mark.parametrize("value", [b"a\r\nX-Admin: 1", b"a\nb", b"a\0"])
def test_no_header_brings_another(value):
    """A key with a line break wrote headers of its own."""
    with pytest.raises(ValueError, match="line break"):
        Target.of("POST", "http://127.0.0.1/v1", [(b"X-Key", value)])


def test_the_head_is_not_shown():
    """Tools that report errors show the variables of each frame, and the key is in the head."""
    assert "sk-key" not in repr(target(1))
    assert "secret" not in repr(Reply(200, {b"x": b"secret"}, b"secret"))


# TLS and proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A key and a certificate for localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + built.public_bytes(pem))
    return file


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("proxied", [False, True])
def test_tls(certificate, monkeypatch, proxied):
    """`https://` was sent in the clear, or through a proxy that reads along."""

    async def asking() -> tuple[bytes, int, list[bytes]]:
        trust = ssl.create_default_context(cafile=str(certificate))
        async with listening(lambda _: [OK], serving(certificate)) as (server, port), tunnel(port) as (seen, proxy):
            if proxied:
                monkeypatch.setenv("https_proxy", f"http://me:pa%20ss@127.0.0.1:{proxy}")
            line = Wire(lambda: trust)
            there = target(port, "https", host="localhost")
            contents = [(await line.send(there, b"x" * 100_000, 10)).content for _ in range(2)]
            await line.aclose()
            assert contents[0] == contents[1]
            return contents[0], server.connections, seen

    content, connections, seen = run(asking())
    assert (content, connections) == (b"hi", 1)
    assert len(seen) == proxied
    if proxied:
        assert seen[0].startswith(b"CONNECT localhost:")
        assert b"Proxy-Authorization: Basic bWU6cGEgc3M=" in seen[0]
        assert b"sk-key" not in seen[0]


@asynccontextmanager
async def tunnel(port: int) -> AsyncIterator[tuple[list[bytes], int]]:
    """A proxy that leads to a port."""
    seen: list[bytes] = []
    ends: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        there = await asyncio.open_connection("127.0.0.1", port)
        ends.extend((writer, there[1]))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer), return_exceptions=True)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield seen, listener.sockets[0].getsockname()[1]
    listener.close()
    for end in ends:
        end.transport.abort()
    await listener.wait_closed()
    await asyncio.sleep(0)


def test_nobody_trusts_a_stranger(certificate):
    """A certificate that nobody signed was taken, and the key sent to whoever had it."""

    async def asking() -> None:
        async with listening(lambda _: [OK], serving(certificate)) as (_, port):
            line = Wire(ssl.create_default_context)
            try:
                await line.send(target(port, "https", host="localhost"), b"", 10)
            finally:
                await line.aclose()

    with pytest.raises(ssl.SSLCertVerificationError):
        run(asking())


def test_a_proxy_for_plain_http(monkeypatch):
    """Behind a proxy, the endpoint could not be reached, or the proxy did not know where to."""

    async def asking() -> Server:
        async with listening(lambda _: [OK]) as (proxy, port):
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("no_proxy", "localhost")
            line = Wire(ssl.create_default_context)
            await line.send(target(80, host="llm.example"), b"", 10)
            await line.send(target(port, host="localhost"), b"", 10)
            await line.aclose()
            return proxy

    requests = run(asking()).requests
    assert requests[0].startswith(b"POST http://llm.example:80/v1/chat?x=1 HTTP/1.1\r\n")
    assert requests[1].startswith(b"POST /v1/chat?x=1 HTTP/1.1\r\n")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://user:hun/ter2@host:3128", "https://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used(monkeypatch, proxy):
    """It was retried for each row; and of a password with a slash a part went to the log."""
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(ValueError, match="proxy") as raised:
        target(443, "https", host="llm.example")
    assert "hun" not in str(raised.value)


def test_proxies_as_people_write_them(monkeypatch):
    """`host:port` without a scheme was refused, and `no_proxy` with a port ignored: the key went to the proxy."""
    monkeypatch.setenv("http_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "vllm:8000")
    there = target(80, host="llm.example").proxy
    assert there is not None
    assert (there.host, there.port) == ("proxy.example", 3128)
    assert target(8000, host="vllm").proxy is None


def test_a_proxy_that_refuses(monkeypatch):
    """It was retried as if the endpoint were down, and nothing said that it was the proxy."""

    async def asking() -> None:
        async with listening(lambda _: [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", None]) as (_, port):
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
            line = Wire(ssl.create_default_context)
            await line.send(target(443, "https", host="llm.example"), b"", 10)

    with pytest.raises(OSError, match=r"proxy 127\.0\.0\.1 answered .*407"):
        run(asking())


def test_a_host_that_does_not_exist_is_looked_up_again():
    """A look-up that failed once was remembered as failed."""

    async def asking() -> list[bool]:
        line = Wire(ssl.create_default_context)
        known = []
        for _ in range(2):
            with pytest.raises(OSError):  # noqa: PT011 - what a resolver says differs
                await line.send(target(80, host="host.invalid"), b"", 10)
            known.append(bool(line._addresses))
        return known

    assert run(asking()) == [False, False]
