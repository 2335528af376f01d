"""The web target's page in a browser: it answers as Python does, and anybody can use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact, open_artifact, read_contract
from mobilette.artifact.web_runtime import ADDRESS, PACKAGE, VERSION, find_package
from mobilette.engines.load import load
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.errors import InputError
from mobilette.model.answering import Known, Promise
from mobilette.model.classes import ClassLabel, classes_text
from mobilette.run.directory import Run, open_run
from mobilette.workflows.export import export
from tests.artifact.forging import forge
from tests.browser import CAMERA, accessibility, chromium, opened, served, visited
from tests.serving.servers import running

try:
    MODULES = find_package(PACKAGE, VERSION, artifact=Path(__file__)).parent
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

# Without a GPU, WebGPU is emulated; pages that ask for nothing are executed by WASM.
GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
# For browsers this is another machine, so the page gets neither camera nor service worker.
NEIGHBOUR = "neighbour.test"
SECONDS = 60_000  # milliseconds: machines stall


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(*CAMERA, *GPU, f"--host-resolver-rules=MAP {NEIGHBOUR} 127.0.0.1") as found:
        yield found


@pytest.fixture(scope="module")
def calibrated(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the run with a temperature."""
    copy = Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("calibrated") / "run"))
    (copy / "answering.json").write_text('{"temperature": 1.7}')
    return open_run(copy)


@pytest.fixture(scope="module")
def bundle(calibrated: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(calibrated, to="web", out=tmp_path_factory.mktemp("web"), bundle=True)


@pytest.fixture(scope="module")
def site(bundle: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact's folder with images in it."""
    folder = Path(shutil.copytree(bundle.path, tmp_path_factory.mktemp("site") / "web"))
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (90, 61, 4), dtype=np.uint8)
    smooth = np.add.outer(np.arange(90), np.arange(61))[..., None] * (1, 0.5, 1.5) % 256
    photograph = Image.fromarray(smooth.astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(folder / "noise.png")
    Image.fromarray(noise).save(folder / "transparent.png")
    Image.fromarray(noise[..., 0]).save(folder / "grey.png")
    photograph.save(folder / "image.jpg", quality=95)
    photograph.save(folder / "turned.jpg", quality=95, exif=turned)
    return folder


@pytest.fixture
def copied(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site, tmp_path / "web"))


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with opened(browser) as page:
        yield page


def wait_until(page: Any, selector: str, text: str) -> None:
    """Wait until what ``selector`` finds has ``text`` in it."""
    page.locator(selector, has_text=text).wait_for(timeout=SECONDS)


def visit(page: Any, address: str) -> None:
    page.goto(address)
    wait_until(page, "#status", "Ready.")


def choose(page: Any, image: Path) -> None:
    page.set_input_files("#file", str(image))
    wait_until(page, "#status", "ms for the network")


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


def relabel(folder: Path, label: str) -> None:
    """Give all classes of an artifact the name ``label``."""
    ids = [each.id for each in read_contract(folder / "contract.json").classes]
    classes = tuple(ClassLabel(id=name, name=label) for name in ids)
    forge(folder, {"labels.txt": classes_text(classes).encode()}, classes=classes)


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
        opened(browser, color_scheme=colours, bypass_csp=True) as page,
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


def promise_too_much(folder: Path, *, known: bool = False) -> None:
    """Forge a promise that keeps every answer back."""
    promise = Promise(
        error=0.01, confidence=0.95, threshold=1.0, coverage=0.1, pictures=300, split="val"
    )
    unlike = Known(score="energy", threshold=1e6, kept=0.95, pictures=300, split="val")
    forge(folder, promise=promise, known=unlike if known else None)


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
    copied: Path, browser: Any, changed: bool
) -> None:
    elsewhere = json.loads((copied / "runtime.json").read_text()) | {"address": ADDRESS}
    (copied / "runtime.json").write_text(json.dumps(elsewhere))

    def give(route: Any) -> None:
        name = route.request.url.removeprefix(ADDRESS)
        if changed and name.endswith(".wasm"):  # one changed file is enough
            route.abort()
            return
        content = (MODULES / PACKAGE / "dist" / name).read_bytes() + b"\n" * changed
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
