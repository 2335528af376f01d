"""One output, sigmoids, no classifier: what outputs mean, in formats other than Keras'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.formats.affine import Affine
from mobilette.formats.graph import ConvNode, Ending, NormNode, Weights
from mobilette.formats.imported import Imported, interpret_outputs
from mobilette.formats.importing import _from_graph, import_weights
from mobilette.model.classes import ClassLabel
from mobilette.nn.network import Network, build_empty
from tests.formats.arch_graphs import graph_of

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
        ("squeezenet1_1", "sigmoid", "x: one output, and no linear layer"),
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
    last = graph.nodes[-1]
    assert isinstance(last, ConvNode)
    assert last.linear


def test_a_batch_norm_goes_into_the_linear_layer_before_or_behind() -> None:
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Weights:
        return random.uniform(0.5, 2, shape).astype(np.float32)

    conv = ConvNode(name="c", inputs=(), weight=draw(4, 6, 1, 1), bias=draw(4), linear=True)
    x = draw(6)

    def norm(size: int) -> NormNode:
        scale, shift, mean, variance = (draw(size) for _ in range(4))
        return NormNode(
            name="n",
            inputs=(),
            scale=scale,
            shift=shift,
            mean=mean,
            variance=variance,
            epsilon=1e-3,
        )

    def applied(norm: NormNode, x: Weights) -> Weights:
        std = np.sqrt(norm.variance + np.float32(norm.epsilon))
        return np.asarray((x - norm.mean) / std * norm.scale + norm.shift, np.float32)

    def linear(conv: ConvNode, x: Weights) -> Weights:
        assert conv.bias is not None
        return np.asarray(conv.weight[:, :, 0, 0] @ x + conv.bias, np.float32)

    behind, before, flattened = norm(4), norm(6), norm(3)
    assert linear(Affine.of_norm(behind).after(conv), x) == pytest.approx(
        applied(behind, linear(conv, x)), rel=1e-5
    )
    assert linear(Affine.of_norm(before).before(conv), x) == pytest.approx(
        linear(conv, applied(before, x)), rel=1e-5
    )
    pixels = np.concatenate([applied(flattened, x[:3]), applied(flattened, x[3:])])
    assert linear(Affine.of_norm(flattened).before(conv), x) == pytest.approx(
        linear(conv, pixels), rel=1e-5
    )


def test_a_classifier_that_is_averaged_is_one() -> None:
    arch = get_arch("squeezenet1_1", Settings(resolution=224, num_classes=7))
    imported = _from_graph(graph_of(arch), "squeezenet1_1", Settings(), None)
    assert imported.has_classifier
    assert imported.arch.num_classes == 7
