"""What people make of Keras' networks: read as Keras itself answers, or refused with the reason."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilette.data.preprocess import PRESETS, Preprocess
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.training.start import read_start
from tests.conftest import SHARED
from tests.formats.keras_process import made_by_keras

CASES = SHARED / "cases" / "keras"
V2 = ("mobilenet_v2", 0.35)
TWO = [ClassLabel(id=name, name=name) for name in ("ants", "bees")]
NETWORKS = {"v1": ("mobilenet_v1", 0.25), "v3_inside": ("mobilenet_v3_small", 0.75)}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that Keras itself has built, saved and answered with, in a process of its own."""
    return made_by_keras("tests.formats.keras_transfer_models", tmp_path_factory)


def read(
    path: Path,
    *,
    resolution: int | None = None,
    classes: Sequence[ClassLabel] | None = None,
    preprocess: str = "raw",
) -> Model:
    model, width_mult = NETWORKS.get(path.name.partition(".")[0], V2)
    return import_weights(
        path,
        model=model,
        width_mult=width_mult,
        resolution=resolution,
        classes=classes,
        preprocess=preprocess,
    )


@torch.no_grad()
def answer(imported: Model, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    """Return the logits for float images as the file takes them, at the network's resolution."""
    x = torch.tensor(images).permute(0, 3, 1, 2)
    prepared = imported.preprocess
    gone = round(x.shape[-1] * (1 - prepared.crop_fraction) / 2)
    x = x[:, :, gone : x.shape[-2] - gone, gone : x.shape[-1] - gone]
    mean, std = (torch.tensor(v)[:, None, None] for v in (prepared.mean, prepared.std))
    logits: Tensor = imported.network((x - mean) / std)
    return logits


def as_asked(logits: Tensor, outputs: Tensor, imported: Model) -> Tensor:
    """Return logits as Keras' outputs: probabilities where it gives these."""
    if outputs.shape[1] == 1:
        return logits.softmax(1)[:, 1:]
    if imported.multi_label:
        return logits.sigmoid()
    if outputs.min() >= 0 and torch.allclose(outputs.sum(1), torch.ones(len(outputs))):
        return logits.softmax(1)
    return logits.log_softmax(1) if outputs.max() <= 0 else logits


ANSWERED = (
    *("rescaled", "preprocessed", "augmented", "multiplied", "normalised", "normalised_constant"),
    *("binary", "binary_layer", "several", "softmax_layer", "log_softmax", "temperature"),
    *("two_dense", "three_dense", "norms", "flattened", "resized", "cropped", "frozen"),
    *("head_model", "teachable", "mixed", "v1", "v3_inside"),
)


@pytest.mark.parametrize(
    "name", [*ANSWERED, "frozen.h5", "head_model.h5", "normalised.h5", "teachable.h5"]
)
def test_answers_as_keras_does(files: Path, name: str) -> None:
    path = files / (name if "." in name else f"{name}.keras")
    imported = read(path)
    asked = np.load(files / f"{path.stem}.npz")
    outputs = torch.tensor(asked["outputs"])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3  # the images matter
    given = as_asked(answer(imported, asked["images"]), outputs, imported)
    torch.testing.assert_close(given, outputs, atol=1e-4, rtol=1e-4)
    assert imported.origin.unused == ()
    assert imported.multi_label == (name == "several")


@pytest.mark.parametrize("name", ["rescaled", "frozen", "head_model"])
def test_weights_alone(files: Path, name: str) -> None:
    imported = read(files / f"{name}.weights.h5", resolution=64)
    whole = read(files / f"{name}.keras")
    assert imported.preprocess == PRESETS["raw"]
    assert imported.weights.keys() == whole.weights.keys()
    assert all(torch.equal(w, whole.weights[key]) for key, w in imported.weights.items())
    assert imported.arch == whole.arch


def test_a_folder_as_save_model_writes_it_unzipped(files: Path) -> None:
    assert read(files / "folder").preprocess == PRESETS["tf"]


REFUSED = {
    "regression": "one output without a sigmoid: a regression, .* name both with --classes",
    "softmax_of_one": "a softmax over one output is always 1",
    "tanh": "layer 'dense.*' has the unsupported activation 'tanh'",
    "relu": "'dense.*' ends in activation 'relu', but head.classifier in 'none'",
    "lambda": "layer 'lambda' is a Lambda: code, which is not executed",
    "quantised": "of int8, not of floats: quantised layers are not supported; save the model as it",
    "two_outputs": "the model has 2 outputs; a classifier has one",
    "two_inputs": "the model has several inputs; a classifier has one",
    "maxima": "is a GlobalMaxPooling2D, which is not supported",
    "own": "the model is a 'Own', a custom class",
    "channels_first": "has channels first; only channels_last is supported",
    "inverted": "subtracts its input from a constant, or divides a constant by it",
    "crop": "'center_crop.*' crops an image that was resized without cropping",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_classifier_of_ours_is_refused(files: Path, name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name]) as refusal:
        read(files / f"refused_{name}.keras")
    assert "\n" not in str(refusal.value)
    assert str(files) in str(refusal.value)


def test_one_output_is_two_classes_if_two_are_named(files: Path) -> None:
    imported = read(files / "refused_regression.keras", classes=TWO)
    assert imported.arch.num_classes == 2
    before, after = imported.weights["head.classifier.weight"]
    assert torch.equal(before, -after)


def test_the_run_of_one_sigmoid_answers_with_both_names(files: Path, tmp_path: Path) -> None:
    read(files / "binary.keras", classes=TWO).save(tmp_path / "run")
    asked = np.load(files / "binary.npz")
    pixels = asked["images"].astype(np.uint8).transpose(0, 3, 1, 2)
    predictor = load(tmp_path / "run")
    given = torch.tensor(predictor.logits(pixels)).softmax(1).numpy()
    assert [label.name for label in predictor.classes] == ["ants", "bees"]
    assert given[:, 1] == pytest.approx(asked["outputs"][:, 0], abs=0.01)  # pixels were rounded


def test_the_run_of_several_sigmoids_is_multi_label(files: Path, tmp_path: Path) -> None:
    read(files / "several.keras").save(tmp_path / "run")
    assert load(tmp_path / "run").multi_label


@pytest.mark.parametrize("name", ["no_top.keras", "no_top.h5", "no_top_pooled.keras"])
def test_without_a_top_it_is_a_start_that_cannot_answer(
    files: Path, name: str, tmp_path: Path
) -> None:
    path = files / name
    imported = read(path, preprocess="tf")
    assert not imported.has_classifier
    run = imported.save(tmp_path / "run")
    with pytest.raises(InputError, match="from a file without a classifier; .mobilette"):
        load(run).predict([])
    for start, model in ((path, V2[0]), (run, None)):
        found = read_start(
            start, model=model, width_mult=V2[1] if model else None, report=None, preprocess="tf"
        )
        assert found is not None
        assert not found.has_classifier
        assert found.arch.resolution == 64
        body = {k: w for k, w in found.weights.items() if not k.startswith("head.classifier")}
        assert all(torch.equal(w, imported.weights[key]) for key, w in body.items())


def test_weights_alone_without_a_top_are_a_start(files: Path) -> None:
    imported = read(files / "no_top.weights.h5", resolution=64)
    whole = read(files / "no_top.keras")
    assert not imported.has_classifier
    assert all(torch.equal(w, whole.weights[key]) for key, w in imported.weights.items())


def test_content_decides_not_the_name(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes((files / "frozen.h5").read_bytes())
    assert read(path).arch == read(files / "frozen.keras").arch


def test_a_preset_beside_what_the_file_says(files: Path) -> None:
    def prepared(name: str) -> Preprocess:
        return read(files / "rescaled.keras", preprocess=name).preprocess

    assert prepared("tf") == prepared("raw") == PRESETS["tf"]
    with pytest.raises(InputError, match=r"itself .mean 127.5, std 127.5., unlike --prep"):
        prepared("unit")


def test_geometry_of_layers_goes_before_the_network(files: Path) -> None:
    resized, cropped = (read(files / f"{name}.keras") for name in ("resized", "cropped"))
    assert isinstance(resized.preprocess, Preprocess)
    assert resized.preprocess.resize == "squash"
    assert isinstance(cropped.preprocess, Preprocess)
    assert cropped.preprocess.crop_fraction == 0.75
    assert (resized.arch.resolution, cropped.arch.resolution) == (64, 48)


def repacked(path: Path, source: Path, change: Callable[[str, bytes], bytes], how: int) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def test_an_archive_that_was_packed_again_is_read(files: Path, tmp_path: Path) -> None:
    path = repacked(
        tmp_path / "packed.keras",
        files / "rescaled.keras",
        lambda name, content: content,
        zipfile.ZIP_DEFLATED,
    )
    again, first = read(path), read(files / "rescaled.keras")
    assert all(torch.equal(w, first.weights[key]) for key, w in again.weights.items())


BROKEN: dict[str, tuple[Callable[[str, bytes], bytes], str]] = {
    "a bomb of weights": (
        lambda name, content: content + bytes(2**26) if name.endswith("h5") else content,
        "model.weights.h5 unpacks to .* bytes: too large",
    ),
    "a bomb of text": (
        lambda name, content: content + b" " * 2**26 if name == "config.json" else content,
        "config.json unpacks to .* bytes: too large",
    ),
    "no topology": (
        lambda name, content: b"{" if name == "config.json" else content,
        "its config.json is not valid JSON",
    ),
    "another topology": (
        lambda name, content: b"[1]" if name == "config.json" else content,
        "its topology is damaged",
    ),
    "cut weights": (
        lambda name, content: content[:5000] if name.endswith("h5") else content,
        "not a complete Keras .h5 file",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archives_are_refused(files: Path, name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    path = repacked(
        tmp_path / "broken.keras", files / "rescaled.keras", change, zipfile.ZIP_DEFLATED
    )
    with pytest.raises(InputError, match=message) as refusal:
        read(path)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).count(path.name) == 1


def test_an_archive_without_weights_is_named_once(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.keras"
    with zipfile.ZipFile(files / "rescaled.keras") as old, zipfile.ZipFile(path, "w") as new:
        for name in ("config.json", "metadata.json"):
            new.writestr(name, old.read(name))
    with pytest.raises(InputError) as refusal:
        read(path)
    assert str(refusal.value) == f"{path}: a Keras archive without model.weights.h5"


def test_a_changed_byte_fails_the_checksum(files: Path, tmp_path: Path) -> None:
    content = bytearray((files / "rescaled.keras").read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "changed.keras"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"changed\.keras: .*(CRC|checksum|damaged)"):
        read(path)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    "name",
    [
        "v2_top.keras",
        "v2_top.weights.h5",
        "tl_rescale.keras",
        "tl_preprocess_input.keras",
        "tl_augment.keras",
        "tl_binary_sigmoid.keras",
    ],
)
def test_shared_cases(name: str) -> None:
    imported = read(CASES / name, resolution=64)
    outputs = torch.tensor(json.loads((CASES / "out.json").read_text())[name.partition(".")[0]])
    given = answer(imported, np.load(CASES / "x.npy").astype(np.float32))
    if outputs.shape[1] == 1:
        given = given.softmax(1)[:, 1:]
    torch.testing.assert_close(given, outputs, atol=1e-3, rtol=0)
