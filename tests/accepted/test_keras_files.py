"""The table "Keras files" of docs/accepted.md."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mobilette.arch.rows import PoolLinear
from mobilette.engines.load import load
from mobilette.formats.importing import import_weights
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.training.start import read_start
from tests.accepted.page import Case, check, rows
from tests.formats.published_files import case

SECTION = "Keras files"
TOP, BINARY = "v2_top.keras", "tl_binary_sigmoid.keras"
Edit = Callable[[str], str]


def source(name: str) -> Path:
    return case("keras") / name


def imported(path: Path, folder: Path, *, classes: int | None = None) -> Model:
    labels = [ClassLabel(id=str(i), name=f"class {i}") for i in range(classes or 0)] or None
    return import_weights(
        path,
        model="mobilenet_v2",
        width_mult=0.35,
        resolution=64,
        classes=labels,
        preprocess=None if path.name.startswith(("tl_", "edited")) else "tf",
    )


def edited(name: str, folder: Path, edit: Edit) -> Path:
    """Return a shared file with another topology."""
    path = folder / "edited.keras"
    with zipfile.ZipFile(source(name)) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "config.json":
                changed = edit(content.decode())
                assert changed != content.decode()
                content = changed.encode()
            new.writestr(member, content)
    return path


def refused(name: str, edit: Edit) -> Case:
    return lambda folder: void(imported(edited(name, folder, edit), folder))


def void(model: Model) -> None:
    raise AssertionError(f"{model.origin.source} was imported")


def swap(old: str, new: str) -> Edit:
    return lambda config: config.replace(old, new)


def before_the_network(layer: str, **config: object) -> Edit:
    """Put another layer where tl_rescale.keras has its Rescaling."""

    def edit(text: str) -> str:
        topology = json.loads(text)
        found = next(x for x in topology["config"]["layers"] if x["class_name"] == "Rescaling")
        found["class_name"] = layer
        found["config"] |= config
        return json.dumps(topology)

    return edit


def with_two_outputs(text: str) -> str:
    topology = json.loads(text)
    end = topology["config"]["output_layers"]
    topology["config"]["output_layers"] = [end, end]
    return json.dumps(topology)


def with_two_dense(text: str) -> str:
    topology = json.loads(text)
    layers = topology["config"]["layers"]
    first = next(layer for layer in layers if layer["class_name"] == "Dense")
    second = json.loads(json.dumps(first).replace(first["config"]["name"], "second"))
    second["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = first["config"]["name"]
    first["config"]["activation"] = "relu"
    topology["config"]["layers"] = [*layers, second]
    topology["config"]["output_layers"] = ["second", 0, 0]
    return json.dumps(topology)


def keras(folder: Path) -> None:
    run = imported(source(TOP), folder)
    assert (run.arch.resolution, len(run.classes)) == (64, 5)


def h5(folder: Path) -> None:
    assert imported(source("v2_no_top.h5"), folder).arch.resolution == 64


def weights(folder: Path) -> None:
    alone = imported(source("v2_top.weights.h5"), folder).weights
    whole = imported(source(TOP), folder / "whole").weights
    assert all(bool((tensor == whole[name]).all()) for name, tensor in alone.items())


def unzipped(folder: Path) -> None:
    with zipfile.ZipFile(source("tl_rescale.keras")) as archive:
        archive.extractall(folder / "tl_folder")
    assert imported(folder / "tl_folder", folder).preprocess.mean[0] == pytest.approx(127.5)


def scaled(name: str) -> Case:
    def run(folder: Path) -> None:
        preprocess = imported(source(name), folder).preprocess
        assert preprocess.mean == pytest.approx((127.5,) * 3)
        assert preprocess.std == pytest.approx((127.5,) * 3)

    return run


def normalised(folder: Path) -> None:
    edit = before_the_network("Normalization", mean=[1.0, 2.0, 3.0], variance=[4.0, 9.0, 16.0])
    preprocess = imported(edited("tl_rescale.keras", folder, edit), folder).preprocess
    assert preprocess.mean == pytest.approx((1, 2, 3))
    assert preprocess.std == pytest.approx((2, 3, 4))


def resized(folder: Path) -> None:
    edit = before_the_network("Resizing", height=64, width=64)

    def larger(config: str) -> str:
        return edit(config).replace(
            '"batch_shape": [null, 64, 64, 3]', '"batch_shape": [null, null, null, 3]', 1
        )

    path = edited("tl_rescale.keras", folder, larger).rename(folder / "resized.keras")
    run = imported(path, folder)
    assert (run.preprocess.resize, run.arch.resolution) == ("squash", 64)


def binary(folder: Path) -> None:
    assert len(load(imported(source(BINARY), folder).save(folder / "run")).classes) == 2


def several(folder: Path) -> None:
    edit = swap(
        '"activation": "linear", "use_bias": true', '"activation": "sigmoid", "use_bias": true'
    )
    assert imported(edited("tl_rescale.keras", folder, edit), folder).multi_label


def two_dense(folder: Path) -> None:
    path = edited("tl_rescale.keras", folder, with_two_dense)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    weights = folder / "model.weights.h5"
    weights.write_bytes(content[weights.name])
    with h5py.File(weights, "a") as file:
        file["layers/dense_1/vars/0"] = np.eye(5, dtype=np.float32)
        file["layers/dense_1/vars/1"] = np.zeros(5, np.float32)
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in (content | {weights.name: weights.read_bytes()}).items():
            archive.writestr(name, member)
    head = imported(path, folder).arch.head
    assert isinstance(head, PoolLinear)
    assert (head.hidden, head.activation) == ((5,), "relu")


def one_logit(folder: Path) -> None:
    path = edited(BINARY, folder, swap('"sigmoid"', '"linear"'))
    assert len(imported(path, folder, classes=2).classes) == 2


def a_start(folder: Path) -> None:
    start = read_start(
        source("v2_no_top.h5"), model="mobilenet_v2", width_mult=0.35, report=None, preprocess="tf"
    )
    assert start is not None
    assert not start.has_classifier


def evaluated(folder: Path) -> None:
    model = load(imported(source("v2_no_top.h5"), folder).save(folder / "run"))
    model.predict(np.zeros(model.arch.shape[::-1], np.uint8))


def saved_model(folder: Path) -> None:
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    imported(folder / "saved", folder)


def checkpoint(folder: Path) -> None:
    (folder / "ckpt.index").write_bytes(bytes(40) + bytes.fromhex("57fb808b247547db"))
    imported(folder / "ckpt.index", folder)


CASES: dict[str, Case] = {
    "`.keras` of Keras 3, a functional or Sequential model": keras,
    "`.h5` of Keras 2 or 3, a whole model": h5,
    "`.weights.h5` of Keras 3 (`model.save_weights`)": weights,
    "folder of `save_model(zipped=False)`": unzipped,
    "`Rescaling(1/127.5, offset=-1)` before the network": scaled("tl_rescale.keras"),
    "`preprocess_input` as operations": scaled("tl_preprocess_input.keras"),
    "`Normalization` with mean and variance": normalised,
    "`RandomFlip`, `RandomRotation` and other augmentation": scaled("tl_augment.keras"),
    "`Resizing(64, 64)` before the network": resized,
    '`Dense(1, activation="sigmoid")` at the end': binary,
    '`Dense(5, activation="sigmoid")` at the end': several,
    "two `Dense` layers at the end": two_dense,
    "`Dense(1)` without an activation": refused(BINARY, swap('"sigmoid"', '"linear"')),
    "`Dense(1)` without an activation, `--classes` of two names": one_logit,
    '`Dense(5, activation="tanh")` at the end': refused(BINARY, swap('"sigmoid"', '"tanh"')),
    '`Dense(1, activation="softmax")` at the end': refused(BINARY, swap('"sigmoid"', '"softmax"')),
    "`include_top=False`": a_start,
    "`include_top=False`, to be evaluated": evaluated,
    "a layer with code": refused(TOP, swap('"class_name": "ReLU"', '"class_name": "Lambda"')),
    "a class of its own code": refused(
        TOP, lambda config: json.dumps(json.loads(config) | {"config": {"name": "own"}})
    ),
    "two outputs": refused(TOP, with_two_outputs),
    '`data_format="channels_first"`': refused(TOP, swap("channels_last", "channels_first")),
    'layers after `model.quantize("int8")`': refused(
        TOP, swap('"quantization_config": null', '"quantization_config": {"class_name": "Int8"}')
    ),
    "another network, `EfficientNetB0` as `mobilenet_v2`": refused(
        TOP, swap('"class_name": "ZeroPadding2D"', '"class_name": "SeparableConv2D"')
    ),
    "SavedModel folder of TensorFlow": saved_model,
    "checkpoint of TensorFlow, `.index` and `.data-00000-of-00001`": checkpoint,
}


def test_every_row_is_run() -> None:
    assert rows(SECTION).keys() == CASES.keys()


@pytest.mark.parametrize("given", CASES)
def test_row(given: str, tmp_path: Path) -> None:
    check(rows(SECTION)[given], CASES[given], tmp_path)
