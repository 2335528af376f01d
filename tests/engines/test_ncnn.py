from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mobilette.artifact.directory import Artifact
from mobilette.artifact.ncnn_layers import read_layers
from mobilette.engines.load import load
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.artifact.forging import forge

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

PARAM, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"


@pytest.fixture(scope="module")
def artifact(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="ncnn", out=tmp_path_factory.mktemp("ncnn"))


@pytest.fixture
def folder(artifact: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact.path, tmp_path / "copy" / "ncnn"))


def test_a_faithful_artifact_passes(artifact: Artifact, images: Path) -> None:
    verdict = verify(artifact.path, images)
    assert verdict.passed
    assert verdict.max_abs_diff < 1e-3
    assert verdict.top1_agreement == 1.0


def test_any_number_of_images_and_threads(artifact: Artifact) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 3, 16, 16), dtype=np.uint8)
    answers = [load(artifact.path, threads=threads).logits(pixels) for threads in (0, 1, 2)]
    turned = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    answers.append(load(artifact.path).logits(turned))
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=1e-5)


@pytest.mark.parametrize("kept", [0, 5, 0.3, 0.999])
@pytest.mark.parametrize("name", [PARAM, WEIGHTS])
def test_files_cut_short_whose_hashes_fit_are_refused(name: str, kept: float, folder: Path) -> None:
    content = (folder / name).read_bytes()
    count = int(kept * len(content)) if kept < 1 else int(kept)
    forged = forge(folder, {name: content[:count]})
    with pytest.raises(InputError, match=r"model\.ncnn\.param: not a complete ncnn model"):
        open_engine(forged)


LIES = {
    "another magic": ("7767517", "7767518", "begin with"),
    "an unknown layer": ("InnerProduct ", "Einsum ", "'Einsum' is not a layer"),
    "weights that are not there": ("0=3 1=1 2=", "0=3 1=1 2=9", "bytes of weights"),
    "a negative number": ("0=3 1=1 2=", "0=-3 1=1 2=", "0=-3"),
    "a huge number": ("0=3 1=1 2=", "0=99999999999 1=1 2=", "0=99999999999"),
    "another input": (" 1 in0\n", " 1 in1\n", "before it is written"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_the_layers_are_found_before_ncnn_sees_them(lie: str, folder: Path) -> None:
    before, after, message = LIES[lie]
    text = (folder / PARAM).read_text()
    assert before in text
    forged = forge(folder, {PARAM: text.replace(before, after, 1).encode()})
    with pytest.raises(InputError, match=message):
        open_engine(forged)


def test_another_contract_inside_is_refused(folder: Path) -> None:
    weights = (folder / WEIGHTS).read_bytes().replace(b'"blue"', b'"glue"')
    with pytest.raises(InputError, match="contract inside the model differs"):
        open_engine(forge(folder, {WEIGHTS: weights}))


def test_what_only_ncnn_knows_to_be_wrong_is_its_refusal(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (folder / PARAM).read_text().replace(" 0=3 1=1 ", " 0=3 1=1 99999=1 ", 1)
    with pytest.raises(InputError, match="ncnn does not accept it"):
        open_engine(forge(folder, {PARAM: text.encode()}))
    assert tuple(capfd.readouterr()) == ("", "")


def test_layers_may_not_refer_to_later_ones() -> None:
    lines = "7767517\n2 2\nReLU a 1 1 y x\nInput b 0 1 y\n"
    with pytest.raises(ValueError, match="a reads 'y' before it is written"):
        read_layers(lines)
