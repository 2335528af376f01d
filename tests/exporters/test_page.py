"""The web target's page in a browser: it answers as Python does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilette.artifact.web_runtime import ADDRESS
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.run.directory import Run
from mobilette.workflows.export import export
from tests.artifact.forging import forge
from tests.browser import opened, served, visited
from tests.exporters.web_page import (
    NEIGHBOUR,
    SECONDS,
    answer,
    assert_answered,
    choose,
    visit,
    wait_until,
)
from tests.serving.servers import running


def drop(page: Any, image: Path) -> None:
    """Let the page get the event that a drop from a file manager gives it."""
    page.evaluate(
        """([name, bytes]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
            for (const kind of ["dragover", "drop"]) document.getElementById("stage").dispatchEvent(
                new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
        }""",
        [image.name, list(image.read_bytes())],
    )
    wait_until(page, "#status", "ms for the network")


def paste(page: Any, image: Path) -> None:
    """Put an image onto the clipboard and press the keys."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """(bytes) => navigator.clipboard.write([
            new ClipboardItem({"image/png": new Blob([new Uint8Array(bytes)], {type: "image/png"})})
        ])""",
        list(image.read_bytes()),
    )
    page.keyboard.press("ControlOrMeta+V")
    wait_until(page, "#status", "ms for the network")


WAYS: dict[str, Callable[[Any, Path], None]] = {"chosen": choose, "dropped": drop, "pasted": paste}


@pytest.mark.parametrize("way", WAYS)
def test_an_image_is_answered_as_by_the_checkpoint(
    site: Path, page: Any, calibrated: Run, way: str
) -> None:
    with visited(page, site) as address:
        visit(page, address)
        for name in ("noise.png", "grey.png", "noise.png"):
            WAYS[way](page, site / name)
            assert_answered(page, calibrated, site / name)


# Browsers decode JPEG, and multiply by transparency, with a rounding of their own.
@pytest.mark.parametrize("name", ["image.jpg", "turned.jpg", "transparent.png"])
def test_other_files_are_answered_as_by_the_checkpoint(
    site: Path, page: Any, calibrated: Run, name: str
) -> None:
    with visited(page, site) as address:
        page.goto(f"{address}index.html?image={name}")
        wait_until(page, "#status", "ms for the network")
        assert_answered(page, calibrated, site / name, near=0.02)


def test_it_works_without_a_network_and_with_threads_from_the_second_visit_on(
    site: Path, page: Any, calibrated: Run
) -> None:
    with served(site) as address:
        visit(page, address)
        wait_until(page, "#facts", "also works without a network now")
        assert not page.evaluate("crossOriginIsolated")
    page.reload()  # the server is gone
    wait_until(page, "#status", "Ready.")
    choose(page, site / "noise.png")
    assert_answered(page, calibrated, site / "noise.png")
    assert page.evaluate("crossOriginIsolated")
    threads = "import('./mobilette.js').then(m => m.load('./', {threads: 2})).then(c => c.engine)"
    assert page.evaluate(threads) == "WASM SIMD, 2 threads"


def test_a_new_export_at_the_same_address_is_used(
    copied: Path, page: Any, trained: Run, tmp_path: Path
) -> None:
    with visited(page, copied) as address:
        visit(page, address)
        wait_until(page, "#facts", "also works without a network now")
        other = forge(copied, precision="int8")  # what else may differ is of no matter
        page.reload()
        wait_until(page, "#facts", f"pixels, {other.contract.precision}")


def test_a_camera_is_answered_frame_by_frame(site: Path, page: Any) -> None:
    """Chromium's own stream is green with a darker green circle segment."""
    with visited(page, site) as address:
        visit(page, address)
        page.click("text=Use camera")
        wait_until(page, "#rate", "frames per second")
        wait_until(page, "#label", "green")
        assert page.is_visible("#video")
        first = page.inner_text("#status")
        wait_until(page, f"#status:not(:text-is('{first}'))", "ms for the network")
        page.click("text=Stop camera")
        wait_until(page, "#status", "Ready.")
        assert answer(page) == []
        assert page.is_hidden("#video")
        page.click("text=Use camera")
        wait_until(page, "#label", "green")
        choose(page, site / "noise.png")  # ends the camera, too
        assert page.is_hidden("#video")
        assert page.is_visible("text=Use camera")


def test_a_phone_in_the_same_network_gets_answers(site: Path, page: Any, calibrated: Run) -> None:
    with visited(page, site) as address:
        visit(page, address.replace("127.0.0.1", NEIGHBOUR))
        assert not page.evaluate("isSecureContext")
        choose(page, site / "noise.png")
        assert_answered(page, calibrated, site / "noise.png")
        page.click("text=Use camera")
        wait_until(page, "#status.error", "pages from https:// or localhost only")


def test_the_readmes_javascript_runs_as_printed(copied: Path, page: Any, calibrated: Run) -> None:
    text = (copied / "README.md").read_text()
    assert "```python" not in text
    code = text.partition("```javascript\n")[2].partition("```")[0]
    capture = "<script>console.log = (...said) => (document.title = said.join(' '))</script>"
    head = f'<meta charset="utf-8"><link rel="icon" href="data:,">{capture}'
    body = f'<script type="module">{code}; document.body.id = "done"</script>'
    (copied / "readme.html").write_text(f"<!doctype html>{head}{body}")
    with visited(page, copied) as address:
        page.goto(f"{address}readme.html")
        page.locator("#done").wait_for(state="attached", timeout=SECONDS)
        label, probability, _, _ = page.title().split()
    expected = CheckpointPredictor(calibrated).predict([copied / "image.jpg"])[0]
    assert label == expected.label
    assert float(probability) == pytest.approx(expected.probability, abs=0.02)


# Without a bundle


@pytest.mark.parametrize("changed", [False, True])
def test_a_runtime_from_elsewhere_has_its_hash_checked(
    copied: Path, browser: Any, runtime: Path, changed: bool
) -> None:
    elsewhere = json.loads((copied / "runtime.json").read_text()) | {"address": ADDRESS}
    (copied / "runtime.json").write_text(json.dumps(elsewhere))

    def give(route: Any) -> None:
        name = route.request.url.removeprefix(ADDRESS)
        content = (runtime / "dist" / name).read_bytes()
        if changed and name.endswith(".mjs"):  # one changed file is enough
            content += b"\n"
        route.fulfill(body=content, headers={"Access-Control-Allow-Origin": "*"})

    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.add_init_script("delete Navigator.prototype.gpu")
    page.route(f"{ADDRESS}*", give)
    with visited(page, copied) as address:
        page.goto(address)
        if changed:
            where = f"onnxruntime-web 1.30.0 cannot be loaded: {ADDRESS}ort.wasm.bundle.min.mjs"
            wait_until(page, "#status.error", where)
        else:
            wait_until(page, "#status", "Ready.")
    context.close()


def test_webgpu_is_used_where_there_is_one(copied: Path, browser: Any, calibrated: Run) -> None:
    """If it answers as the trained network; int8 never uses it."""
    with served(copied) as address, opened(browser, gpu=True) as page:
        visit(page, address)
        if "WebGPU" not in page.inner_text("#facts"):
            pytest.skip("this chromium emulates no WebGPU")
        choose(page, copied / "noise.png")
        assert_answered(page, calibrated, copied / "noise.png")
        forge(copied, precision="int8")
        visit(page, address)
        assert "int8, WASM SIMD" in page.inner_text("#facts")
    with served(copied) as address, opened(browser, gpu=True) as page:
        page.add_init_script(
            """navigator.gpu.requestAdapter = async () => {
                throw new Error("this GPU is broken");
            }"""
        )
        forge(copied, precision="fp32")
        visit(page, address)
        assert "WASM SIMD" in page.inner_text("#facts")


def test_int8_is_judged_by_its_noise(copied: Path, page: Any) -> None:
    """As by `verify`; it is executed by WASM."""
    with np.load(golden := copied / "golden.npz") as arrays:
        np.savez(golden, inputs=arrays["inputs"], logits=arrays["logits"] * 1.1)
    forge(copied, precision="int8")
    with visited(page, copied) as address:
        visit(page, address)
        assert "int8, WASM SIMD" in page.inner_text("#facts")
        assert page.inner_text("#badge").startswith("Answers as the trained network: yes, max")


def test_mobilette_serves_it_isolated_with_the_engine_from_here(
    calibrated: Run, site: Path, browser: Any, tmp_path: Path
) -> None:
    """Nothing comes from the public address of an artifact without --bundle."""
    pytest.importorskip("fastapi", reason="needs the extra serve")
    artifact, noise = export(calibrated, to="web", out=tmp_path), site / "noise.png"
    with running(artifact.path) as server, opened(browser) as page:
        visit(page, server.url)
        assert page.evaluate("crossOriginIsolated")
        choose(page, noise)
        assert_answered(page, calibrated, noise)
        page.goto("about:blank")
