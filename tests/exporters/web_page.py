"""What tests do with the web target's page, and what they read on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.run.directory import Run

# For browsers this is another machine, so the page gets neither camera nor service worker.
NEIGHBOUR = "neighbour.test"
SECONDS = 60_000  # milliseconds: machines stall


def wait_until(page: Any, selector: str, text: str) -> None:
    """Wait until what ``selector`` finds has ``text`` in it."""
    page.locator(selector, has_text=text).wait_for(timeout=SECONDS)


def visit(page: Any, address: str) -> None:
    page.goto(address)
    wait_until(page, "#status", "Ready.")


def choose(page: Any, image: Path) -> None:
    page.set_input_files("#file", str(image))
    wait_until(page, "#status", "ms for the network")


def answer(page: Any) -> list[tuple[str, float]]:
    """Return the classes that are shown, with their probabilities."""
    rows = page.eval_on_selector_all("#answer li", "rows => rows.map(row => ({...row.dataset}))")
    return [(row["id"], float(row["probability"])) for row in rows]


def assert_answered(page: Any, run: Run, image: Path, near: float = 1e-3) -> None:
    expected = CheckpointPredictor(run).predict([image])[0]
    found = answer(page)
    assert [name for name, _ in found] == [guess.id for guess in expected.top]
    assert [value for _, value in found] == pytest.approx(
        [guess.probability for guess in expected.top], abs=near
    )
    assert page.inner_text("#label") == expected.label
