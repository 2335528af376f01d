"""The page of a report: one file, and anybody can use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mobilette
from mobilette.run.directory import Run
from tests.browser import accessibility, chromium, opened


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)
    assert "url(http" not in text
    assert "@import" not in text


def test_labels_are_text(page: Path, weak: Run, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "\x1b" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;$x_1$" in text
    card = tmp_path / "card.md"
    mobilette.report(weak, out=card)
    assert "<img" not in card.read_text(encoding="utf-8").replace("\\<img", "")


def test_the_same_run_gives_the_same_page(weak: Run, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        mobilette.report(weak, out=tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@contextmanager
def shown(browser: Any, page: Path, *, width: int = 1200, scheme: str = "light") -> Iterator[Any]:
    """Yield the page, opened from disk without a network; nothing but itself may be asked for."""
    size = {"width": width, "height": 900}
    with opened(browser, viewport=size, offline=True, color_scheme=scheme) as found:
        asked: list[str] = []
        found.on("request", lambda request: asked.append(request.url[:200]))
        found.goto(page.resolve().as_uri())
        yield found
        assert [url for url in asked if not url.startswith("data:")] == [page.resolve().as_uri()]


STEPS = {"ArrowLeft": (0, -1), "ArrowRight": (0, 1), "ArrowUp": (-1, 0), "ArrowDown": (1, 0)}
FOCUSED = """(() => {
    const cell = document.activeElement.closest(".matrix td");
    return [cell.parentElement.rowIndex, cell.cellIndex];
})()"""
FILLED = """[...document.querySelectorAll(".matrix tr")].map(
    (row) => [...row.cells].map((cell) => cell.querySelector("button") !== null))"""


def test_a_cell_opens_its_pictures_by_mouse_and_keyboard(page: Path, browser: Any) -> None:
    with shown(browser, page) as tab:
        assert not tab.locator("dialog[open]").count()
        cell = tab.locator(".matrix .miss").first
        count = int(cell.inner_text())
        cell.click()
        dialog = tab.locator("dialog[open]")
        assert dialog.locator("img").count() == count
        assert dialog.locator("img").first.evaluate("one => one.naturalWidth") == 20
        assert "taken for" in dialog.locator("h2").inner_text()
        tab.keyboard.press("Escape")
        assert not tab.locator("dialog[open]").count()
        assert cell.evaluate("one => one === document.activeElement")
        tab.keyboard.press("Enter")
        assert tab.locator("dialog[open]").count() == 1
        tab.get_by_role("button", name="Close").click()
        cell.focus()
        filled = tab.evaluate(FILLED)
        for key, (down, right) in STEPS.items():
            start = row, column = tab.evaluate(FOCUSED)
            reached = [(row + n * down, column + n * right) for n in range(1, 4)]
            inside = [(y, x) for y, x in reached if 0 <= y <= 3 and 0 <= x <= 3 and filled[y][x]]
            tab.keyboard.press(key)
            assert tab.evaluate(FOCUSED) == list(inside[0] if inside else start)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_anybodys_way(page: Path, browser: Any, scheme: str) -> None:
    with shown(browser, page, scheme=scheme) as tab:
        assert accessibility(tab) == []
        tab.locator(".matrix .miss").first.click()
        assert accessibility(tab) == []


def test_a_phone_scrolls_the_page_one_way_only(page: Path, browser: Any) -> None:
    with shown(browser, page, width=390) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
