from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from mobilette.model.model import Model
from tests.formats.keras_process import made_by_keras
from tests.formats.published_files import published

MODELS = {
    "v1": ("mobilenet_v1", 0.25),
    "v2": ("mobilenet_v2", 0.35),
    "v3_small": ("mobilenet_v3_small", 1.0),
    "v3_large_rescaled": ("mobilenet_v3_large", 0.75),
    "v3_small_minimalistic": ("mobilenet_v3_small_minimalistic", 1.0),
    "v3_one_pixel": ("mobilenet_v3_small", 0.75),  # its last map is 1x1: nothing to average
    "vgg": ("vgg11", 0.25),
    "nested": ("mobilenet_v2", 0.35),
}


@pytest.fixture(scope="session")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that Keras itself has built and answered with, in a process of its own."""
    return made_by_keras("tests.formats.keras_models", tmp_path_factory)


@torch.no_grad()
def answer(imported: Model, images: np.ndarray[Any, Any]) -> Tensor:
    x = torch.tensor(images).permute(0, 3, 1, 2)
    prepared = imported.preprocess
    mean, std = (torch.tensor(v)[:, None, None] for v in (prepared.mean, prepared.std))
    logits: Tensor = imported.network((x - mean) / std)
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_answers_as_keras_does(keras_files: Path, name: str) -> None:
    model, width_mult = MODELS[name]
    imported = import_weights(
        keras_files / f"{name}.h5",
        model=model,
        width_mult=width_mult,
        form="full",
        preprocess="raw",
    )
    asked = np.load(keras_files / f"{name}.npz")
    expected = torch.tensor(asked["logits"])
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(answer(imported, asked["images"]), expected, atol=1e-4, rtol=0)
    assert imported.origin.unused == ()
    assert (imported.preprocess.mean != (0.0, 0.0, 0.0)) == ("rescaled" in name)


@pytest.mark.parametrize("name", ["v1", "v2", "v3_small"])
def test_weights_without_topology_are_matched_in_order(
    keras_files: Path, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(keras_files / f"{name}.h5") as model, h5py.File(path, "w") as weights:
        for layer in model["model_weights"]:
            model.copy(f"model_weights/{layer}", weights)
        weights.attrs["layer_names"] = model["model_weights"].attrs["layer_names"]
    network, width_mult = MODELS[name]
    imported = import_weights(
        path, model=network, width_mult=width_mult, resolution=64, form="full", preprocess="raw"
    )
    asked = np.load(keras_files / f"{name}.npz")
    expected = torch.tensor(asked["logits"])
    torch.testing.assert_close(answer(imported, asked["images"]), expected, atol=1e-4, rtol=0)


def as_keras_2(layer: dict[str, Any]) -> None:
    """Spell one layer as Keras 2 did."""
    call = layer["inbound_nodes"][:1]
    if not call:
        return
    (arguments, *constants) = call[0]["args"]
    tensors = arguments if isinstance(arguments, list) else [arguments]
    history = [[*tensor["config"]["keras_history"], {}] for tensor in tensors]
    if constants:
        function = {"Add": "__operators__.add", "Multiply": "math.multiply"}[layer["class_name"]]
        layer["class_name"] = "TFOpLambda"
        layer["config"] = {"name": layer["config"]["name"], "function": function}
        history[0][3] = {"y": constants[0], "name": None}
    layer["inbound_nodes"] = history if constants else [history]


def test_keras_2_spells_hard_sigmoid_with_operators(keras_files: Path, tmp_path: Path) -> None:
    path = tmp_path / "keras2.h5"
    path.write_bytes((keras_files / "v3_small.h5").read_bytes())
    with h5py.File(path, "a") as file:
        topology = json.loads(file.attrs["model_config"])
        for layer in topology["config"]["layers"]:
            as_keras_2(layer)
        file.attrs["model_config"] = json.dumps(topology)
        file.attrs["keras_version"] = "2.8.0"
    imported = import_weights(path, model="mobilenet_v3_small", form="full", preprocess="raw")
    expected = import_weights(
        keras_files / "v3_small.h5", model="mobilenet_v3_small", form="full", preprocess="raw"
    )
    assert imported.arch == expected.arch
    assert all(torch.equal(w, expected.weights[name]) for name, w in imported.weights.items())


def change(path: Path, source: Path, edit: Callable[[h5py.File], None]) -> Path:
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "a") as file:
        edit(file)
    return path


def edit_topology(file: h5py.File, old: str, new: str) -> None:
    config = file.attrs["model_config"]
    assert old in config
    file.attrs["model_config"] = config.replace(old, new)


def delete_weight(file: h5py.File) -> None:
    del file["model_weights/conv_pw_3/conv_pw_3/kernel:0"]


def link_to_itself(file: h5py.File) -> None:
    delete_weight(file)
    file["model_weights/conv_pw_3/conv_pw_3/kernel:0"] = h5py.SoftLink(
        "/model_weights/conv_pw_3/conv_pw_3/kernel:0"
    )


def link_outside(file: h5py.File) -> None:
    delete_weight(file)
    file["model_weights/conv_pw_3/conv_pw_3/kernel:0"] = h5py.ExternalLink("/etc/passwd", "/x")


def link_to_a_parent(file: h5py.File) -> None:
    delete_weight(file)
    file["model_weights/conv_pw_3/conv_pw_3/kernel:0"] = file["model_weights"]


def claim_terabytes(file: h5py.File) -> None:
    delete_weight(file)
    file.create_dataset(
        "model_weights/conv_pw_3/conv_pw_3/kernel:0", (2**20, 2**20), "f4", chunks=(1024, 1024)
    )


def give_not_a_number(file: h5py.File) -> None:
    file["model_weights/conv_pw_3/conv_pw_3/kernel:0"][0, 0, 0, 0] = np.nan


EDITS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "missing weight": (delete_weight, "is missing, or a link"),
    "soft link to itself": (link_to_itself, "is missing, or a link"),
    "link out of the file": (link_outside, "is missing, or a link"),
    "cycle": (link_to_a_parent, "is not an array of floats"),
    "terabytes": (claim_terabytes, "larger than the file"),
    "not a number": (give_not_a_number, "rows.2.pointwise.conv.weight' has values that are not"),
    "stride": (
        lambda file: edit_topology(
            file,
            '"name": "conv_dw_3", "trainable": true, "dtype": "float32", "kernel_size": [3, 3], '
            '"strides": [1, 1]',
            '"name": "conv_dw_3", "trainable": true, "dtype": "float32", "kernel_size": [3, 3], '
            '"strides": [2, 2]',
        ),
        "'conv_dw_3' is depthwise 3x3, stride 2, .* but rows.2.depthwise.conv is depthwise 3x3, "
        "stride 1",
    ),
    "layer of another kind": (
        lambda file: edit_topology(
            file, '"class_name": "GlobalAveragePooling2D"', '"class_name": "GlobalMaxPooling2D"'
        ),
        "is a GlobalMaxPooling2D, which is not supported",
    ),
    "cyclic layers": (
        lambda file: edit_topology(
            file, '[[["conv_pw_3", 0, 0, {}]]]', '[[["conv_pw_5", 0, 0, {}]]]'
        ),
        "form a cycle|topology is damaged|follows|reads",
    ),
    "no JSON": (
        lambda file: edit_topology(file, '{"class_name": "Functional"', "{"),
        "model_config is not valid JSON",
    ),
    "lambda": (
        lambda file: edit_topology(file, '"class_name": "Dropout"', '"class_name": "Lambda"'),
        "is a Lambda",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_damaged_models_are_refused(name: str, tmp_path: Path) -> None:
    edit, message = EDITS[name]
    source = published("mobilenet_v1_0.25_224_imagenet_keras.h5")
    path = change(tmp_path / "model.h5", source, edit)
    with pytest.raises(InputError, match=message) as refusal:
        import_weights(path, model="mobilenet_v1", width_mult=0.25, preprocess="raw")
    assert "\n" not in str(refusal.value)


def test_another_network_or_width_is_refused() -> None:
    path = published("mobilenet_v1_0.25_224_imagenet_keras.h5")
    with pytest.raises(InputError, match=r"has width 0.25 of mobilenet_v1, not 0.5; give --width"):
        import_weights(path, model="mobilenet_v1", width_mult=0.5, preprocess="raw")
    with pytest.raises(InputError, match=r"'conv_.*, but rows\.0\."):
        import_weights(path, model="mobilenet_v2", width_mult=0.25, preprocess="raw")
    with pytest.raises(InputError, match=r"but stem\.conv is full 3x3"):
        import_weights(path, model="shufflenet_v2", preprocess="raw")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
    ),
    head=st.booleans(),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_flips_and_truncations_are_answered(
    flips: list[tuple[float, int]], head: bool, keep: float
) -> None:
    source = published("resnet8_cifar10_mlperf_tiny.h5")
    content = bytearray(source.read_bytes())
    for place, bits in flips:
        content[int(place * (60_000 if head else len(content)))] ^= bits
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.h5"
        path.write_bytes(content[: int(keep * len(content))])
        try:
            imported = import_weights(path, model="resnet8", preprocess="raw")
        except InputError:
            return
    expected = import_weights(source, model="resnet8", preprocess="raw")
    changed = [n for n, w in imported.weights.items() if not torch.equal(w, expected.weights[n])]
    # The format has no checksum: a flip within an array is a weight of another value. No flip may
    # exchange weights, though.
    assert len(changed) <= len(flips)
