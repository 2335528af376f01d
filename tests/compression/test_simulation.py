"""Simulated int8 against integer arithmetic in numpy, and against torch's own rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import mobilette
from mobilette.arch.layers import layers
from mobilette.arch.rows import Conv, PoolLinear
from mobilette.compression.float_layers import weight_layers
from mobilette.compression.folding import fold
from mobilette.compression.observation import answers
from mobilette.compression.ranges import RANGES, Ranges
from mobilette.compression.simulation import (
    Simulated,
    WeightScales,
    int8_layers,
    int8_tensors,
    round_activation,
    signal_to_noise,
    simulated,
)
from mobilette.data.normalise import Normalise
from mobilette.errors import InputError
from mobilette.exporters.calibration import calibration_images
from mobilette.model.model import Model
from mobilette.run.directory import Run
from mobilette.workflows.export import export
from tests.compression.networks import (
    FAMILIES,
    random_images,
    random_model,
    weight_of,
)
from tests.families import arch_of
from tests.models import model_of


def one_convolution() -> Model:
    """Return a 3x3 convolution with ReLU and a classifier."""
    torch.manual_seed(0)
    stem = Conv(channels=8, kernel=3, activation="relu", norm="none", bias=True)
    arch = replace(arch_of("mobilenet_v1", 0.25, resolution=16), stem=stem, rows=())
    model = model_of(replace(arch, head=PoolLinear(classes=4)))
    model.weights["stem.conv.bias"].uniform_(-1, 1)
    return model


def quantise(
    x: NDArray[np.float64], low: float, high: float
) -> tuple[NDArray[np.int64], float, int]:
    scale = (high - low) / 255
    zero = round(-low / scale)
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero


@pytest.mark.parametrize("weights", ["per_channel", "per_tensor"])
def test_a_convolution_is_what_integers_compute(weights: WeightScales) -> None:
    source, x = one_convolution(), random_images(4, resolution=16)
    model = simulated(source, x, weights=weights)
    found: list[Tensor] = []
    model.network.get_submodule("stem.activation").register_forward_hook(
        lambda _m, _i, out: found.append(out)
    )
    model(x)
    q, scale, zero = quantise(x.numpy().astype(np.float64), float(x.min()), float(x.max()))
    weight = source.weights["stem.conv.weight"].numpy().astype(np.float64)
    limits = np.abs(weight).reshape(8, -1).max(1)
    steps = (limits if weights == "per_channel" else np.full(8, limits.max())) / 127
    integers = np.rint(weight / steps[:, None, None, None]).astype(np.int64)
    padded = np.pad(q - zero, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, integers)
    bias = source.weights["stem.conv.bias"].numpy().astype(np.float64)
    real = sums * (scale * steps)[:, None, None] + bias[:, None, None]
    expected, step, _ = quantise(
        np.maximum(real, 0), 0.0, float(source.network.features(x)[1].detach().max())
    )
    ours = found[0].detach().numpy() / step
    # A value between two steps may be rounded either way in float32.
    assert np.abs(ours - np.rint(ours)).max() < 1e-3
    assert np.abs(np.rint(ours) - expected).max() <= 1
    assert (np.rint(ours) == expected).mean() > 0.999


def test_int8_errs_as_onnx_runtime_does(trained: Run, tmp_path: Path) -> None:
    """The logits of the exported model differ from the float ones where ours do, by as much."""
    pixels = calibration_images(trained).pixels
    artifact = export(trained, precision="int8", out=tmp_path)
    theirs = torch.from_numpy(mobilette.load(artifact.path).logits(pixels))
    with torch.no_grad():
        inputs = Normalise(trained.preprocess)(torch.from_numpy(pixels))
    model = fold(trained.model)
    wanted = answers(model, inputs)
    ours = answers(simulated(model, inputs), inputs)
    errors = torch.stack([(ours - wanted).flatten(), (theirs - wanted).flatten()])
    # The weights, and so how near, are another on each kind of CPU: 0.75 to 0.8, 2.6 to 4 dB.
    assert float(torch.corrcoef(errors)[0, 1]) > 0.65
    assert signal_to_noise(theirs, ours) > signal_to_noise(theirs, wanted) + 1.5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_of_an_integer_engine_has_at_most_256_values(name: str) -> None:
    network, x = random_model(name), random_images(4)
    model = simulated(network, x)
    reading = {source for layer in layers(network.arch) for source in layer.inputs}
    fused = {
        layer.inputs[0]
        for layer in layers(network.arch)
        if getattr(layer, "function", "") in ("relu", "relu6")
    }
    counts = {}

    def count(name: str, output: torch.Tensor) -> None:
        counts[name] = len(np.unique(output.detach().numpy()))

    for inner in reading - fused - {"input"}:
        module = model.network.get_submodule(inner)
        module.register_forward_hook(lambda _m, _i, out, inner=inner: count(inner, out))
    model(x)
    last = layers(network.arch)[-1].inputs[0]  # SqueezeNet: pooled logits on their way out
    counts.pop(last, None) if name.startswith("squeezenet") else None
    assert counts
    assert max(counts.values()) <= 256


@pytest.mark.parametrize("ranges", RANGES)
def test_nothing_in_int8_is_the_network_itself(ranges: Ranges) -> None:
    network, x = random_model("mobilenet_v3_small"), random_images(4)
    alone = simulated(network, x, ranges=ranges, layers=())
    assert torch.equal(answers(alone, x), answers(network, x))
    kept = simulated(network, x, ranges=ranges, float_layers=weight_layers(network.arch))
    for layer in weight_layers(network.arch):
        assert torch.equal(weight_of(kept.network, layer), network.weights[f"{layer}.weight"])


def test_one_layer_alone_reads_and_gives_int8() -> None:
    arch = random_model("mobilenet_v2").arch
    near = int8_tensors(arch, int8_layers(arch, {"rows.2.depthwise.conv"}))
    assert near == ("rows.2.expand.activation", "rows.2.depthwise.activation")
    all_but = int8_tensors(arch, int8_layers(arch, None, {"head.classifier"}))
    assert "head.classifier" not in all_but
    assert "head.pool" in all_but


def test_less_in_int8_loses_less() -> None:
    network, x = random_model("resnet20"), random_images()
    wanted = answers(network, x)

    def noise(model: Simulated) -> float:
        return signal_to_noise(wanted, answers(model, x))

    some = weight_layers(network.arch)[::2]
    assert noise(simulated(network, x, float_layers=some)) > noise(simulated(network, x)) > 10
    assert noise(simulated(network, x)) > noise(simulated(network, x, weights="per_tensor"))


def test_gradients_pass_inside_the_range_and_not_outside() -> None:
    x = torch.tensor([-2.0, -0.5, 0.3, 2.0], requires_grad=True)
    round_activation(x, (-1.0, 1.0)).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]
    network, images = random_model("mobilenet_v3_small"), random_images(4)
    model = simulated(network, images)
    model(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_the_network_is_left_alone_and_given_back() -> None:
    network, x = random_model("mobilenet_v2"), random_images(4)
    before = answers(network, x)
    weights = simulated(network, x).float_weights()
    assert torch.equal(answers(network, x), before)
    theirs = network.weights
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)


def test_what_cannot_be_is_said() -> None:
    network, x = random_model("mobilenet_v2"), random_images(2)
    with pytest.raises(InputError, match="no images"):
        simulated(network, x[:0])
    with pytest.raises(InputError, match="is needed"):
        simulated(network, x[:, :, :16])
    with pytest.raises(InputError, match=r"did you mean 'head\.classifier'"):
        simulated(network, x, float_layers=["head.clasifier"])
    with pytest.raises(InputError, match="per_channel, per_tensor"):
        Simulated(network, {}, int8=(), weights="per_row")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch norms"):
        simulated(model_of(arch_of("mobilenet_v2", 0.25)), x)
    with pytest.raises(InputError, match="not finite"):
        simulated(network, x * float("inf"))
