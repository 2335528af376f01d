"""What every request meets on its way in and out: counts, headers, the end."""

from __future__ import annotations

import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobilette.serving.bodies import busy
from mobilette.serving.refusals import refusal
from mobilette.serving.service import Service

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
            await send(message)

        service.accepted += 1
        try:
            # Before anything else, so that a refusal takes a tenth of what others do.
            if scope["path"].endswith("/predict") and service.full:
                route = "/v1/predict"
                await refusal(busy(service.full))(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        finally:
            service.answered += bool(status)
            route = getattr(scope.get("route"), "path", route)
            service.metrics.requests.labels(route, str(status)).inc()
            service.metrics.seconds.labels(route).observe(time.perf_counter() - started)
