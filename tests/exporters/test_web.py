"""The web target: its model under node, its module against Pillow, and onnxruntime-web in it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.artifact.web_runtime import (
    FOLDER,
    INTEGRITY,
    NODE_MODULES,
    PACKAGE,
    VERSION,
    find_package,
)
from mobilette.data.decoding import upright_and_plain
from mobilette.data.preprocess import Preprocess, preset
from mobilette.engines.load import load
from mobilette.engines.onnxruntime_web import (
    OnnxRuntimeWebPredictor,
    describe_runtime,
    find_node,
)
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS
from mobilette.exporters.web import PAGE_FILES
from mobilette.run.directory import Run
from mobilette.verification.readme import JavaScriptGeometry
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.artifact.forging import forge

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
def fp32(calibrated: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(calibrated, to="web", precision="fp32", out=tmp_path_factory.mktemp("web"))


@pytest.fixture
def web_copy(fp32: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fp32.path, tmp_path / "web"))


def test_it_is_a_page_with_a_pinned_runtime(fp32: Artifact) -> None:
    runtime = json.loads((fp32.path / "runtime.json").read_text())
    assert runtime["address"] == "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"
    named = {name for kind in runtime["kinds"].values() for name in kind.values()}
    assert named == set(runtime["integrity"])
    assert all(each.startswith("sha384-") for each in runtime["integrity"].values())
    assert {path.name for path in fp32.path.iterdir()} == {
        *("model.onnx", *PAGE_FILES, "runtime.json"),
        *("contract.json", "golden.npz", "labels.txt", "README.md"),
    }
    measured = fp32.contract.measured
    assert measured is not None
    assert measured.size_bytes == (fp32.path / "model.onnx").stat().st_size


def test_a_bundle_has_npms_files_in_it(trained: Run, tmp_path: Path) -> None:
    """With their hashes in the contract; `verify` knows them, whatever the contract says."""
    artifact = export(trained, to="web", out=tmp_path, bundle=True)
    assert json.loads((artifact.path / "runtime.json").read_text())["address"] == f"./{FOLDER}/"
    for name in INTEGRITY:
        assert artifact.read(f"{FOLDER}/{name}") == (MODULES / PACKAGE / "dist" / name).read_bytes()
    assert verify(artifact).passed
    name = f"{FOLDER}/ort.wasm.bundle.min.mjs"
    changed = artifact.read(name) + b"\n"
    (artifact.path / name).write_bytes(changed)
    with pytest.raises(InputError, match=f"{name}: changed since the export"):
        open_artifact(artifact.path)
    forge(artifact.path, {name: changed})
    assert f"{name}: not that of npm's onnxruntime-web 1.30.0" in verify(artifact.path).failures


def test_what_cannot_be_bundled(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="--bundle puts an engine into a page; --to onnx has none"):
        export(trained, to="onnx", out=tmp_path, bundle=True)
    monkeypatch.setenv(NODE_MODULES, str(tmp_path / "node_modules"))
    with pytest.raises(InputError, match=rf"onnxruntime-web is not in .*; {COMMAND} installs it"):
        export(trained, to="web", out=tmp_path, bundle=True)
    package = install(tmp_path)
    (package / "dist" / "ort.wasm.bundle.min.mjs").write_text("another")
    wrong = r"ort\.wasm\.bundle\.min\.mjs: not that of onnxruntime-web 1\.30\.0; npm install"
    with pytest.raises(InputError, match=wrong):
        export(trained, to="web", out=tmp_path, bundle=True)
    assert [path.name for path in tmp_path.iterdir()] == ["node_modules"]


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
