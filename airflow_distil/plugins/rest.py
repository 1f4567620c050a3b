"""What Airflow knows, asked of its own REST API in the name of the user: who may not see it there does not see it here."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
from fastapi import HTTPException, Request

__all__ = ["Airflow", "segment"]

# Only what says who asks: the rest of the browser's request is not for the API.
IDENTITY = ("authorization", "cookie")


def segment(name: str) -> str:
    """Return a name as one segment of a path: a run id may hold slashes."""
    return quote(name, safe="")


class Airflow:
    """Airflow's REST API, called in this process. Its tables change between versions; this is what stays.

    :param request: the user's.
    """

    def __init__(self, request: Request) -> None:
        self._app = request.scope["distil.airflow"]
        self._headers = {name: request.headers[name] for name in IDENTITY if name in request.headers}

    async def find(self, path: str, **parameters: Any) -> Any | None:
        """Return the JSON of a path below `/api/v2`, or None if there is no such thing.

        :raises HTTPException: 401 or 403 if the user may not see it, 502 if Airflow fails.
        """
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow", headers=self._headers) as client:
            response = await client.get(f"/api/v2/{path}", params=parameters)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise HTTPException(response.status_code, "Airflow does not show this to you.")
        if not response.is_success:
            raise HTTPException(502, f"Airflow answered {response.status_code}.")
        return response.json()
