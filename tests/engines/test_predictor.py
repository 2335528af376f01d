from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.engines.load import load, open_engine
from mobilette.engines.predictor import Failure, Prediction
from mobilette.errors import InputError
from mobilette.run.directory import Run
from tests.artifact.forging import forge
from tests.conftest import COLOURS


@pytest.mark.parametrize("which", ["run", "artifact"])
def test_paths_images_and_arrays_give_the_right_colour(
    which: str, trained: Run, exported: Artifact, pictures: Path
) -> None:
    predictor = load(trained.path if which == "run" else exported.path)
    for name in COLOURS:
        path = pictures / name / "1.png"
        image = Image.open(path).convert("RGB")
        answers = predictor.predict([path, str(path), image, np.asarray(image)])
        assert [answer.label for answer in answers] == [name] * 4
        assert len({answer.probability for answer in answers}) == 1
        assert answers[0].path == str(path)
        assert sum(guess.probability for guess in answers[0].top) == pytest.approx(1.0)


def test_run_and_artifact_agree_on_any_number_of_pictures(trained: Run, exported: Artifact) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 3, 16, 16), dtype=np.uint8)
    ours, theirs = load(exported.path), load(trained.path)
    for count in (1, 32, 70):
        answer = ours.logits(pixels[:count])
        assert answer.shape == (count, 3)
        np.testing.assert_allclose(answer, theirs.logits(pixels[:count]), atol=1e-4)


def test_a_picture_that_cannot_be_read_costs_only_itself(
    exported: Artifact, pictures: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "text.jpg"
    bad.write_text("no picture")
    good = pictures / "red" / "0.png"
    predictor = load(exported.path)
    answers = list(predictor.predict_each([bad, good, tmp_path / "missing.png"]))
    assert isinstance(answers[0], Failure)
    assert isinstance(answers[1], Prediction)
    assert isinstance(answers[2], Failure)
    with pytest.raises(InputError, match=r"text\.jpg"):
        predictor.predict([good, bad])


def test_an_image_is_treated_as_its_file_is(exported: Artifact, tmp_path: Path) -> None:
    """Orientation and transparency count for an opened image as they do for a path."""
    path = tmp_path / "turned.png"
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:, :15] = (200, 50, 40, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    from_file, from_image = load(exported.path).predict([path, Image.open(path)])
    assert from_file.top == from_image.top


def test_one_image_instead_of_several_is_refused(exported: Artifact) -> None:
    with pytest.raises(InputError, match="give .image."):
        load(exported.path).predict("cat.jpg")


@pytest.mark.parametrize("which", ["run", "artifact"])
def test_devices(which: str, trained: Run, exported: Artifact) -> None:
    path = trained.path if which == "run" else exported.path
    assert load(path, device="auto").classes == trained.classes
    with pytest.raises(InputError, match="device"):
        load(path, device="abacus")


def test_load_says_what_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder that is neither"):
        load(tmp_path)
    (tmp_path / "model.pt").touch()
    with pytest.raises(InputError, match=r"model\.pt: is a file"):
        load(tmp_path / "model.pt")
    with pytest.raises(InputError, match="is not there"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x07" + bytes(100)])
def test_the_engines_refusal_is_one_line(content: bytes, artifact_copy: Path) -> None:
    artifact = forge(artifact_copy, {"model.onnx": content})
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime does not accept") as caught:
        open_engine(artifact)
    assert "\n" not in str(caught.value)
