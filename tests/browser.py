"""A headless Chromium, told what to do by Playwright, and a server of one folder."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mobilette.artifact.web_runtime import find_package
from mobilette.errors import InputError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


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


@contextmanager
def visited(page: Any, folder: Path) -> Iterator[str]:
    """Serve ``folder`` for ``page``, which leaves before the server is gone."""
    with served(folder) as address:
        yield address
        page.goto("about:blank")


@contextmanager
def chromium(*options: str) -> Iterator[Any]:
    """Yield Playwright's browser; the test is skipped where there is none.

    One at a time in a process, and no event loop beside it: end it with the module's tests.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    root = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--disable-dev-shm-usage", *root, *options]
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, *, gpu: bool = False, **options: object) -> Iterator[Any]:
    """Yield a page of its own profile; no error may be in its console when it is closed."""
    context = browser.new_context(**options)
    page, errors = context.new_page(), []
    if not gpu:
        page.add_init_script("delete Navigator.prototype.gpu")
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    yield page
    context.close()
    # That a server is gone is no news; a file that it does not have is.
    said = "\n".join(each for each in errors if "net::ERR_" not in each)
    assert not said, said


def accessibility(page: Any) -> list[str]:
    """Return what axe-core finds on the page that is serious or critical: rule, place and why."""
    try:
        script = find_package("axe-core", "4.14.1") / "axe.min.js"
    except InputError as error:
        pytest.skip(str(error))
    # As a file of the page's own, the page's security policy would refuse it.
    page.evaluate(script.read_text(encoding="utf-8") + "; undefined")
    return [
        f"{found['id']}: {node['target']}: {node['failureSummary']}"
        for found in page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
