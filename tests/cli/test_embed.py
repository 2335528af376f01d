"""``mobilette embed`` and `Predictor.embed`: features of images, in files and as arrays."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import mobilette
from mobilette.artifact.directory import Artifact
from mobilette.cli.main import run as command
from mobilette.data.normalise import Normalise
from mobilette.errors import InputError
from mobilette.model.model import Model
from mobilette.run.directory import Run

Array = NDArray[np.float32]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 5 images, among them one that is damaged, and a text."""
    folder = tmp_path / "photos ü"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(4):
        pixels = generator.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "2, damaged.png").write_bytes((folder / "2.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("none")
    return folder


GOOD = ["0.png", "1.png", "2.png", "3.png"]


def expected(trained: Run, photos: Path) -> Array:
    """Return the averages of the network's last map, which MobileNet V1's classifier reads."""
    preprocess, network = trained.preprocess, trained.model.network
    pixels = [
        preprocess.geometry(Image.open(photos / name), network.arch.resolution) for name in GOOD
    ]
    with torch.inference_mode():
        x = Normalise(preprocess)(torch.from_numpy(np.stack(pixels)))
        last = network.features(x)
        return last[max(last)].mean(dim=(2, 3)).numpy()


def read(path: Path) -> tuple[list[str], Array]:
    """Return the names and the features in a file, as other libraries read it."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as content:
            assert set(content) == {"path", "features"}
            assert content["features"].dtype == np.float32
            return content["path"].tolist(), content["features"]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            head, *rows = csv.reader(stream)
        assert head == ["path", *(f"f{index}" for index in range(len(head) - 1))]
        return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    assert str(table.schema.field("features").type) == "fixed_size_list<element: float>[256]"
    return table["path"].to_pylist(), np.array(table["features"].to_pylist(), np.float32)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_every_kind_of_file(
    suffix: str, trained: Run, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"features{suffix}"
    status = command(["embed", str(trained.path), str(photos), "--out", str(out)])
    said = capsys.readouterr()
    assert status == 0
    assert said.out.startswith(f"{out}: 4 images, 256 features each, ")
    assert "2, damaged.png: " in said.err
    assert "1 file is not an image: notes.txt" in said.err
    paths, features = read(out)
    assert paths == [str(photos / name) for name in GOOD]
    np.testing.assert_allclose(features, expected(trained, photos), rtol=1e-4, atol=1e-4)
    assert sorted(tmp_path.iterdir()) == [out, photos]


def test_as_json(trained: Run, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "f.csv"
    arguments = ["embed", str(trained.path), str(photos / "0.png"), "--out", str(out), "--json"]
    assert command(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(out),
        "images": 1,
        "features": 256,
        "unusable": 0,
        "size_bytes": out.stat().st_size,
    }


def test_more_images_than_are_in_memory_at_once(trained: Run, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    images = [str(photos / name) for name in GOOD] * 80
    for suffix in (".npz", ".parquet"):
        out = tmp_path / f"features{suffix}"
        assert command(["embed", str(trained.path), *images, "--out", str(out)]) == 0
        paths, features = read(out)
        assert paths == images
        np.testing.assert_allclose(features[:4], features[316:], rtol=1e-5, atol=1e-6)


def refused(arguments: list[object], capsys: Capture) -> str:
    assert command([str(each) for each in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_bad_input(
    trained: Run, exported: Artifact, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "there.npz").write_text("old")
    run, image = trained.path, photos / "0.png"
    for out, message in (
        (tmp_path / "f.txt", "f.txt: the suffix '.txt' is not one of .npz, .csv, .parquet"),
        (tmp_path / "f.npy", "did you mean '.npz'"),
        (tmp_path / "no" / "f.npz", f"the folder {tmp_path / 'no'} does not exist"),
        (tmp_path / "there.npz", "exists; give another --out, or --force to replace it"),
    ):
        assert message in refused(["embed", run, image, "--out", out], capsys)
    out = tmp_path / "f.npz"
    for arguments, message in (
        ([exported.path, image], "an artifact without features; 'mobilette export RUN --to onnx"),
        ([tmp_path / "none", image], "does not exist"),
        ([run, photos / "2, damaged.png"], "none of 1 images could be read"),
        ([run, tmp_path / "no.png"], "not written; none of 1 images could be read"),
    ):
        assert message in refused(["embed", *arguments, "--out", out], capsys)
    (tmp_path / "empty").mkdir()
    assert "no images in this folder" in refused(
        ["embed", run, tmp_path / "empty", "--out", out], capsys
    )
    assert "Missing option '--out'" in refused(["embed", run, image], capsys)
    assert (tmp_path / "there.npz").read_text() == "old"
    assert (
        command(["embed", str(run), str(image), "--out", f"{tmp_path}/there.npz", "--force"]) == 0
    )
    (tmp_path / "there.npz").unlink()
    (tmp_path / "empty").rmdir()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_package_is_named(
    trained: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refused(["embed", trained.path, photos, "--out", tmp_path / "f.parquet"], capsys)
    assert "pip install 'mobilette[parquet]'" in said


def test_what_embed_takes_and_gives(trained: Run, photos: Path) -> None:
    predictor = mobilette.load(trained)
    paths = [photos / name for name in GOOD]
    features = predictor.embed(paths)
    assert features.shape == (4, 256)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected(trained, photos), rtol=1e-4, atol=1e-4)
    others = [Image.open(path) for path in paths[:2]] + [path.read_bytes() for path in paths[2:]]
    np.testing.assert_array_equal(predictor.embed(others), features)
    assert predictor.embed([]).shape == (0, 256)
    with pytest.raises(InputError, match=r"2, damaged\.png: "):
        predictor.embed([photos / "2, damaged.png"])
    with pytest.raises(InputError, match="give \\[image\\]"):
        predictor.embed(paths[0])  # type: ignore[arg-type]


def test_a_model_without_a_classifier_has_features(
    trained: Run, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Of a file of weights without one: it cannot classify, and says so at once."""
    model = trained.model
    headless = {
        name: torch.zeros_like(tensor) if name.startswith("head.classifier") else tensor
        for name, tensor in model.weights.items()
    }
    bare: Model = replace(model, weights=headless, has_classifier=False)
    predictor = mobilette.load(bare)
    paths = [photos / name for name in GOOD]
    np.testing.assert_array_equal(predictor.embed(paths), mobilette.load(model).embed(paths))
    for call in (predictor.predict, lambda images: mobilette.evaluate(predictor, "digits")):
        with pytest.raises(InputError, match="from a file without a classifier"):
            call(paths)
    run = bare.save(tmp_path / "bare")
    assert command(["embed", str(run), str(photos), "--out", str(tmp_path / "f.npz")]) == 0
    capsys.readouterr()
    assert "without a classifier" in refused(["predict", run, photos], capsys)


def test_features_that_are_not_finite_are_refused(trained: Run, photos: Path) -> None:
    model = trained.model
    vast = {name: tensor.clone() for name, tensor in model.weights.items()}
    vast["rows.12.pointwise.norm.weight"].fill_(torch.inf)
    predictor = mobilette.load(replace(model, weights=vast))
    with pytest.raises(InputError, match="0.png: the network's answer is not finite"):
        predictor.embed([photos / "0.png"])


def test_a_name_is_no_formula(
    trained: Run, photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (photos / "0.png").rename("=1+1.png")
    assert command(["embed", str(trained.path), "=1+1.png", "--out=f.csv"]) == 0
    assert read(Path("f.csv"))[0] == ["'=1+1.png"]
