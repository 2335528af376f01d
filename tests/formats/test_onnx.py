"""ONNX files, as exporters write them and as they should not be; ONNX Runtime is the judge."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Resolution, Settings
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.errors import InputError
from mobilette.exporters.onnx import convert
from mobilette.exporters.program import quiet_log
from mobilette.formats.importing import import_weights
from mobilette.model.model import Model
from mobilette.nn.network import Network
from tests.batch_norm import give_statistics
from tests.formats.keras_process import made_by_keras
from tests.parity.libraries import library

How = Literal["dynamo", "script", "unfolded"]
SIDE = 64


def torchvision(name: str, **options: Any) -> nn.Module:
    module: nn.Module = getattr(library("torchvision").models, name)(num_classes=5, **options)
    return module


def timm(name: str) -> nn.Module:
    module: nn.Module = library("timm").create_model(name, num_classes=5)
    return module


def ours(name: str, width_mult: float) -> nn.Module:
    arch = get_arch(name, Settings(width_mult=width_mult, num_classes=5, resolution=SIDE))
    return Network(arch)


def narrow_vgg() -> nn.Module:
    """Return torchvision's VGG-11 of width 0.125."""
    vgg = library("torchvision").models.vgg
    plan = [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]
    module: nn.Module = vgg.VGG(vgg.make_layers(plan), num_classes=5)
    hidden = [nn.Linear(64 * 49, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU()]
    module.classifier = nn.Sequential(*hidden, nn.Dropout(), nn.Linear(512, 5))
    return module


# network: how it is made, its width
NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "mobilenet_v1": (lambda: ours("mobilenet_v1", 0.25), 0.25),
    "mobilenet_v2": (lambda: torchvision("mobilenet_v2", width_mult=0.35), 0.35),
    "mobilenet_v3_small": (lambda: torchvision("mobilenet_v3_small"), 1.0),
    "mnasnet_b1": (lambda: torchvision("mnasnet0_5"), 0.5),
    "mnasnet_a1": (lambda: timm("semnasnet_050"), 0.5),
    "squeezenet1_1": (lambda: torchvision("squeezenet1_1"), 1.0),
    "shufflenet_v2": (lambda: torchvision("shufflenet_v2_x0_5"), 0.5),
    "shufflenet_v1_g3": (lambda: ours("shufflenet_v1_g3", 0.25), 0.25),
    "resnet18": (lambda: torchvision("resnet18"), 1.0),
    "efficientnet_lite0": (lambda: timm("tf_efficientnet_lite0"), 1.0),
    "mobilenet_v4_conv_small": (lambda: timm("mobilenetv4_conv_small"), 1.0),
    "ghostnet": (lambda: timm("ghostnet_050"), 0.5),
    "pp_lcnet": (lambda: timm("lcnet_050"), 0.5),
    "repvgg_a0": (lambda: timm("repvgg_a0"), 1.0),
    "vgg11": (narrow_vgg, 0.125),
    "resnet20": (lambda: ours("resnet20", 1.0), 1.0),  # the older exporter fails on it
}
BY_DYNAMO = ("mobilenet_v2", "squeezenet1_1", "shufflenet_v2", "pp_lcnet", "resnet20")  # slow


def export(module: nn.Module, path: Path, how: How, *, side: int = SIDE, batch: int = 1) -> Tensor:
    """Write ``module`` as PyTorch's exporters do; return images."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, side, side)
    give_statistics(module, torch.randn(2, 3, side, side))
    module.eval()
    with quiet_log("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "dynamo":
            torch.onnx.export(module, (images,), path, dynamo=True, verbose=False)
        else:
            torch.onnx.export(
                module,
                (images,),
                path,
                dynamo=False,
                do_constant_folding=how == "script",
                training=torch.onnx.TrainingMode.PRESERVE
                if how == "unfolded"
                else torch.onnx.TrainingMode.EVAL,
            )
    return images


def run(path: Path, images: np.ndarray) -> Tensor:
    session = onnxruntime.InferenceSession(path)
    logits, *_ = session.run(None, {session.get_inputs()[0].name: images})
    return torch.from_numpy(np.asarray(logits))


@torch.no_grad()
def check(imported: Model, path: Path, images: Tensor, scaled: Tensor | None = None) -> None:
    """Assert that the imported network gives ONNX Runtime's logits."""
    expected = run(path, images.numpy())
    answer = imported.network.eval()(images if scaled is None else scaled)
    assert expected.std() > 1e-3
    scale = max(1.0, float(expected.std()))  # rounding grows with random weights' logits
    torch.testing.assert_close(answer, expected, atol=1e-4 * scale, rtol=0)
    assert imported.origin is not None
    assert imported.origin.unused == ()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in list(NETWORKS)[:-1] for how in ("script", "unfolded")),
        *((name, "dynamo") for name in BY_DYNAMO),
    ],
)
def test_networks_of_pytorchs_exporters_give_onnx_runtimes_logits(
    name: str, how: How, tmp_path: Path
) -> None:
    make, width_mult = NETWORKS[name]
    path = tmp_path / "network.onnx"
    batch = 2 if name in ("shufflenet_v2", "mobilenet_v2") else 1  # written into the shapes
    images = export(make(), path, how, side=224 if name == "vgg11" else SIDE, batch=batch)
    imported = import_weights(path, model=name, width_mult=width_mult, preprocess="torch")
    check(imported, path, images)


