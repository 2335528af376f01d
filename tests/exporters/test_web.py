"""The web target: its model under node, its module against Pillow, its page in a browser."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact, read_contract
from mobilette.data.decoding import upright_and_plain
from mobilette.data.preprocess import Preprocess, preset
from mobilette.engines.load import load
from mobilette.engines.onnxruntime_web import (
    NODE_MODULES,
    PACKAGE,
    VERSION,
    OnnxRuntimeWebPredictor,
    describe_runtime,
    find_node,
    find_package,
)
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS
from mobilette.model.answering import Known, Promise
from mobilette.run.directory import Run, open_run
from mobilette.verification.readme import JavaScriptGeometry
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.artifact.forging import forge
from tests.exporters.browser import CHROMIUM, Browser, served

try:
    find_node()
    MODULES = find_package(PACKAGE, VERSION, artifact=Path(__file__)).parent
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module", params=TARGETS["web"].precisions)
def web(
    request: pytest.FixtureRequest, trained: Run, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    return export(trained, to="web", precision=request.param, out=tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def calibrated(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the run with a temperature."""
    copy = Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("calibrated") / "run"))
    (copy / "answering.json").write_text('{"temperature": 1.7}')
    return open_run(copy)


@pytest.fixture(scope="module")
def fp32(calibrated: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(calibrated, to="web", precision="fp32", out=tmp_path_factory.mktemp("web"))


@pytest.fixture
def web_copy(fp32: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fp32.path, tmp_path / "web"))


def test_it_is_a_page_with_a_pinned_package(fp32: Artifact) -> None:
    package = json.loads((fp32.path / "package.json").read_text())
    assert package["dependencies"] == {PACKAGE: "~" + VERSION}
    assert {path.name for path in fp32.path.iterdir()} == {
        *("model.onnx", "index.html", "mobilette.js", "package.json"),
        *("contract.json", "golden.npz", "labels.txt", "README.md"),
    }


def test_it_answers_under_node_as_the_checkpoint(web: Artifact, trained: Run, images: Path) -> None:
    verdict = verify(web.path, images, checkpoint=trained.path, max_drop=5.0)
    assert verdict.passed, verdict.failures
    assert verdict.engine == "ONNX Runtime Web"
    assert (verdict.images, verdict.readme_images) == (24, 16)
    if web.contract.precision == "fp32":
        assert verdict.max_abs_diff < 1e-4


def test_several_images_at_once_are_answered_as_each_alone(fp32: Artifact) -> None:
    predictor, golden = load(fp32.path, threads=1), fp32.golden
    alone = np.concatenate([predictor.logits(golden.inputs[i : i + 1]) for i in range(8)])
    assert np.abs(predictor.logits(golden.inputs) - alone).max() < 1e-5


CAFFE = preset("caffe")
GEOMETRIES = {
    "crop": CAFFE,
    "crop bicubic": replace(CAFFE, interpolation="bicubic", crop_fraction=0.875),
    "crop in the middle": replace(CAFFE, crop_fraction=0.3),
    "squash": replace(CAFFE, resize="squash"),
    "squash bicubic": replace(CAFFE, resize="squash", interpolation="bicubic"),
    "pad": replace(CAFFE, resize="pad"),
    "pad bicubic": replace(CAFFE, resize="pad", interpolation="bicubic"),
    "pad grey": preset("torch", in_channels=1, resize="pad"),
    "crop grey": preset("torch", in_channels=1),
}
SIZES = ((64, 64), (1, 1), (90, 71), (71, 90), (65, 64), (300, 11), (7, 200), (3, 500), (500, 3))


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (90, 24)])
@pytest.mark.parametrize("preprocess", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_the_module_prepares_images_as_python_does(
    fp32: Artifact, preprocess: Preprocess, size: tuple[int, int]
) -> None:
    """To the last bit; noise is the hardest image, and transparency is laid over white."""
    contract = fp32.contract
    arch = replace(contract.arch, resolution=size, in_channels=preprocess.channels)
    shape = (preprocess.channels, *size)
    contract = replace(
        contract, arch=arch, preprocess=preprocess, input=replace(contract.input, shape=shape)
    )
    geometry, generator = JavaScriptGeometry(contract), np.random.default_rng(0)
    for width, height in SIZES:
        for channels in (3, 4):
            pixels = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
            image = Image.fromarray(pixels)
            expected = preprocess.geometry(upright_and_plain(image), size)
            difference = np.abs(geometry.prepare(image).astype(int) - expected).max()
            assert difference == 0, (width, height, channels)


def install(folder: Path) -> Path:
    """Copy the package into a folder called node_modules, as npm would."""
    package = folder / "node_modules" / PACKAGE
    shutil.copytree(MODULES / PACKAGE / "dist", package / "dist")
    shutil.copy(MODULES / PACKAGE / "package.json", package)
    shutil.copytree(MODULES / "onnxruntime-common", package.with_name("onnxruntime-common"))
    return package


COMMAND = r"npm install --ignore-scripts onnxruntime-web@1\.30\.0"


def test_what_to_type_where_the_package_is_missing(
    fp32: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NODE_MODULES, str(tmp_path))
    with pytest.raises(InputError, match=rf"onnxruntime-web is not in .*; {COMMAND} installs"):
        load(fp32.path)
    monkeypatch.delenv(NODE_MODULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "my venv"))
    there = rf"'{tmp_path}/my venv/node' installs it \(MOBILETTE_NODE_MODULES"
    with pytest.raises(InputError, match=rf"{COMMAND} --prefix {there}") as caught:
        load(fp32.path)
    assert f"not in node_modules or {tmp_path}/my venv/node/node_modules;" in str(caught.value)
    assert describe_runtime() == str(caught.value)


