"""Accuracy under shifts, of runs and artifacts, against `evaluate` on pictures shifted by hand."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mobilette.arch.catalogue import get_arch
from mobilette.artifact.directory import Artifact
from mobilette.data.shifts import SHIFTS, STRENGTHS, shifted
from mobilette.errors import InputError
from mobilette.progress import Reporter
from mobilette.run.directory import Run
from mobilette.verification.evaluate import evaluate
from mobilette.verification.shifts import Robustness, evaluate_shifts, keep, read_robustness
from tests.artifact.forging import forge
from tests.conftest import write_images
from tests.models import model_of


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("few") / "set", 3, size=28)


@pytest.fixture(scope="module")
def measured(trained: Run, few: Path) -> Robustness:
    return evaluate_shifts(trained, few, workers=0)


def _score(robustness: Robustness, shift: str, strength: int) -> float:
    return next(
        row.score for row in robustness.rows if (row.shift, row.strength) == (shift, strength)
    )


def test_it_is_what_evaluate_gives_on_pictures_shifted_by_hand(
    trained: Run, few: Path, measured: Robustness, tmp_path: Path
) -> None:
    assert measured.unshifted == evaluate(trained, few).top1
    assert measured.images == 9
    for shift, strength in (("white balance", 3), ("haze", 3), ("noise", 2)):
        root = tmp_path / f"{shift}{strength}"
        for path in sorted(few.glob("*/*.png")):
            name = path.relative_to(few).as_posix()
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shifted(Image.open(path), shift, strength, name=name).save(root / name)
        assert _score(measured, shift, strength) == evaluate(trained, root).top1
    scores = [row.score for row in measured.rows]
    assert min(scores) < measured.unshifted  # else nothing was shown
    assert measured.mean == pytest.approx(sum(scores) / 36)


def test_it_has_every_shift_at_every_strength_with_intervals(measured: Robustness) -> None:
    found = [(row.shift, row.strength) for row in measured.rows]
    assert found == [(shift, strength) for shift in SHIFTS for strength in STRENGTHS]
    for row in measured.rows:
        assert row.drop == pytest.approx(measured.unshifted - row.score)
        assert row.interval is not None
        assert row.drop_interval is not None
        assert row.interval[0] <= row.score <= row.interval[1]
        assert row.drop_interval[0] <= row.drop <= row.drop_interval[1]
    assert f"{measured.unshifted:.2%}" in measured._repr_html_()


def test_an_artifact_answers_like_its_run_and_processes_decode_like_one(
    exported: Artifact, few: Path, measured: Robustness
) -> None:
    of_artifact = evaluate_shifts(exported.path, few, workers=2)
    assert of_artifact.rows == measured.rows
    assert of_artifact.sha256 == exported.contract.sha256 != measured.sha256


def test_a_grey_network(trained: Run, few: Path) -> None:
    arch = get_arch("mobilenet_v1", width_mult=0.1, resolution=16, num_classes=3, in_channels=1)
    network = replace(model_of(arch), classes=trained.classes)
    found = evaluate_shifts(network, few, workers=0)
    assert found.unshifted == evaluate(network, few).top1
    grey = _grey_copies(few, few.parent / "grey")
    assert evaluate_shifts(network, grey, workers=0).images == 9


def _grey_copies(few: Path, root: Path) -> Path:
    for path in few.glob("*/*.png"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("L").save(root / path.parent.name / path.name)
    return root


def test_several_classes_per_image_are_measured_by_mean_average_precision(
    trained: Run, few: Path, tmp_path: Path
) -> None:
    model = replace(trained.model, multi_label=True)
    with (few / "list.csv").open("w") as file:
        rows = [
            (f"{c}/{n}.png", {"red": "red;green"}.get(c, c))
            for c in ("red", "green", "blue")
            for n in range(3)
        ]
        csv.writer(file).writerows([("path", "labels"), *rows])
    found = evaluate_shifts(model, few / "list.csv", workers=0)
    assert found.measure == "mean_average_precision"
    expected = evaluate(model, few / "list.csv")
    assert found.unshifted == expected.mean_average_precision
    assert found.interval is None
    assert {row.drop_interval for row in found.rows} == {None}


def test_a_broken_picture_is_left_out_and_named(trained: Run, few: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(few, tmp_path / "set"))
    (root / "red" / "0.png").write_bytes(b"no picture")
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    found = evaluate_shifts(
        trained,
        root,
        workers=0,
        max_unusable=0.2,
        reporter=Reporter(remark=said.append, reading=lambda *at: seen.append(at)),
    )
    assert found.images == 8
    assert [line for line in said if "left out: red/0.png" in line]
    assert seen[-1] == (8, 8)
    with pytest.raises(InputError, match=r"1 of 9 images cannot be used.*red/0.png"):
        evaluate_shifts(trained, root, workers=0)


def test_what_the_model_was_trained_on_is_left_out(trained: Run, tmp_path: Path) -> None:
    some = write_images(tmp_path / "set", 3)  # the first of its class are in the run's set
    found, expected = evaluate_shifts(trained, some, workers=0), evaluate(trained, some)
    assert found.trained_left_out == expected.trained_left_out > 0
    assert found.images == expected.images
    everything = evaluate_shifts(trained, some, include_trained=True, workers=0)
    assert (everything.images, everything.includes_trained) == (9, True)


def test_pictures_in_memory() -> None:
    model = model_of(get_arch("mobilenet_v1", width_mult=0.1, resolution=16, num_classes=10))
    found = evaluate_shifts(model, "digits", workers=0)
    expected = evaluate(model, "digits")
    assert (found.images, found.unshifted) == (expected.images, expected.top1)


def test_it_is_kept_beside_a_run_while_its_weights_are_the_same(
    measured: Robustness, run_copy: Path
) -> None:
    assert read_robustness(run_copy) is None
    keep(measured, run_copy)
    assert read_robustness(run_copy) == measured
    keep(replace(measured, sha256="0" * 64), run_copy)
    assert read_robustness(run_copy) is None
    (run_copy / "robustness.json").write_text("{}")
    with pytest.raises(InputError, match=r"robustness.json: key 'data' is missing"):
        read_robustness(run_copy)


def test_it_is_kept_beside_an_artifact_which_stays_whole(
    measured: Robustness, exported: Artifact, artifact_copy: Path
) -> None:
    of_artifact = replace(measured, sha256=exported.contract.sha256)
    keep(of_artifact, artifact_copy)
    assert read_robustness(artifact_copy) == of_artifact
    forge(artifact_copy, versions={})
    assert read_robustness(artifact_copy) is None
