"""What can go wrong with one request, each as a small object that a test lists in the order in which it shall happen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["Drop", "Fault", "HalfBody", "Hang", "Malformed"]


@dataclass(frozen=True, kw_only=True)
class _Scripted:
    """What every fault takes.

    :param times: how many requests it strikes; None for all.
    :param when: strikes only requests whose messages it says True of.
    """

    times: int | None = 1
    when: Callable[[list[dict[str, Any]]], bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Fault(_Scripted):
    """A reply of another status, or of status 200 with a body of your own.

    :param status: HTTP status.
    :param headers: headers of the reply, such as `Retry-After`.
    :param body: JSON (or text) of the reply; by default an error object in OpenAI's form.
    """

    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | str | None = None

    async def strike(self, _request: web.BaseRequest, _reply: bytes, /) -> web.StreamResponse:
        """Reply with the status and the body."""
        body = self.body if self.body is not None else error_body(f"Scripted fault: status {self.status}.")
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=self.status, headers=self.headers, text=text, content_type="application/json")


@dataclass(frozen=True, kw_only=True)
class Hang(_Scripted):
    """No reply, ever; the connection stays open until the client gives up."""

    async def strike(self, _request: web.BaseRequest, _reply: bytes, /) -> web.StreamResponse:
        """Wait for ever; the server cancels this when the client leaves or it is stopped."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")


@dataclass(frozen=True, kw_only=True)
class Drop(_Scripted):
    """The connection breaks in the middle of the reply.

    :param after: share of the body that is sent before; 0 breaks before the status line.
    """

    after: float = 0.5

    async def strike(self, request: web.BaseRequest, reply: bytes, /) -> web.StreamResponse:
        """Send a part of what was announced, then close the socket."""
        response = web.StreamResponse(headers={"Content-Length": str(len(reply)), "Content-Type": "application/json"})
        if self.after:
            await response.prepare(request)
            await response.write(reply[: int(len(reply) * self.after)])
        if request.transport is not None:
            request.transport.close()
        return response


@dataclass(frozen=True, kw_only=True)
class Malformed(_Scripted):
    """Status 200 and a page of a proxy instead of JSON."""

    async def strike(self, _request: web.BaseRequest, _reply: bytes, /) -> web.StreamResponse:
        """Reply with HTML."""
        return web.Response(text="<html><body>Bad gateway</body></html>", content_type="text/html")


@dataclass(frozen=True, kw_only=True)
class HalfBody(_Scripted):
    """Status 200 and the first half of the JSON, in a reply that is complete as far as HTTP knows."""

    async def strike(self, _request: web.BaseRequest, reply: bytes, /) -> web.StreamResponse:
        """Reply with half of the body."""
        return web.Response(body=reply[: len(reply) // 2], content_type="application/json")


def error_body(message: str, *, code: str | None = None, type: str = "error") -> dict[str, Any]:
    """Return an error in the form in which OpenAI sends it."""
    return {"error": {"message": message, "type": type, "param": None, "code": code}}
