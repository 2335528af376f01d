from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.engines.images import ImageLike
from mobilette.engines.load import load
from mobilette.engines.predictor import AHEAD, BATCH, Failure, Prediction
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.run.metrics import largest
from mobilette.verification.evaluate import evaluate
from tests.accepted.asking import ColourPredictor
from tests.artifact.forging import forge
from tests.conftest import COLOURS


@pytest.mark.parametrize("which", ["run", "artifact"])
def test_paths_images_and_arrays_give_the_right_colour(
    which: str, trained: Run, exported: Artifact, images: Path
) -> None:
    predictor = load(trained.path if which == "run" else exported.path)
    for name in COLOURS:
        path = images / name / "1.png"
        image = Image.open(path).convert("RGB")
        answers = predictor.predict([path, str(path), image, np.asarray(image)])
        assert [answer.label for answer in answers] == [name] * 4
        assert len({answer.probability for answer in answers}) == 1
        assert answers[0].path == str(path)
        assert sum(guess.probability for guess in answers[0].top) == pytest.approx(1.0)


def test_run_and_artifact_agree_on_any_number_of_images(trained: Run, exported: Artifact) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 3, 16, 16), dtype=np.uint8)
    ours, theirs = load(exported.path), load(trained.path)
    for count in (1, 32, 70):
        answer = ours.logits(pixels[:count])
        assert answer.shape == (count, 3)
        np.testing.assert_allclose(answer, theirs.logits(pixels[:count]), atol=1e-4)


def test_a_runs_threads_are_those_asked_for_while_it_answers(trained: Run) -> None:
    predictor, before, seen = load(trained.path, threads=2), torch.get_num_threads(), []
    assert isinstance(predictor, CheckpointPredictor)
    predictor.network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    for threads in (1, 2):
        predictor.threads = threads
        predictor.logits(np.zeros((1, 3, 16, 16), np.uint8))
    assert seen == [1, 2]
    assert torch.get_num_threads() == before


def test_a_image_that_cannot_be_read_costs_only_itself(
    exported: Artifact, images: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "text.jpg"
    bad.write_text("no image")
    good = images / "red" / "0.png"
    predictor = load(exported.path)
    answers = list(predictor.predict_each([bad, good, tmp_path / "missing.png"]))
    assert isinstance(answers[0], Failure)
    assert isinstance(answers[1], Prediction)
    assert isinstance(answers[2], Failure)
    with pytest.raises(InputError, match=r"text\.jpg"):
        predictor.predict([good, bad])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_answers_do_not_depend_on_the_threads_that_decode(
    workers: int, exported: Artifact, images: Path, tmp_path: Path
) -> None:
    """In order, broken ones among them, and the same image object several times."""
    predictor = load(exported.path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    shared_image = Image.open(images / "red" / "0.png")
    paths = sorted(images.rglob("*.png"))[:90]
    asked: list[ImageLike] = [*paths, broken, shared_image, shared_image, *paths[:7]]
    answers = list(predictor.predict_each(asked, workers=workers))
    assert [answer.path for answer in answers] == [
        *map(str, paths),
        str(broken),
        "",
        "",
        *map(str, paths[:7]),
    ]
    assert isinstance(answers[90], Failure)
    assert answers[:7] == answers[-7:]
    assert answers[:3] == predictor.predict(paths[:90])[:3]


def test_predict_answers_as_evaluate_does(exported: Artifact, images: Path) -> None:
    predictor = load(exported.path)
    right = [
        answer.label == Path(answer.path).parent.name
        for answer in predictor.predict(sorted(images.rglob("*.png")))
    ]
    assert sum(right) / len(right) == evaluate(predictor, images, include_trained=True).top1


def test_images_are_read_only_as_they_are_needed(exported: Artifact, images: Path) -> None:
    taken = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(1)
            yield images / "red" / "0.png"

    answers = load(exported.path).predict_each(endless(), workers=2)
    assert isinstance(next(answers), Prediction)
    assert len(taken) <= AHEAD + BATCH
    answers.close()
    assert not any(thread.name.startswith("decoding") for thread in threading.enumerate())


@pytest.mark.parametrize("count", [1, 5, 9, 20])
def test_the_largest_are_those_of_a_whole_sort(count: int) -> None:
    generator = np.random.default_rng(0)
    for size in (1, 5, 9, 1000):
        for values in (generator.random(size), generator.integers(0, 3, size) / 3):
            expected = np.argsort(-values, kind="stable")[:count]
            assert largest(values, count).tolist() == expected.tolist()


class Overflowing(ColourPredictor):
    """Gives `inf` where an image is white, as weights that are too large do."""

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = super().batch_logits(pixels)
        return np.where(logits > 31, np.float32(np.inf), logits)


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_answer_that_is_no_number_is_none(multi_label: bool) -> None:
    predictor = Overflowing()
    predictor.multi_label = multi_label
    white, red = np.full((2, 9, 9, 3), 255, np.uint8)
    red[..., 1:] = 0
    red[..., 0] = 200
    first, second = predictor.predict_each([white, red])
    assert isinstance(first, Failure)
    assert "is not finite" in first.error
    assert isinstance(second, Prediction)
    assert second.label == "red"


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
    with pytest.raises(InputError, match="is neither a run nor an artifact"):
        load(tmp_path)
    (tmp_path / "model.pt").touch()
    with pytest.raises(InputError, match=r"model\.pt: is a file"):
        load(tmp_path / "model.pt")
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x07" + bytes(100)])
def test_the_engines_refusal_is_one_line(content: bytes, artifact_copy: Path) -> None:
    artifact = forge(artifact_copy, {"model.onnx": content})
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime does not accept") as caught:
        open_engine(artifact)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["\0", "x" * 5000])
def test_a_path_that_can_be_none_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(path)


def test_load_names_the_artifacts_in_a_folder(exported: Artifact) -> None:
    with pytest.raises(InputError, match=rf"{exported.path.name}.* in it can be loaded"):
        load(exported.path.parent)
    with pytest.raises(InputError, match="https://example.com/model: "):
        load("https://example.com/model")