KERAS = {
    "v1": ("mobilenet_v1", 0.25),
    "v2": ("mobilenet_v2", 0.35),
    "v3": ("mobilenet_v3_small", 1.0),
}


@pytest.mark.parametrize("name", KERAS)
@torch.no_grad()
def test_networks_of_keras_exporter_give_its_probabilities(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = made_by_keras("tests.formats.keras_onnx", tmp_path_factory)
    model, width_mult = KERAS[name]
    path = folder / f"{name}.onnx"
    imported = import_weights(
        path, model=model, width_mult=width_mult, preprocess="tf" if name != "v3" else None
    )
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given = (images + 1) * 127.5 if name == "v3" else images  # V3 scales pixels itself
    expected = run(path, given.permute(0, 2, 3, 1).contiguous().numpy())
    assert (expected.max(1).values - expected.min(1).values).min() > 0.05
    answer = imported.network.eval()(images).softmax(1)
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(imported.preprocess.mean, 127.5, rtol=1e-6)
    np.testing.assert_allclose(imported.preprocess.std, 127.5, rtol=1e-6)


@pytest.mark.parametrize(("resolution", "features"), [(SIDE, "features"), ((96, 70), "")])
@torch.no_grad()
def test_our_own_artifact_is_read_with_its_normalisation(
    resolution: Resolution, features: str, tmp_path: Path
) -> None:
    arch = get_arch("mobilenet_v1", Settings(width_mult=0.25, num_classes=5, resolution=resolution))
    network = Network(arch)
    give_statistics(network, torch.randn(2, *arch.shape))
    preprocess = preset("torch", in_channels=3)
    path = tmp_path / "model.onnx"
    made = convert(network.eval(), Normalise(preprocess), features=features)
    path.write_bytes(made.SerializeToString())
    imported = import_weights(path, model="mobilenet_v1", width_mult=0.25)
    np.testing.assert_allclose(imported.preprocess.mean, preprocess.mean, rtol=1e-5)
    np.testing.assert_allclose(imported.preprocess.std, preprocess.std, rtol=1e-5)
    assert imported.arch.size == arch.size
    pixels = torch.randint(0, 256, (2, *arch.shape), dtype=torch.uint8)
    check(imported, path, pixels, Normalise(imported.preprocess)(pixels))


def small(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """Return a model of ``nodes`` from "x" (1, 3, 8, 8) to "y", with initialisers."""
    stored = {"w": np.ones((4, 3, 3, 3), np.float32)} | (weights or {})
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"my_{op}", **attributes)


def conv(outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return node("Conv", "x w", outputs, **attributes)


def huge() -> onnx.ModelProto:
    model = small(conv())
    model.graph.initializer[0].dims[:] = [2**40, 3, 3, 3]
    return model


def of_other_shape() -> onnx.ModelProto:
    model = small(conv())
    model.graph.initializer[0].dims[:] = [5, 3, 3, 3]
    return model


def of_too_few_floats() -> onnx.ModelProto:
    model = small(conv())
    model.graph.initializer[0].CopyFrom(
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40], float_data=[1.0])
    )
    return model


def with_subgraph() -> onnx.ModelProto:
    inner = helper.make_graph([], "inner", [], [])
    return small(conv("a"), node("If", "a", then_branch=inner, else_branch=inner))


def elsewhere(location: str, offset: str = "0", length: str = "432") -> onnx.ModelProto:
    model = small(conv())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return model


