"""A real server, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx


@dataclass(kw_only=True)
class Running:
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    client: httpx.Client

    def post(self, path: str = "/v1/predict", **how: Any) -> httpx.Response:
        return self.client.post(path, **how)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def said(self) -> str:
        """Return what it printed to stderr so far."""
        return os.pread(self.errors.fileno(), 2**20, 0).decode()

    def end(self) -> int:
        """Tell it to end, and return its status."""
        self.process.terminate()
        return self.process.wait(timeout=60)


@contextmanager
def running(*arguments: str | Path, token: str = "", python: str = "") -> Iterator[Running]:
    """Yield a server, started with these arguments of `mobilette serve`; it ends without a word.

    ``python`` is executed in its process first.
    """
    begin = f"{python}\nfrom mobilette.cli.main import main; main()"
    command = [sys.executable, "-c", begin, "serve", "--port=0", "--json", *map(str, arguments)]
    environment = os.environ | ({"MOBILETTE_TOKEN": token} if token else {})
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        assert process.stdout is not None
        try:
            with process.stdout as stdout:
                line = stdout.readline()
            assert line, os.pread(errors.fileno(), 2**20, 0).decode()
            value = json.loads(line)
            assert value.keys() == {"url", "models"}  # as docs/architecture.md says
            url = value["url"]
            with httpx.Client(base_url=url, timeout=60) as client:
                server = Running(url=url, process=process, errors=errors, client=client)
                yield server
            if process.poll() is None:
                assert server.end() == 0
            assert "Traceback" not in server.said()
        finally:
            process.kill()
            process.wait()
