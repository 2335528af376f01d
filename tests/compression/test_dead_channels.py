from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer
from mobilette.arch.rows import Activation
from mobilette.arch.scale import Settings
from mobilette.compression.dead_channels import dead_depthwise
from mobilette.compression.folding import fold
from mobilette.data.normalise import Normalise
from mobilette.formats.importing import import_weights
from mobilette.model.model import Model
from mobilette.nn.network import Network
from tests.batch_norm import give_statistics
from tests.models import model_of

ACTIVATIONS: tuple[Activation, ...] = ("relu6", "relu", "hard_swish")


def living(name: str = "mobilenet_v1", activation: Activation = "relu6") -> Model:
    arch = get_arch(name, Settings(width_mult=0.5, resolution=32, num_classes=5))
    arch = change_convs(
        arch,
        lambda _, conv: conv if conv.activation == "none" else replace(conv, activation=activation),
    )
    torch.manual_seed(0)
    network = Network(arch)
    give_statistics(network, torch.randn(16, 3, 32, 32))
    return model_of(network)


def found(model: Model) -> dict[str, tuple[int, ...]]:
    return {each.layer: each.dead for each in dead_depthwise(model) if each.dead}


def planted(model: Model, **changes: tuple[int, str, float]) -> Model:
    """Return ``model`` with one value of each given row's depthwise channel changed."""
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    for row, (channel, tensor, value) in changes.items():
        weights[f"{row.replace('_', '.')}.depthwise.{tensor}"][channel] = value
    return replace(model, weights=weights)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_nothing_is_dead_in_a_living_network(name: str, activation: Activation) -> None:
    model = living(name, activation)
    assert found(model) == found(fold(model)) == {}
    convs = [x for x in layers(model.arch) if isinstance(x, ConvLayer) and x.is_depthwise]
    listed = [(each.layer, each.channels) for each in dead_depthwise(model)]
    assert listed == [(conv.name, conv.shape[0]) for conv in convs]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kernels_of_zeros_are_found(activation: Activation) -> None:
    model = planted(
        living(activation=activation),
        rows_1=(3, "conv.weight", 0.0),
        rows_2=(5, "norm.weight", 0.0),
        rows_4=(7, "conv.weight", 1e-9),
    )
    expected = {
        "rows.1.depthwise.conv": (3,),
        "rows.2.depthwise.conv": (5,),
        "rows.4.depthwise.conv": (7,),
    }
    assert found(model) == found(fold(model)) == expected


def test_channels_that_are_always_cut_off_are_found() -> None:
    model = planted(living(), rows_1=(3, "norm.bias", -100.0), rows_2=(5, "norm.bias", 100.0))
    expected = {"rows.1.depthwise.conv": (3,), "rows.2.depthwise.conv": (5,)}
    assert found(model) == found(fold(model)) == expected


def test_what_a_relu_lets_through_is_not_dead() -> None:
    """Inputs of ReLU have no upper end, so a large negative shift proves nothing."""
    model = planted(living(activation="relu"), rows_1=(3, "norm.bias", -100.0))
    positive = model.weights["rows.1.depthwise.conv.weight"][3].max() > 0
    assert positive
    assert found(model) == {}


def test_channels_that_never_varied_in_training_are_found() -> None:
    model = planted(living(), rows_1=(3, "norm.running_var", 1e-12))
    model = planted(model, rows_1=(3, "norm.weight", 0.5))
    assert found(model) == {"rows.1.depthwise.conv": (3,)}


@torch.no_grad()
def deviations(model: Model, images: Tensor) -> dict[str, Tensor]:
    """Return the standard deviation of each depthwise channel over positions and images."""
    measured: dict[str, Tensor] = {}
    network = model.network.eval()
    for each in dead_depthwise(model):
        activation = network.get_submodule(each.layer.removesuffix("conv") + "activation")
        activation.register_forward_hook(
            lambda _module, _inputs, output, name=each.layer: measured.__setitem__(
                name, output.transpose(0, 1).flatten(1).std(1)
            )
        )
    network(images)
    return measured


@pytest.mark.parametrize(
    ("file", "width_mult", "preset", "images", "dead"),
    [
        ("mobilenet_v1_0.25_224_imagenet_keras.h5", 0.25, "tf", "imagenette-small/val", 10),
        ("mobilenet_v1_0.75_224_imagenet_tfjs", 0.75, "tf", "imagenette-small/val", 22),
        ("mobilenet_v1_0.25_96_vww_mlperf_tiny.h5", 0.25, "unit", "vww400", 584),
    ],
)
def test_published_networks_have_dead_channels_that_images_confirm(
    shared: Path, file: str, width_mult: float, preset: str, images: str, dead: int
) -> None:
    model = import_weights(
        shared / "weights" / file, model="mobilenet_v1", width_mult=width_mult, preprocess=preset
    )
    paths = sorted(path for path in (shared / "data" / images).rglob("*.*") if path.is_file())
    chosen = [Image.open(path).convert("RGB") for path in paths[:: math.ceil(len(paths) / 12)]]
    side = model.arch.resolution
    pixels = np.stack([model.preprocess.geometry(image, side) for image in chosen])
    measured = deviations(model, Normalise(model.preprocess)(torch.from_numpy(pixels)))
    result = dead_depthwise(model)
    assert sum(len(each.dead) for each in result) == dead
    for each in result:
        assert (measured[each.layer][list(each.dead)] < 0.01).all(), each.layer
