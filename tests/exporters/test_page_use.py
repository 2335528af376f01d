"""The web target's page: anybody can use it, and it says what is the case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilette.artifact.directory import Artifact, open_artifact, read_contract
from mobilette.engines.load import load
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.model.answering import Known, Promise
from mobilette.model.classes import ClassLabel, classes_text
from mobilette.run.directory import Run
from tests.artifact.forging import forge
from tests.browser import accessibility, opened, served, visited
from tests.exporters.web_page import answer, choose, visit, wait_until


def promise_too_much(folder: Path, *, known: bool = False) -> None:
    """Forge a promise that keeps every answer back."""
    promise = Promise(
        error=0.01, confidence=0.95, threshold=1.0, coverage=0.1, pictures=300, split="val"
    )
    unlike = Known(score="energy", threshold=1e6, kept=0.95, pictures=300, split="val")
    forge(folder, promise=promise, known=unlike if known else None)


def relabel(folder: Path, label: str) -> None:
    """Give all classes of an artifact the name ``label``."""
    ids = [each.id for each in read_contract(folder / "contract.json").classes]
    classes = tuple(ClassLabel(id=name, name=label) for name in ids)
    forge(folder, {"labels.txt": classes_text(classes).encode()}, classes=classes)


LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis_with_a_name_that_no_screen_is_wide_enough_for"


@pytest.mark.parametrize("long", [False, True])
def test_a_phones_screen_needs_no_scrolling_sideways(
    copied: Path, browser: Any, long: bool
) -> None:
    if long:
        relabel(copied, LONG)
    screen = {"width": 390, "height": 844}
    wide = "document.documentElement.scrollWidth"
    with served(copied) as address, opened(browser, viewport=screen, has_touch=True) as page:
        visit(page, address)
        assert page.evaluate(wide) == 390
        choose(page, copied / "image.jpg")
        page.click("summary")
        assert page.evaluate(wide) == 390
        page.click("text=Use camera")
        wait_until(page, "#rate", "frames per second")
        assert page.evaluate(wide) == 390


def test_labels_are_text(copied: Path, page: Any) -> None:
    label = '<img src="x" onerror="document.title = 1"><b>bold</b>'
    relabel(copied, label)
    with visited(page, copied) as address:
        visit(page, address)
        choose(page, copied / "noise.png")
        page.click("summary")
        shown = [
            page.inner_text(f"{each} >> nth=0")
            for each in ("#label", "#answer .name", "#known li", "#spoken")
        ]
        assert shown[:3] == [label] * 3
        assert shown[3].startswith(label)
        assert page.locator("b, #result img").count() == 0
        assert page.title() == "mobilenet_v1: 3 classes"


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_nothing_keeps_anybody_from_using_it(copied: Path, browser: Any, colours: str) -> None:
    with (
        served(copied) as address,
        opened(browser, color_scheme=colours) as page,
    ):
        visit(page, address)
        assert accessibility(page) == []
        choose(page, copied / "noise.png")
        page.click("summary")
        assert accessibility(page) == []
        page.click("text=Use camera")
        wait_until(page, "#rate", "frames per second")
        assert accessibility(page) == []
        promise_too_much(copied)
        golden = copied / "golden.npz"
        with np.load(golden) as arrays:
            np.savez(golden, inputs=arrays["inputs"], logits=arrays["logits"] + 1)
        forge(copied)
        visit(page, address)
        choose(page, copied / "noise.png")
        assert accessibility(page) == []
        page.set_input_files("#file", str(copied / "README.md"))
        wait_until(page, "#status.error", "This image cannot be used")
        assert accessibility(page) == []


def test_the_keyboard_is_enough(site: Path, page: Any) -> None:
    page.on("filechooser", lambda chooser: chooser.set_files(site / "noise.png"))
    with visited(page, site) as address:
        visit(page, address)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        wait_until(page, "#status", "ms for the network")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        wait_until(page, "#rate", "frames per second")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.is_visible("#known li >> nth=0")


def test_a_second_click_opens_no_second_camera(site: Path, page: Any) -> None:
    with visited(page, site) as address:
        visit(page, address)
        asked = page.evaluate(
            """() => {
                const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);
                let times = 0;
                devices.getUserMedia = (wanted) => (times++, ask(wanted));
                at("camera").click();
                at("camera").click();
                return times;
            }"""
        )
        assert asked == 1
        wait_until(page, "#rate", "frames per second")


def test_what_a_screen_reader_says(site: Path, page: Any, calibrated: Run) -> None:
    expected = CheckpointPredictor(calibrated).predict([site / "noise.png"])[0]
    with visited(page, site) as address:
        visit(page, address)
        choose(page, site / "noise.png")
        said = page.inner_text("#spoken")
        assert said == f"{expected.label}, {100 * expected.probability:.1f}%"
        assert page.get_attribute("#spoken", "aria-live") == "polite"


def test_the_badge_says_whether_it_answers_as_the_trained_network(copied: Path, page: Any) -> None:
    with visited(page, copied) as address:
        visit(page, address)
        badge = page.inner_text("#badge")
        assert badge.startswith("Answers as the trained network: yes, max difference ")
        assert float(badge.split()[-1]) < 1e-4
        golden = copied / "golden.npz"
        with np.load(golden) as arrays:
            np.savez(golden, inputs=arrays["inputs"], logits=arrays["logits"] + 0.5)
        forge(copied)
        visit(page, address)
        wait_until(page, "#badge.wrong", "Answers as the trained network: NO, max difference 0.50")
        classes = len(open_artifact(copied).golden.inputs)
        assert page.inner_text("#badge").endswith(f"the same class for {classes} of {classes}")


@pytest.mark.parametrize("reason", ["Not sure enough", "Unlike the known images"])
def test_unknown_is_said_with_the_best_guesses(copied: Path, page: Any, reason: str) -> None:
    promise_too_much(copied, known=reason.startswith("Unlike"))
    with visited(page, copied) as address:
        visit(page, address)
        choose(page, copied / "noise.png")
        assert page.inner_text("#label") == "unknown"
        assert page.inner_text("#unknown") == f"{reason}. The best guesses:"
        assert page.inner_text("#spoken") == f"unknown: {reason.lower()}"
        expected = load(copied).predict([copied / "noise.png"])[0]
        assert (expected.label, expected.reason) == ("unknown", reason.lower())
        assert [name for name, _ in answer(page)] == [guess.id for guess in expected.top]


def test_opened_from_disk_it_says_what_to_do(bundle: Artifact, browser: Any) -> None:
    page = browser.new_page()
    page.goto((bundle.path / "index.html").as_uri())
    wait_until(page, "#status.error", "python -m http.server")
    page.close()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.jpg", b"no", "This image cannot be used"),
        ("model.onnx", b"no", "model.onnx: changed since the export"),
        ("golden.npz", b"no", "golden.npz: changed since the export"),
        ("contract.json", json.dumps({"schema": 2}).encode(), 'not a "web" artifact of schema 1'),
    ],
)
def test_it_says_what_is_wrong(
    copied: Path, page: Any, name: str, content: bytes, said: str
) -> None:
    (copied / name).write_bytes(content)
    with visited(page, copied) as address:
        page.goto(f"{address}index.html?image=text.jpg")
        wait_until(page, "#status.error", said)
