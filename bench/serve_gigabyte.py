"""The part `gigabyte` of bench/serve.py: bodies of a gigabyte, sent by two kinds of clients."""

from __future__ import annotations

import select
import socket
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.serve_process import Server, head, serving
else:
    from serve_process import Server, head, serving

GIGABYTE, PIECE = 2**30, bytes(2**20)


def gigabyte(artifact: Path) -> None:
    """Print what clients sent before they had an answer, and the most memory of the server."""
    with serving(artifact) as server:
        for looking, chunked in product((True, False), (False, True)):
            who = "looks for an answer as it sends" if looking else "looks when all is sent"
            how = "chunked" if chunked else "with Content-Length"
            print(f"gigabyte {how}, a client that {who}: {_send(server, looking, chunked)}")


def _send(server: Server, looking: bool, chunked: bool) -> str:
    begin, piece = head("image/png", GIGABYTE), PIECE
    if chunked:
        begin = begin.replace(b"Content-Length: %d" % GIGABYTE, b"Transfer-Encoding: chunked")
        piece = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
    before, most, sent, started = server.memory(), 0, 0, time.perf_counter()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as link:
        link.sendall(begin)
        answered = None
        while sent < GIGABYTE // len(PIECE):
            if answered is None and select.select([link], [], [], 0)[0]:
                answered = time.perf_counter() - started
                if looking:
                    break
            link.sendall(piece)
            sent += 1
            most = max(most, server.memory())
        status = int(link.recv(65536).split()[1])
    when = "at the end" if answered is None else f"after {1000 * answered:.0f} ms"
    return (
        f"{status} {when}, {sent:,} MiB sent in {time.perf_counter() - started:.1f} s; the "
        f"server's memory grew by {max(most - before, 0) / 2**20:.0f} MiB"
    )
