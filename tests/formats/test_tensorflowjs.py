from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from mobilette.formats.keras.file import read_tensorflowjs
from tests.formats.published_files import published

MODEL = "mobilenet_v1_0.75_224_imagenet_tfjs"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a copy of a published model that may be changed."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in published(MODEL).iterdir():
        shutil.copyfile(file, copy / file.name)
    return copy


def test_folder_and_model_json_are_the_same() -> None:
    folder = published(MODEL)
    of_folder = import_weights(folder, model="mobilenet_v1", width_mult=0.75, preprocess="raw")
    of_file = import_weights(
        folder / "model.json", model="mobilenet_v1", width_mult=0.75, preprocess="raw"
    )
    assert of_folder.arch == of_file.arch
    assert of_folder.origin.tensors == 137
    assert all(torch.equal(w, of_file.weights[n]) for n, w in of_folder.weights.items())


def edit(model: Path, change: Callable[[Any], None]) -> None:
    path = model / "model.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def test_quantised_weights_are_read_as_floats(model: Path) -> None:
    before = read_tensorflowjs(model)
    kernel = np.fromfile(model / "group1-shard1of1", "<f4")
    scale, least = float(kernel.max() - kernel.min()) / 255, float(kernel.min())
    quantised = np.rint((kernel - least) / scale).astype(np.uint8)
    quantised.tofile(model / "group1-shard1of1")
    note = {"dtype": "uint8", "scale": scale, "min": least, "original_dtype": "float32"}
    edit(model, lambda c: c["weightsManifest"][0]["weights"][0].update(quantization=note))
    stem, exact = (
        network.layers[0].tensors["weight"] for network in (read_tensorflowjs(model), before)
    )
    assert np.abs(stem - exact).max() <= scale / 2 * 1.001


def rename(content: Any, name: str) -> None:
    content["weightsManifest"][0]["paths"] = [name]


EDITS: dict[str, tuple[Callable[[Any], None], str]] = {
    "path upwards": (lambda c: rename(c, "../secret"), "is not in its folder"),
    "absolute path": (lambda c: rename(c, "/etc/passwd"), "is not in its folder"),
    "a drive's path": (lambda c: rename(c, "C:shard"), "is not in its folder"),
    "name of nothing": (lambda c: rename(c, "."), "is not in its folder"),
    "name that is a number": (lambda c: rename(c, 5), "damaged"),  # type: ignore[arg-type]
    "a file a thousand times": (
        lambda c: c["weightsManifest"][0].update(paths=c["weightsManifest"][0]["paths"] * 1000),
        "names a file twice",
    ),
    "a file for two groups": (
        lambda c: c["weightsManifest"].append(c["weightsManifest"][0]),
        "names a file twice",
    ),
    "infinite shape": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(shape=[float("inf")]),
        "damaged",
    ),
    "shape of many sizes": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(shape=[1] * 100),
        "damaged|longer",
    ),
    "shape beyond 64 bits": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(shape=[2**40, 2**40]),
        "is longer than",
    ),
    "scale of 400 digits": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(
            quantization={"dtype": "uint8", "scale": 10**400, "min": 0}
        ),
        "damaged",
    ),
    "infinite scale": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(
            quantization={"dtype": "float32", "scale": 1e300, "min": 0}
        ),
        "not finite",
    ),
    "missing shard": (lambda c: rename(c, "group99"), "group99: no such file"),
    "shape": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(shape=[3, 3, 3, 25]),
        "is longer than",
    ),
    "shorter": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(shape=[3, 3, 3, 23]),
        "bytes, the weights",
    ),
    "negative shape": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(shape=[-3, 3, 3, 24]),
        "is longer than",
    ),
    "unknown type": (
        lambda c: c["weightsManifest"][0]["weights"][0].update(dtype="string"),
        "damaged",
    ),
    "no manifest": (lambda c: c.pop("weightsManifest"), "not a TensorFlow.js layers model"),
    "graph model": (lambda c: c.update(format="graph-model"), "only layers models are supported"),
    "missing weight": (
        lambda c: c["weightsManifest"].pop(0),
        "layer 'conv1' has no kernel in the file",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_damaged_models_are_refused(model: Path, name: str) -> None:
    change, message = EDITS[name]
    edit(model, change)
    with pytest.raises(InputError, match=message) as refusal:
        import_weights(model, model="mobilenet_v1", width_mult=0.75, preprocess="raw")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_shards_that_are_no_files(model: Path, kind: str) -> None:
    shard = model / "group1-shard1of1"
    shard.unlink()
    if kind == "folder":
        shard.mkdir()
    elif kind == "pipe":
        os.mkfifo(shard)
    else:
        shard.symlink_to(shard)
    with pytest.raises(InputError, match="group1-shard1of1: "):
        import_weights(model, model="mobilenet_v1", width_mult=0.75, preprocess="raw")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a folder without model\.json"):
        import_weights(tmp_path, model="mobilenet_v1", preprocess="raw")


@settings(max_examples=40)
@given(
    place=st.floats(0, 1, exclude_max=True),
    bits=st.integers(1, 255),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_flipped_and_cut_descriptions_are_answered(
    place: float, bits: int, keep: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = published(MODEL)
    folder = tmp_path_factory.mktemp("fuzzed")
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    content = bytearray((source / "model.json").read_bytes())
    content[int(place * len(content))] ^= bits
    (folder / "model.json").unlink()
    (folder / "model.json").write_bytes(content[: int(keep * len(content))])
    try:
        imported = import_weights(folder, model="mobilenet_v1", width_mult=0.75, preprocess="raw")
    except InputError:
        return
    # What a flip can change without being seen: an activation, an epsilon, padding at stride 1.
    expected = import_weights(source, model="mobilenet_v1", width_mult=0.75, preprocess="raw")
    assert imported.weights.keys() == expected.weights.keys()
    for name, weight in imported.weights.items():
        if not name.endswith("running_var"):  # takes up an epsilon that differs
            assert torch.equal(weight, expected.weights[name])
