"""The lines of an artifact's README, on files that are not plain RGB."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.contract import Contract
from mobilette.artifact.directory import Artifact
from mobilette.data.decoding import decode
from mobilette.data.preprocess import preset
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.verification.readme import check_readme, readme_pixels
from mobilette.verification.verify import verify
from tests.artifact.forging import forge, read_contract


def _encoded(mode: str, *, kind: str = "PNG", orientation: int = 1) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 21, 4), dtype=np.uint8)
    image, exif = Image.fromarray(pixels).convert(mode), Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


FILES = {
    "RGB": _encoded("RGB"),
    "RGBA": _encoded("RGBA"),
    "grey": _encoded("L"),
    "grey, transparent": _encoded("LA"),
    "palette": _encoded("P"),
    "black and white": _encoded("1"),
    "JPEG": _encoded("RGB", kind="JPEG"),
    "JPEG, CMYK": _encoded("CMYK", kind="JPEG"),
    "JPEG, turned": _encoded("RGB", kind="JPEG", orientation=6),
    "JPEG, mirrored": _encoded("RGB", kind="JPEG", orientation=5),
}


@pytest.mark.parametrize("encoded", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("channels", [3, 1])
def test_the_lines_prepare_what_predict_does(
    exported: Artifact, encoded: bytes, channels: int
) -> None:
    contract = _with_channels(exported.contract, channels)
    expected = contract.preprocess.geometry(decode(encoded), 16)
    assert np.array_equal(readme_pixels(contract, encoded), expected)


def _with_channels(contract: Contract, channels: int) -> Contract:
    return replace(
        contract,
        arch=replace(contract.arch, in_channels=channels),
        preprocess=preset("torch", in_channels=channels),
        input=replace(contract.input, colour="grey" if channels == 1 else "rgb"),
    )


def test_lines_that_were_forged_fail_and_are_not_executed(
    artifact_copy: Path, images: Path
) -> None:
    witness = artifact_copy.parent / "executed"
    text = (artifact_copy / "README.md").read_text()
    harm = f"image = Path({str(witness)!r}).touch() or ImageOps.exif_transpose"
    forge(artifact_copy, {"README.md": text.replace("image = ImageOps", harm).encode()})
    verdict = verify(artifact_copy, images)
    assert verdict.failures == ("README.md: its image code differs from what Mobilette writes",)
    assert not witness.exists()


def test_lines_of_another_version_are_only_noted(artifact_copy: Path, images: Path) -> None:
    versions = dict(read_contract(artifact_copy).versions) | {"mobilette": "0.0.1"}
    artifact = forge(artifact_copy, {"README.md": b"Written otherwise."}, versions=versions)
    checked = check_readme(artifact, find_images(images).splits["all"])
    assert (checked.images, checked.failures) == (0, ())
    assert "README.md: its image code differs from what Mobilette" in checked.notes[0]


def test_images_that_the_lines_are_not_for_are_left_out(exported: Artifact, tmp_path: Path) -> None:
    for name in ("blue", "red"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), name).save(tmp_path / name / "plain.png")
        Image.new("RGB", (1300, 20), name).save(tmp_path / name / "strip.png")
        Image.new("I;16", (20, 20)).save(tmp_path / name / "deep.png")
        shutil.copy(__file__, tmp_path / name / "text.png")
    checked = check_readme(exported, find_images(tmp_path).splits["all"])
    assert (checked.images, checked.failures, checked.notes) == (2, (), ())


@pytest.mark.parametrize("points", [-1.0, 101.0, float("nan")])
def test_a_drop_that_is_none(exported: Artifact, points: float) -> None:
    with pytest.raises(InputError, match="--max-drop .* is not between"):
        verify(exported.path, max_drop=points)
