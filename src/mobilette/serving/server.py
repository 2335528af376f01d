"""`serve`: the process that listens, reloads and ends."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.serving.settings import Limits, Work

if TYPE_CHECKING:
    from mobilette.serving.service import Service

# Between being told to end and closing the door: time for a balancer to ask /readyz, and for
# clients that keep connections to read that they end.
DRAIN_S = 0.5
# Kept free of connections: for the artifacts, and for connections that are about to be closed.
_OTHER_FILES = 64


def serve(
    places: Mapping[str, Path],
    *,
    host: str,
    port: int,
    token: str | None,
    work: Work,
    limits: Limits,
    on_ready: Callable[[str], None],
    remark: Callable[[str], None],
) -> None:
    """Answer HTTP until SIGTERM or SIGINT.

    SIGHUP opens the artifacts again.

    Args:
        places: the artifacts' folders by name; the first is the default.
        host: the address to listen on.
        port: 0 for any that is free.
        token: what clients must know, if anything.
        work: how the engines' work is divided.
        limits: what a request may cost.
        on_ready: called with the address once requests are answered.
        remark: called with a line about a reload, and at the end with what was answered.

    Raises:
        InputError: an artifact cannot be served, a package is missing, or the port is in use.
    """
    with needs("serve", "mobilette serve"):
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    from mobilette.serving.service import Service

    limits = replace(limits, connections=connections_within(limits.connections))
    with listening(host, port) as listener:
        service = Service(places, work=work, limits=limits)
        try:
            asyncio.run(_answer(service, listener, host, token, on_ready, remark))
        finally:
            service.close()
    remark(f"answered {service.answered:,} of {service.accepted:,} requests")


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that is bound, and listens once the server starts."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol's number, for asyncio knows TCP by it and only then turns Nagle's
        # algorithm off, which delays an answer's body by 40 ms.
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host {host!r:.60}: {_reason(error)}; 127.0.0.1 is this machine"
        ) from None
    with listener:
        try:
            if hasattr(socket, "SO_REUSEPORT"):  # not Windows, where the next would steal the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise InputError(
                f"port {port} of {host}: {_reason(error)}; --port 0 takes any that is free"
            ) from None
        yield listener


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


async def _answer(
    service: Service,
    listener: socket.socket,
    host: str,
    token: str | None,
    on_ready: Callable[[str], None],
    remark: Callable[[str], None],
) -> None:
    from mobilette.serving.app import create_app
    from mobilette.serving.connection import create_server

    number = listener.getsockname()[1]
    address = f"http://{f'[{host}]' if ':' in host else host}:{number}"
    server = create_server(
        create_app(service, token=token),
        limits=service.limits,
        on_ready=lambda: on_ready(address),
    )
    told = asyncio.Event()

    def end() -> None:
        server.force_exit = told.is_set()  # the second time
        told.set()

    async def reload() -> None:
        remark(await service.reload())

    def begin_reload() -> None:
        task = asyncio.get_running_loop().create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    reloads: set[asyncio.Task[None]] = set()
    with _handled({"SIGINT": end, "SIGTERM": end, "SIGHUP": begin_reload}):
        running = asyncio.create_task(server.serve(sockets=[listener]))
        waiting = asyncio.create_task(told.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        service.draining = True
        if not running.done():
            await asyncio.sleep(DRAIN_S)
        server.should_exit = True
        await running


@contextmanager
def _handled(calls: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """Call these on signals, by the running loop, inside."""
    loop = asyncio.get_running_loop()
    numbers = {getattr(signal, name): call for name, call in calls.items() if hasattr(signal, name)}
    before = {number: signal.getsignal(number) for number in numbers}
    for number, call in numbers.items():
        try:
            loop.add_signal_handler(number, call)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_, call=call: loop.call_soon_threadsafe(call))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def connections_within(wanted: int) -> int:
    """Return ``wanted``, or as many connections as the files that this process may open allow.

    Raises:
        InputError: they allow none.
    """
    try:
        import resource
    except ImportError:  # Windows, where sockets are no files
        return wanted
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return wanted
    if files <= _OTHER_FILES:
        raise InputError(
            f"this process may open {files} files and needs {_OTHER_FILES} beside its connections; "
            "'ulimit -n 1024' allows more"
        )
    return min(wanted, files - _OTHER_FILES)


def graceful_s(seconds: float) -> int:
    """Return how long the end waits for requests under way that may take ``seconds`` each."""
    return math.ceil(2 * seconds) + 1
