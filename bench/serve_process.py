"""A server of `mobilette serve` in a process of its own, and a client: what bench/serve.py asks."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

CLIENTS, TOKEN = 32, "secret"


@dataclass(kw_only=True)
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    errors: Any

    def memory(self) -> int:
        """Return its resident bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) * 1024

    def said(self) -> str:
        """Return what it printed to stderr."""
        return os.pread(self.errors.fileno(), 2**20, 0).decode()


@contextmanager
def serving(artifact: Path, *options: str) -> Iterator[Server]:
    """Yield a server of ``artifact``."""
    command = [sys.executable, "-m", "mobilette", "serve", str(artifact), "--port=0", "--json"]
    environment = os.environ | {"MOBILETTE_TOKEN": TOKEN}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        server = Server(process=process, port=port, errors=errors)
        try:
            yield server
        finally:
            process.terminate()
            process.wait()
            assert "Traceback" not in server.said(), server.said()


def head(kind: str, length: int) -> bytes:
    """Return a request's head that declares ``length`` bytes."""
    lines = ("POST /v1/predict HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}")
    return "\r\n".join(
        (*lines, f"Content-Type: {kind}", f"Content-Length: {length}", "", "")
    ).encode()


def raw(server: Server, *pieces: bytes, leave: bool = False) -> int:
    """Send these bytes alone and return the answer's status; 0 after leaving without one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as link:
        for piece in pieces:
            link.sendall(piece)
        if leave:
            return 0
        answer = link.recv(65536)
        return int(answer.split()[1]) if answer else -1


class Client:
    """One connection, opened again when the server has closed it."""

    def __init__(self, port: int) -> None:
        self.link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, body: Any, kind: str, *, token: str = TOKEN, **options: Any) -> tuple[int, Any]:
        """POST a body and return status and JSON."""
        headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
        for attempt in (0, 1):
            try:
                self.link.request("POST", "/v1/predict", body, headers, **options)
                response = self.link.getresponse()
                return response.status, json.loads(response.read())
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.link.close()  # an idle connection that the server has closed
                if attempt or not isinstance(body, bytes):
                    raise
        raise AssertionError


def spread(seconds: list[float]) -> str:
    """Return median and 99th percentile in milliseconds."""
    cut = quantiles(seconds, n=100) if len(seconds) > 1 else seconds * 99
    return (
        f"p50 {1e3 * cut[49]:.1f} ms, p99 {1e3 * cut[98]:.1f} ms, most {1e3 * max(seconds):.1f} ms"
    )
