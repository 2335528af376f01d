from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mobilette.artifact.directory import Artifact
from mobilette.engines.load import load
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.artifact.forging import forge

pytest.importorskip("executorch")


@pytest.fixture(scope="module")
def artifact(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="executorch", out=tmp_path_factory.mktemp("executorch"))


@pytest.fixture
def folder(artifact: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact.path, tmp_path / "copy" / "executorch"))


def test_a_faithful_artifact_passes(artifact: Artifact, images: Path) -> None:
    verdict = verify(artifact.path, images)
    assert verdict.passed
    assert verdict.max_abs_diff < 1e-3
    assert verdict.top1_agreement == 1.0


def test_any_number_of_images_and_threads(artifact: Artifact) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 3, 16, 16), dtype=np.uint8)
    answers = [load(artifact.path, threads=threads).logits(pixels) for threads in (0, 2, 1)]
    turned = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    answers.append(load(artifact.path).logits(turned))
    assert answers[0].shape == (37, 3)
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=1e-5)


@pytest.mark.parametrize("kept", [0, 11, 63, 0.5, 0.999])
def test_a_program_cut_short_whose_hash_fits_is_refused(kept: float, folder: Path) -> None:
    content = (folder / "model.pte").read_bytes()
    count = int(kept * len(content)) if kept < 1 else int(kept)
    with pytest.raises(InputError, match=r"model\.pte: .*cut short"):
        open_engine(forge(folder, {"model.pte": content[:count]}))


def test_another_contract_inside_is_refused(folder: Path) -> None:
    content = (folder / "model.pte").read_bytes()
    assert b'"blue"' in content
    forged = forge(folder, {"model.pte": content.replace(b'"blue"', b'"glue"')})
    with pytest.raises(InputError, match="contract inside the model differs"):
        open_engine(forged)


def test_noise_behind_a_good_header_is_refused(folder: Path) -> None:
    content = (folder / "model.pte").read_bytes()
    noise = np.random.default_rng(0).bytes(len(content) - 64)
    with pytest.raises(InputError, match=r"model\.pte: damaged: .* points outside the file"):
        open_engine(forge(folder, {"model.pte": content[:64] + noise}))


def test_a_program_for_another_delegate_is_refused(folder: Path) -> None:
    content = (folder / "model.pte").read_bytes()
    other = content.replace(b"XnnpackBackend", b"VulkanBackend!")
    with pytest.raises(InputError, match="expected a method 'forward' with XnnpackBackend"):
        open_engine(forge(folder, {"model.pte": other}))
