"""A page opened from disk in the installed Chromium, through Playwright; and axe-core in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parents[2] / ".venv/node/node_modules/axe-core/axe.min.js"

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not there (make engines)")


@contextmanager
def opened(
    path: Path, *, scheme: Literal["light", "dark"] = "light", width: int = 1200
) -> Iterator[tuple[Any, list[str]]]:
    """Yield Playwright's page of a file, and what its console and its network said, if anything."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True
        )
        page, said = context.new_page(), list[str]()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(request.url[:200]))
        page.goto(path.resolve().as_uri())
        try:
            yield page, said
        finally:
            browser.close()


def faults(page: Any) -> list[str]:
    """Return what axe-core finds serious or critical, and where."""
    # As a file of the page's own, the page's security policy would refuse it.
    page.evaluate(AXE.read_text(encoding="utf-8") + "; undefined")
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['target']}: {node['failureSummary']}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
