"""uvicorn's server with what it lacks: a limit for a request's head, and signals of our own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mobilette.serving.server import graceful_s


class Server(uvicorn.Server):
    """A server that leaves signals alone and says when it has started."""

    on_ready: Callable[[], None]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller."""
        yield

    async def startup(self, sockets: Any = None) -> None:
        """Listen."""
        await super().startup(sockets=sockets)
        self.on_ready()


class Connection(H11Protocol):
    """A connection that ends if a request's head does not arrive in time."""

    head_s = 10.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on; the wait ends with a whole head and begins with a part of the next."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._wait_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def create_server(app: Any, *, seconds: float, on_ready: Callable[[], None]) -> Server:
    """Return uvicorn's server of ``app``, which gives a request's head ``seconds``."""
    # Not a line of every broken request.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=type("TimedConnection", (Connection,), {"head_s": seconds}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=graceful_s(seconds),
    )
    server = Server(config)
    server.on_ready = on_ready
    return server
