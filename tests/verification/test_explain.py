"""`explain`: what decides the class is found by both methods, and what does not is not believed."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mobilette
from mobilette.engines.answers import Failure
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.model.classes import ClassLabel
from mobilette.reporting.heat_grid import over, write_grid
from mobilette.run.directory import Run
from mobilette.verification.explain import class_index, explain, explain_each
from mobilette.verification.occlusion import CELLS, PART, check_map, occlusion_map, warmest
from mobilette.workflows.export import export
from tests.cli.test_cli import Capture, assert_refused, in_this_process
from tests.verification.corners import COLOURS, SIDE, corner_image, on_patch

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@pytest.fixture(scope="module")
def artifact(corners: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(corners, out=tmp_path_factory.mktemp("exports")).path


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_a_map_that_is_right_is_believed(method: str, corners: Run) -> None:
    images = [corner_image("red", corner, 70_000) for corner in CORNERS]
    found = explain(corners, images, method=method)  # type: ignore[arg-type]
    for corner, each in zip(CORNERS, found, strict=True):
        assert (each.label, each.method, each.path) == ("red", method, "")
        assert each.heat.shape == (SIDE, SIDE)
        left, top = (int(part * SIDE) for part in each.peak)
        assert on_patch((top, left), corner)
        assert each.check.believed, each.check.verdict
        assert each.check.ratio is None or each.check.ratio > 2
        assert each.check.hidden < each.check.elsewhere <= 1
        assert each.check.verdict.startswith("to be believed: ")


def test_a_map_that_is_wrong_is_not(corners: Run) -> None:
    """Warm in the corner opposite to the patch, or nowhere."""
    predictor = load(corners)
    for number, corner in enumerate(CORNERS):
        pixels = corner_image("blue", corner, 80_000 + number).transpose(2, 0, 1)
        heat = np.zeros((SIDE, SIDE), np.float32)
        rows, columns = (slice(0, 20) if far else slice(-20, None) for far in corner)
        heat[rows, columns] = 1
        check = check_map(predictor, pixels, heat, 0)
        assert not check.believed
        assert check.verdict.startswith("not to be believed: ")
        nothing = check_map(predictor, pixels, np.zeros_like(heat), 0)
        assert not nothing.believed
        assert nothing.verdict == "shows nothing: no place speaks for this class"


def test_run_and_artifact_agree(corners: Run, artifact: Path) -> None:
    images = [corner_image(colour, (0, 1), 60_000) for colour in COLOURS]
    by_run = explain(corners, images, method="occlusion")
    by_engine = explain(artifact, images)
    for one, other in zip(by_run, by_engine, strict=True):
        assert other.method == "occlusion"
        assert one.label == other.label
        np.testing.assert_allclose(one.map, other.map, atol=1e-3)
        assert one.check.believed == other.check.believed
        assert one.check.drop == pytest.approx(other.check.drop, abs=1e-3)


def test_occlusion_written_out(corners: Run) -> None:
    """One cell: the logits with a grey square there, and without."""
    predictor = load(corners)
    pixels = corner_image("green", (1, 0), 3).transpose(2, 0, 1)
    found = occlusion_map(predictor, pixels, 1)
    assert found.shape == (CELLS, CELLS)

    def odds(image: np.ndarray) -> float:
        blue, green, red = predictor.logits(image[None])[0].astype(float)
        return float(green - np.logaddexp(blue, red)) / predictor.answering.temperature

    whole, cell = odds(pixels), SIDE // CELLS
    drops = {}
    for row, column in ((7, 0), (6, 1), (3, 4)):
        hidden = pixels.copy()
        top, left = (cell * at - cell // 2 for at in (row, column))
        box = (slice(max(top, 0), top + 2 * cell), slice(max(left, 0), left + 2 * cell))
        hidden[:, box[0], box[1]] = 128
        drops[row, column] = max(whole - odds(hidden), 0)
    largest = drops[7, 0] / found[7, 0]
    assert largest > 0
    for (row, column), drop in drops.items():
        assert found[row, column] == pytest.approx(drop / largest, abs=1e-3)


def test_the_warmest_part() -> None:
    heat = np.linspace(0, 1, 100, dtype=np.float32).reshape(5, 20)
    mask = warmest(heat)
    assert mask.sum() == round(PART * 100)
    assert heat[mask].min() > heat[~mask].max()
    assert warmest(np.ones((5, 20), np.float32)).sum() == 20


def test_another_class_and_the_seed(corners: Run) -> None:
    image = corner_image("red", (0, 0), 1)
    (blue,) = explain(corners, [image], label="blue")
    assert (blue.label, blue.probability < 0.5) == ("blue", True)
    one, other, third = (explain(corners, [image], seed=seed)[0].check for seed in (1, 1, 2))
    assert one == other != third
    assert explain(corners, []) == ()


def test_names_of_classes() -> None:
    classes = tuple(
        ClassLabel(id=a, name=b) for a, b in (("n1", "cat"), ("n2", "crane"), ("n3", "crane"))
    )
    assert class_index(classes, "cat") == 0
    assert class_index(classes, "n3") == 2
    with pytest.raises(InputError, match="label 'cta' is none of the classes; did you mean 'cat'"):
        class_index(classes, "cta")
    with pytest.raises(InputError, match="the name of 2 classes; give an id: n2, n3"):
        class_index(classes, "crane")


def test_what_cannot_be_explained(corners: Run, artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs gradients, which an artifact has not"):
        explain(artifact, [], method="grad-cam")
    with pytest.raises(InputError, match=r"none\.png: cannot be read"):
        explain(corners, [tmp_path / "none.png"])
    with pytest.raises(InputError, match=r"several images are expected; give \[image\]"):
        explain(corners, "a.png")
    each = list(
        explain_each(load(corners), [tmp_path / "none.png", corner_image("red", (0, 0), 1)])
    )
    assert [isinstance(one, Failure) for one in each] == [True, False]
    assert mobilette.explain is explain


def test_the_page(corners: Run, tmp_path: Path) -> None:
    images = [Image.fromarray(corner_image(colour, (0, 1), 9)) for colour in COLOURS] * 2
    images[0] = images[0].convert("L").resize((31, 77))
    out = write_grid(explain(corners, images), tmp_path / "grid.png")
    with Image.open(out) as page:
        page.load()
        assert page.width > 1000
        assert page.width > page.height > 400
        colours = {colour for _, colour in page.convert("RGB").getcolors(2**24) or ()}
    assert len(colours) > 1000
    (each,) = explain(corners, [images[1]])
    shown = over(each.pixels, each.heat)
    assert shown.shape == (SIDE, SIDE, 3)
    assert 0 <= shown.min() <= shown.max() <= 1
    cold = each.heat == 0
    assert np.ptp(shown[cold], axis=1).max() < 1e-9  # grey


def test_each_is_printed_at_once_and_only_what_is_drawn_is_kept(
    corners: Run, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        Image.fromarray(corner_image("red", (1, 1), 4)).save(file)
    lines = list[int]()
    made, kept = list[Any](), list[Any]()

    def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
        for one in explain_each(*arguments, **options):
            lines.append(len(capsys.readouterr().out.splitlines()))
            made.append(weakref.ref(one))
            yield one
            del one
        kept.extend(one for one in made if one() is not None)

    monkeypatch.setattr("mobilette.verification.explain.explain_each", watched)
    monkeypatch.setattr("mobilette.reporting.heat_grid.MOST", 1)
    out = tmp_path / "grid.png"
    result = in_this_process(capsys, "explain", corners.path, *files, "--out", out)
    assert result.stderr == f"written: {out}, the first 1\n"
    assert lines == [0, 1, 1, 1]
    assert len(kept) == 2  # with the last, which is still at hand


def test_command(corners: Run, artifact: Path, tmp_path: Path, capsys: Capture) -> None:
    for colour in COLOURS:
        Image.fromarray(corner_image(colour, (1, 1), 4)).save(tmp_path / f"{colour}.png")
    (tmp_path / "x.png").write_bytes(b"none")
    out = tmp_path / "grid.png"
    result = in_this_process(
        capsys, "explain", corners.path, tmp_path / "*e*.png", tmp_path / "x.png", "--out", out
    )
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    assert [Path(line.partition(":")[0]).name for line in lines] == [
        "blue.png",
        "green.png",
        "red.png",
    ]
    assert last == "3 of 3 maps are to be believed"
    assert result.stderr.splitlines()[0].startswith(f"{tmp_path / 'x.png'}: not an image")
    assert result.stderr.splitlines()[1] == f"written: {out}"
    assert out.read_bytes().startswith(b"\x89PNG")
    refused = in_this_process(capsys, "explain", artifact, tmp_path / "red.png", "--out", out)
    assert_refused(refused, "exists")

    moving = tmp_path / "moving.gif"
    frames = [Image.fromarray(corner_image(colour, (1, 1), 4)) for colour in ("red", "blue")]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    result = in_this_process(capsys, "explain", artifact, moving)
    assert result.stderr == f"1 image is animated; the first frame is looked at: {moving}\n"

    said = in_this_process(
        capsys, "explain", artifact, tmp_path / "red.png", "--label=blue", "--json"
    )
    value = json.loads(said.stdout)
    assert value.keys() == {"images", "believed", "failures"}
    (image,) = value["images"]
    assert (image["label"], image["method"], len(image["map"])) == ("blue", "occlusion", CELLS)
    assert in_this_process(capsys, "explain", corners.path, tmp_path / "x.png").returncode == 2
    for arguments, message in (
        (["--method=cam"], "--method 'cam' is not one of grad-cam, occlusion"),
        (["--label=purple"], "label 'purple' is none of the classes"),
        (["--force"], "--force replaces the picture of --out"),
        (["--out=a.jpg"], "the suffix '.jpg' is not one of .png"),
    ):
        assert_refused(
            in_this_process(capsys, "explain", corners.path, tmp_path / "red.png", *arguments),
            message,
        )
