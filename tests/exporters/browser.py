"""A headless Chromium that is told what to do over a pipe (the DevTools protocol), and a server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PIPE = "--remote-debugging-pipe --no-first-run --window-size=800,900"
SECONDS = 60.0


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve ``folder`` over HTTP and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Browser:
    """One page of a Chromium, by the DevTools protocol."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        read, self.to = os.pipe()
        self.answers, write = os.pipe()
        # The browser reads from its descriptor 3 and writes to 4; sh knows none above 9.
        options = f"--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage {PIPE}"
        redirected = f'exec "$0" "$@" 3<&{read} 4>&{write}'
        command = [CHROMIUM, *options.split(), f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            ["bash", "-c", redirected, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(read, write),
        )
        os.close(read)
        os.close(write)
        self.count, self.buffer, self.session = 0, b"", ""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        self.command("Page.enable")

    def command(self, method: str, **parameters: object) -> Any:
        """Send a command and return its result."""
        self.count += 1
        message: dict[str, object] = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                more = os.read(self.answers, 2**20)
                assert more, "the browser ended"
                self.buffer += more
            text, _, self.buffer = self.buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self.count:
                assert "result" in answer, answer
                return answer["result"]

    def open(self, url: str) -> None:
        """Load a page."""
        self.command("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return what ``expression`` is, once it is something."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            result = self.command("Runtime.evaluate", expression=expression, returnByValue=True)
            if found := result["result"].get("value"):
                return found
            time.sleep(0.1)
        raise TimeoutError(expression)

    def screenshot(self, path: Path) -> None:
        """Write what the page looks like as PNG."""
        path.write_bytes(b64decode(self.command("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait()
        os.close(self.to)
        os.close(self.answers)
