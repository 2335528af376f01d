"""Answers to requests that get none."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from mobilette.errors import visible
from mobilette.serving.bodies import Refused

RETRY_AFTER = {"Retry-After": "1"}
# How long the rest of a refused body is read, so that its sender gets to read the answer.
_LINGER_S = 2.0


class Unread(JSONResponse):
    """An answer to a request whose body is not read: the connection ends with it.

    The rest is thrown away for a while. A connection that was closed at once would take the answer
    with it, while its reader still sends.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, then throw away what arrives until the client leaves."""
        self.headers["Connection"] = "close"
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def refusal(refused: Refused) -> JSONResponse:
    """Return the answer that says why there is none."""
    headers = RETRY_AFTER if refused.status == 503 else {}
    if refused.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    kind = Unread if refused.close else JSONResponse
    return kind({"error": visible(refused.reason)}, refused.status, headers=headers)
