"""What every request meets on its way in and out: counts, headers, the end."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobilette.errors import visible
from mobilette.serving.bodies import Refused, busy
from mobilette.serving.refusals import refusal
from mobilette.serving.service import Service

_LOG = logging.getLogger(__name__)
# "$" in the router's patterns lets a line feed at the end pass, which a proxy's rules do not.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PART = 2**16
# With the first two a page may use threads: https://developer.mozilla.org/docs/Web/API/crossOriginIsolated
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
}


class Around:
    """The application with every request counted and every answer given its headers."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service, started, status = self._service, time.perf_counter(), 0
        route = "other"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if service.draining:
                    headers["Connection"] = "close"
            for part in in_parts(message):
                await send(part)

        service.accepted += 1
        try:
            # Before anything else, so that a refusal takes a tenth of what others do.
            if scope["path"].endswith("/predict") and service.full:
                route = "/v1/predict"
                await refusal(busy(service.full))(scope, receive, sending)
            elif _CONTROL.search(scope["path"]):
                await refusal(Refused(404, "Not Found"))(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except Exception as error:  # whatever it is: the client gets an answer, the server goes on
            if status:
                raise
            name = type(error).__name__
            _LOG.error(visible(f"{scope['method']} {scope['path']}: {name}: {error}"))
            failed = Refused(500, f"the server failed ({name}); its log says more")
            await refusal(failed)(scope, receive, sending)
        finally:
            service.answered += bool(status)
            route = getattr(scope.get("route"), "path", route)
            service.metrics.requests.labels(route, str(status)).inc()
            service.metrics.seconds.labels(route).observe(time.perf_counter() - started)


def in_parts(message: Message) -> Iterator[Message]:
    """Yield a message, one with a large body in parts: each is sent when the last one is taken."""
    body = message.get("body", b"")
    if len(body) <= _PART:
        yield message
        return
    for begin in range(0, len(body), _PART):
        end = begin + _PART
        more = end < len(body) or message.get("more_body", False)
        yield {**message, "body": body[begin:end], "more_body": more}
