"""One output, sigmoids, no classifier: what outputs mean, in formats other than Keras'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mobilette.arch.catalogue import get_arch
from mobilette.arch.primitives import INPUT, LinearLayer
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.formats.file_builder import Builder
from mobilette.formats.file_layers import NORM, Ending, Weights
from mobilette.formats.imported import Imported, interpret_outputs
from mobilette.formats.importing import _from_layers, import_weights
from mobilette.formats.values import Affine
from mobilette.model.classes import ClassLabel
from mobilette.nn.network import Network, build_empty
from tests.formats.test_matching import network_of

SETTINGS = Settings(width_mult=0.35, resolution=32, num_classes=1)


def one_output(model: str = "mobilenet_v2") -> Imported:
    network = Network(get_arch(model, SETTINGS))
    return Imported(arch=network.arch, weights=dict(network.state_dict()), tensors=1)


@torch.no_grad()
def logits(imported: Imported) -> torch.Tensor:
    network = build_empty(imported.arch)
    network.load_state_dict(imported.weights, assign=True)
    answers: torch.Tensor = network.eval()(torch.ones(1, 3, 32, 32))
    return answers


def test_the_softmax_of_two_is_the_sigmoid_of_one() -> None:
    given = one_output()
    two = interpret_outputs(given, "sigmoid", num_classes=None, where="x")
    assert not two.multi_label
    torch.testing.assert_close(logits(two).softmax(1)[:, 1], logits(given).sigmoid()[:, 0])


@pytest.mark.parametrize(
    ("model", "ending", "message"),
    [
        ("mobilenet_v2", "logits", "x: one output without a sigmoid: a regression"),
        ("mobilenet_v2", "softmax", "x: a softmax over one output is always 1"),
        ("squeezenet1_1", "sigmoid", "x: one output, but not from a linear layer"),
    ],
)
def test_one_output_that_tells_nothing_is_refused(model: str, ending: Ending, message: str) -> None:
    with pytest.raises(InputError, match=message):
        interpret_outputs(one_output(model), ending, num_classes=None, where="x")


def test_a_state_dict_of_one_output(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(one_output().weights, path)
    with pytest.raises(InputError, match="name both with --classes"):
        import_weights(
            path, model="mobilenet_v2", width_mult=0.35, resolution=32, preprocess="torch"
        )
    imported = import_weights(
        path,
        model="mobilenet_v2",
        width_mult=0.35,
        resolution=32,
        classes=[ClassLabel(id=name, name=name) for name in ("no", "yes")],
        preprocess="torch",
    )
    assert imported.arch.num_classes == 2


def test_sigmoids_over_several_are_multi_label() -> None:
    several = Imported(
        arch=get_arch("mobilenet_v2", Settings(num_classes=3)), weights={}, tensors=0
    )
    assert interpret_outputs(several, "sigmoid", num_classes=None, where="x").multi_label
    assert not interpret_outputs(several, "logits", num_classes=None, where="x").multi_label


def test_tflite_ends_in_a_sigmoid(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from mobilette.formats.tflite.file import read_tflite
    from tests.formats.tflite_models import Model

    model = Model(1, 4, 4, 3)
    mean = model.op("MEAN", [0, model.constant([1, 2], "int32")], (1, 3), options="ReducerOptions")
    linear = model.op(
        "FULLY_CONNECTED",
        [mean, model.noise(1, 3), model.noise(1)],
        (1, 1),
        options="FullyConnectedOptions",
    )
    model.op("LOGISTIC", [linear], (1, 1))
    graph = read_tflite(model.write(tmp_path / "model.tflite"))
    assert graph.ending == "sigmoid"
    assert isinstance(graph.layers[-1].layer, LinearLayer)


def test_a_batch_norm_goes_into_the_linear_layer_before_or_behind() -> None:
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Weights:
        return random.uniform(0.5, 2, shape).astype(np.float32)

    def norm(size: int) -> dict[str, Weights]:
        return {name: draw(size) for name in NORM}

    def applied(norm: dict[str, Weights], x: Weights) -> Weights:
        weight, bias, mean, variance = (norm[name][:, None, None] for name in NORM)
        return np.asarray((x - mean) / np.sqrt(variance + 1e-3) * weight + bias, np.float32)

    weight, bias = draw(4, 24), draw(4)

    def built(side: int) -> Builder:
        builder = Builder((24 // side**2, side, side))
        builder.linear("c", INPUT, weight, bias)
        return builder

    def linear(builder: Builder, x: Weights) -> Weights:
        tensors = builder.layers["c"].tensors
        made = tensors["weight"] @ x.ravel() + tensors["bias"]
        return np.asarray(made, np.float32)[:, None, None]

    for side, channels in ((1, 24), (2, 6)):
        x, behind, before = draw(channels, side, side), norm(4), norm(channels)
        plain, after, first = built(side), built(side), built(side)
        Affine.of_norm(behind, 1e-3).put_after(after, "c")
        assert linear(after, x) == pytest.approx(applied(behind, linear(plain, x)), rel=1e-5)
        Affine.of_norm(before, 1e-3).put_before(first, "c")
        assert linear(first, x) == pytest.approx(linear(plain, applied(before, x)), rel=1e-5)


def test_a_classifier_that_is_averaged_is_one() -> None:
    arch = get_arch("squeezenet1_1", Settings(resolution=224, num_classes=7))
    imported = _from_layers(network_of(arch), "squeezenet1_1", Settings(), None)
    assert imported.has_classifier
    assert imported.arch.num_classes == 7
