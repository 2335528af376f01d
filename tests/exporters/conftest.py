"""The web target's page, an artifact of it with images, and a browser for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.artifact.web_runtime import PACKAGE, VERSION, find_package
from mobilette.errors import InputError
from mobilette.run.directory import Run, open_run
from mobilette.workflows.export import export
from tests.browser import CAMERA, chromium, opened
from tests.exporters.web_page import NEIGHBOUR

# Without a GPU, WebGPU is emulated; pages that ask for nothing are executed by WASM.
GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


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
def runtime() -> Path:
    """Return onnxruntime-web's folder; tests are skipped where there is none."""
    try:
        return find_package(PACKAGE, VERSION)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bundle(runtime: Path, calibrated: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
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