def test_the_package_that_make_installed_is_found(
    fp32: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make engines` puts it into the virtual environment, from where nobody exports a variable."""
    monkeypatch.delenv(NODE_MODULES, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    package = install(tmp_path / "venv" / "node")
    assert find_package(PACKAGE, VERSION, artifact=fp32.path) == package
    assert verify(fp32.path).passed
    assert describe_runtime() == f"onnxruntime-web 1.30.0 in {package.parent}"
    nearer = install(tmp_path)
    assert find_package(PACKAGE, VERSION, artifact=fp32.path) == nearer


def test_what_to_do_where_node_is_missing(
    fp32: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NODE_MODULES, str(MODULES))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="node is not installed"):
        load(fp32.path)


def test_a_package_in_the_artifacts_own_folder_is_not_executed(
    web_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(web_copy)
    monkeypatch.delenv(NODE_MODULES, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is not in node_modules"):
        load(web_copy)
    monkeypatch.chdir(web_copy)
    own = "node_modules is inside the artifact, which cannot supply its own engine"
    with pytest.raises(InputError, match=rf"{COMMAND} --prefix .* installs it; {own}"):
        load(web_copy)


def test_a_module_that_was_forged_is_refused_and_not_executed(web_copy: Path, trained: Run) -> None:
    witness = web_copy / "executed"
    harm = f'import {{ writeFileSync }} from "node:fs"; writeFileSync({str(witness)!r}, "");\n'
    other = harm + (web_copy / "mobilette.js").read_text().replace("32768", "0")
    forge(web_copy, {"mobilette.js": other.encode()})
    with pytest.raises(InputError, match="no such folder"):
        verify(web_copy, web_copy / "nothing")
    images = web_copy / "set"
    for name in ("red", "blue"):
        (images / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), name).save(images / name / "0.png")
    verdict = verify(web_copy, images, checkpoint=trained.path)
    assert "mobilette.js: its image code differs from what Mobilette writes" in verdict.failures
    assert not witness.exists()


@pytest.mark.parametrize(
    ("cut", "message"), [(0.5, "not a complete ONNX file"), (0.0, "no contract inside the model")]
)
def test_half_a_model_whose_hash_was_forged(web_copy: Path, cut: float, message: str) -> None:
    content = (web_copy / "model.onnx").read_bytes()
    forge(web_copy, {"model.onnx": content[: int(cut * len(content))]})
    with pytest.raises(InputError, match=rf"model\.onnx: {message}"):
        load(web_copy)


def test_a_model_that_the_engine_refuses(web_copy: Path) -> None:
    import onnx

    model = onnx.load(web_copy / "model.onnx")
    model.graph.node[1].op_type = "Nonsense"
    forge(web_copy, {"model.onnx": model.SerializeToString()})
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime Web does not accept it"):
        load(web_copy)


def test_a_node_that_ends_says_so(fp32: Artifact) -> None:
    """In one line; the next call starts another, and it ends when the predictor is gone."""
    predictor, pixels = load(fp32.path), fp32.golden.inputs
    assert isinstance(predictor, OnnxRuntimeWebPredictor)
    expected = predictor.logits(pixels)
    with predictor.session() as node:
        node.process.kill()
    with pytest.raises(InputError, match="ONNX Runtime Web failed .node ended with status -9"):
        predictor.logits(pixels)
    np.testing.assert_array_equal(predictor.logits(pixels), expected)
    with predictor.session() as node:
        process = node.process
    del node, predictor
    assert process.returncode == 0


# The page and the README's lines, in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def site(fp32: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact's folder as somebody serves it: with the package, and images."""
    folder = Path(shutil.copytree(fp32.path, tmp_path_factory.mktemp("site") / "web"))
    shutil.copytree(MODULES / PACKAGE / "dist", folder / "node_modules" / PACKAGE / "dist")
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


# How far a probability may be from Python's: browsers decode JPEG, and multiply by transparency,
# with a rounding of their own.
NEAR = {"noise.png": 1e-5, "grey.png": 1e-5, "transparent.png": 0.02, "image.jpg": 0.02}
ROWS = "document.querySelectorAll('#answer li')"
ANSWER = f"{ROWS}.length && JSON.stringify(Array.from({ROWS}, (row) => ({{...row.dataset}})))"


@pytest.mark.parametrize("name", [*NEAR, "turned.jpg"])
def test_the_page_answers_as_the_checkpoint(
    site: Path, browser: Browser, calibrated: Run, name: str
) -> None:
    with served(site) as address:
        browser.open(f"{address}index.html?image={name}")
        answer = json.loads(browser.value(ANSWER))
    expected = CheckpointPredictor(calibrated).predict([site / name])[0].top
    assert [row["id"] for row in answer] == [guess.id for guess in expected]
    for row, guess in zip(answer, expected, strict=True):
        near = NEAR.get(name, 0.02)
        assert float(row["probability"]) == pytest.approx(guess.probability, abs=near)
    assert "ms for the network" in browser.value("document.getElementById('status').textContent")


def test_the_readmes_javascript_runs_as_printed(
    site: Path, browser: Browser, calibrated: Run
) -> None:
    text = (site / "README.md").read_text()
    assert "```python" not in text
    code = text.partition("```javascript\n")[2].partition("```")[0]
    capture = "<script>console.log = (...said) => (document.title = said.join(' '))</script>"
    page = f'<!doctype html>{capture}<script type="module">{code}</script>'
    (site / "readme.html").write_text(page)
    with served(site) as address:
        browser.open(f"{address}readme.html")
        label, probability, _, _ = browser.value("document.title").split()
    expected = CheckpointPredictor(calibrated).predict([site / "image.jpg"])[0]
    assert label == expected.label
    assert float(probability) == pytest.approx(expected.probability, abs=0.02)


@pytest.mark.parametrize("reason", ["not sure enough", "unlike the known images"])
def test_the_page_and_the_readme_say_unknown(site: Path, browser: Browser, reason: str) -> None:
    """With the best guesses below it."""
    promise = Promise(
        error=0.01, confidence=0.95, threshold=1.0, coverage=0.1, pictures=300, split="val"
    )
    known = Known(score="energy", threshold=1e6, kept=0.95, pictures=300, split="val")
    unlike = reason.startswith("unlike")
    before = read_contract(site / "contract.json")
    try:
        forge(site, promise=promise, known=known if unlike else None)
        with served(site) as address:
            browser.open(f"{address}index.html?image=noise.png")
            answer = json.loads(browser.value(ANSWER))
            said = browser.value("document.getElementById('unknown').textContent")
            assert browser.value("String(document.getElementById('unknown').hidden)") == "false"
        assert said == f"unknown: {reason}. The best guesses:"
        expected = load(site).predict([site / "noise.png"])[0]
        assert (expected.label, expected.reason) == ("unknown", reason)
        assert [row["id"] for row in answer] == [guess.id for guess in expected.top]
    finally:
        forge(site, promise=before.promise, known=before.known)


def test_the_page_opened_from_disk_says_what_to_do(fp32: Artifact, browser: Browser) -> None:
    browser.open((fp32.path / "index.html").as_uri())
    said = browser.value("document.querySelector('#status.error')?.textContent")
    assert "npm install --ignore-scripts" in said
    assert "python -m http.server" in said


def test_the_page_without_its_runtime_says_what_to_do(fp32: Artifact, browser: Browser) -> None:
    with served(fp32.path) as address:
        browser.open(f"{address}index.html")
        said = browser.value("document.querySelector('#status.error')?.textContent")
    there = f"{address}node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"
    assert said == f'Not there: {there}; run "npm install --ignore-scripts" in this folder, once.'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "text.jpg").write_text("no"), "This image cannot be used"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"no"), "changed since the export"),
    ],
)
def test_the_page_says_what_is_wrong(
    site: Path, browser: Browser, tmp_path: Path, change: object, said: str
) -> None:
    folder = Path(shutil.copytree(site, tmp_path / "web"))
    assert callable(change)
    change(folder)
    with served(folder) as address:
        browser.open(f"{address}index.html?image=text.jpg")
        assert said in browser.value("document.querySelector('#status.error')?.textContent")
