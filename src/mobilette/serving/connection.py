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
from mobilette.serving.settings import Limits

# Connections taken in one turn of the loop, which are open before they can be counted. The
# operating system lets more wait.
_AT_ONCE, _WAITING = 8, 2048


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
        for each in sockets:
            each.listen(_WAITING)
        self.on_ready()


class Connection(H11Protocol):
    """A connection that ends if a head does not arrive, or an answer is not read, in time."""

    limits = Limits()
    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)  # every byte that is not taken starts the timer
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on; the wait ends with a whole head and begins with a part of the next."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._wait_no_more()

    def pause_writing(self) -> None:
        """Begin to wait until what is written has been taken."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._wait_no_more()
        self.resume_writing()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self.limits.seconds, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def create_server(app: Any, *, limits: Limits, on_ready: Callable[[], None]) -> Server:
    """Return uvicorn's server of ``app``, within ``limits``."""
    # Not a line of every broken request.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=type("LimitedConnection", (Connection,), {"limits": limits}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=graceful_s(limits.seconds),
        backlog=_AT_ONCE,
    )
    server = Server(config)
    server.on_ready = on_ready
    return server