BAD: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "2**40 numbers": (huge, "node 'my_Conv' .Conv.: tensor 'w' of shape .* has 432 bytes"),
    "another shape": (of_other_shape, "has 432 bytes; 540 are expected"),
    "too few floats": (of_too_few_floats, "are larger than the file"),
    "a cycle": (lambda: small(node("Relu", "b", "a"), node("Relu", "a", "b")), "'b', which no"),
    "no such input": (lambda: small(node("Relu", "nothing")), "reads 'nothing', which no earlier"),
    "another domain": (
        lambda: small(node("Conv", "x w", domain="com.microsoft")),
        "node 'my_Conv' .Conv. is of the domain 'com.microsoft'",
    ),
    "a subgraph": (with_subgraph, "node 'my_If' .If. holds a graph of its own"),
    "an unknown operator": (lambda: small(node("Celu", "x")), "node 'my_Celu' .Celu. is not"),
    "quantised": (
        lambda: small(node("QuantizeLinear", "x w", "y")),
        "node 'my_QuantizeLinear' .* is quantised; give the float model",
    ),
    "an output written twice": (lambda: small(conv(), conv()), "'y', which already has a value"),
    "infinite weights": (
        lambda: small(conv(), weights={"w": np.full((4, 3, 3, 3), np.inf, np.float32)}),
        "'w' has values that are not finite",
    ),
    "dilation": (lambda: small(conv(dilations=[2, 2])), "dilation is not supported"),
    "negative pads": (lambda: small(conv(pads=[-1, 0, 0, 0])), "its pads are below 0"),
    "a stride of text": (lambda: small(conv(strides="two")), "its strides are no integers"),
    "a batch that is flattened": (lambda: small(node("Flatten", "x", axis=0)), "the batch"),
    "padding without end": (
        lambda: small(
            node("Pad", "x p"), weights={"p": np.array([0, 0, 0, 0, 0, 0, 2**30, 2**30])}
        ),
        "by too much",
    ),
    "a constant without end": (
        lambda: small(node("ConstantOfShape", "s", "big"), weights={"s": np.array([2**20, 2**20])}),
        "it would make 1,099,511,627,776 numbers",
    ),
    "products of constants without end": (
        lambda: small(
            node("Mul", "a b", "big"),
            weights={"a": np.ones((2**14, 1), "f4"), "b": np.ones((1, 2**14), "f4")},
        ),
        "it would make 268,435,456 numbers",
    ),
    "a file that is not there": (lambda: elsewhere("no.data"), "are in 'no.data' beside it"),
    "a file above": (lambda: elsewhere("../w.data"), "'../w.data', which is not a file in"),
    "a file above, further down": (lambda: elsewhere("a/../../w.data"), "which is not a file in"),
    "a file anywhere": (lambda: elsewhere("/etc/passwd"), "'/etc/passwd', which is not a file"),
    "a drive": (lambda: elsewhere("C:\\w.data"), "which is not a file in"),
    "a place behind the end": (
        lambda: elsewhere("w.data", offset="100"),
        "432 bytes at 100 of the 432 in 'w.data'",
    ),
    "a place before the begin": (lambda: elsewhere("w.data", offset="-8"), "432 bytes at -8"),
    "a length that is not the shape's": (lambda: elsewhere("w.data", length="8"), "needs 432 byt"),
    "a length that is no number": (lambda: elsewhere("w.data", length="x"), "is no number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    path = tmp_path / "bad" / "model.onnx"
    path.parent.mkdir()
    (tmp_path / "bad" / "w.data").write_bytes(bytes(432))
    (tmp_path / "w.data").write_bytes(bytes(432))
    path.write_bytes(make().SerializeToString())
    with pytest.raises(InputError, match=message) as refusal:
        import_weights(path, model="mobilenet_v1", preprocess="raw")
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_weights_behind_a_link_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(432))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.data").symlink_to(tmp_path / "secret")
    path = folder / "model.onnx"
    path.write_bytes(elsewhere("w.data").SerializeToString())
    with pytest.raises(InputError, match="'w.data', a link that leads out of the model's folder"):
        import_weights(path, model="mobilenet_v1", preprocess="raw")


def test_truncated_files_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = small(conv()).SerializeToString()
    for content in (whole[:-7], b"", b"not an ONNX file", whole[:3]):
        path.write_bytes(content)
        with pytest.raises(InputError) as refusal:
            import_weights(path, model="mobilenet_v1", preprocess="raw")
        assert "\n" not in str(refusal.value)


def test_another_network_is_refused_at_its_first_layer(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(torchvision("mobilenet_v2", width_mult=0.35), path, "script")
    with pytest.raises(InputError, match=r"full 3x3, stride 2, .* but stem\.conv is"):
        import_weights(path, model="mobilenet_v1", preprocess="raw")
    with pytest.raises(InputError, match="has width 0.35 of mobilenet_v2, not 1; give"):
        import_weights(path, model="mobilenet_v2", preprocess="raw")


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    network = ours("mobilenet_v1", 0.25)
    images = export(network, path, "unfolded")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    path.write_bytes(model.SerializeToString())
    imported = import_weights(path, model="mobilenet_v1", width_mult=0.25, preprocess="torch")
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(imported.network.eval()(images), expected, atol=0.05, rtol=0.05)


def test_hard_swish_in_several_nodes_is_read(tmp_path: Path) -> None:
    class Spelled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * ((x + 3).clamp(0, 6) / 6)

    def spell(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.Hardswish):
                setattr(module, name, Spelled())
            spell(child)

    network = torchvision("mobilenet_v3_small")
    spell(network)
    path = tmp_path / "model.onnx"
    images = export(network, path, "script")
    imported = import_weights(path, model="mobilenet_v3_small", preprocess="torch")
    check(imported, path, images)
