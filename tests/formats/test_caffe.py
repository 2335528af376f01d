"""Caffe's files, compared with OpenCV's reader."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import change_convs
from mobilette.arch.rows import Conv, Pool
from mobilette.arch.scale import Resolution, Settings
from mobilette.errors import InputError
from mobilette.formats.caffe.definition import find_definition
from mobilette.formats.caffe.file import read_caffe
from mobilette.formats.importing import import_weights
from mobilette.nn.network import Network, build_empty
from tests.batch_norm import give_statistics
from tests.formats.caffe_models import (
    TWO_GB,
    Caffe,
    caffe_of,
    delimited,
    read,
    small,
    varint,
    whole_caffemodel,
    with_expansion,
)
from tests.formats.execution import execute

cv2 = pytest.importorskip("cv2")


def network_of(name: str, *, resolution: Resolution = 64, width_mult: float = 0.5) -> Arch:
    settings = Settings(num_classes=10, width_mult=width_mult, resolution=resolution, form="full")
    return get_arch(name, settings)


def with_random_weights(arch: Arch) -> Network:
    torch.manual_seed(0)
    network = Network(arch)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
    give_statistics(network, torch.randn(8, *arch.shape))
    return network.eval()


def with_moved_stride(arch: Arch) -> Arch:
    """Return V2 with the stride of its blocks of 64 channels at those of 96: shicai's."""
    moved = {"rows.6.depthwise": 1, "rows.10.depthwise": 2}
    return change_convs(arch, lambda name, conv: replace(conv, stride=moved.get(name, conv.stride)))


def with_relu(arch: Arch) -> Arch:
    def change(_: str, conv: Conv) -> Conv:
        return replace(conv, activation="relu" if conv.activation == "relu6" else conv.activation)

    return change_convs(arch, change)


def with_ceil_pool(arch: Arch) -> Arch:
    """Return a ResNet whose first pool has no padding and rounds up: He's."""
    pool = arch.rows[0]
    assert isinstance(pool, Pool)
    return replace(arch, rows=(replace(pool, padding="valid", ceil_mode=True), *arch.rows[1:]))


NETWORKS: dict[str, tuple[str, Arch, dict[str, Any]]] = {
    "V1, as shicai's": (
        "mobilenet_v1",
        network_of("mobilenet_v1"),
        {"in_place": False, "input_layer": False, "linear": "Convolution"},
    ),
    "V1, depthwise layers of a fork": (
        "mobilenet_v1",
        network_of("mobilenet_v1"),
        {"depthwise": "ConvolutionDepthwise"},
    ),
    "V2, as shicai's": (
        "mobilenet_v2",
        with_moved_stride(with_relu(with_expansion(network_of("mobilenet_v2")))),
        {"in_place": False, "input_layer": False, "linear": "Convolution"},
    ),
    "V2 with ReLU6": ("mobilenet_v2", network_of("mobilenet_v2"), {}),
    "SqueezeNet, pools that round up": (
        "squeezenet1_1",
        network_of("squeezenet1_1", resolution=67),
        {},
    ),
    "ResNet-18, as He's": ("resnet18", with_ceil_pool(network_of("resnet18")), {}),
    "ResNet-50, stride in the 1x1": (
        "resnet50_paper",
        with_ceil_pool(network_of("resnet50_paper", width_mult=0.25)),
        {"input_layer": False},
    ),
    "V2, oblong": ("mobilenet_v2", network_of("mobilenet_v2", resolution=(64, 100)), {}),
    "SqueezeNet, oblong": (
        "squeezenet1_1",
        network_of("squeezenet1_1", resolution=(67, 96)),
        {},
    ),
    "ResNet-18, padded pool": ("resnet18", network_of("resnet18", resolution=65), {}),
    "VGG, layers of before 2015": (
        "vgg11",
        network_of("vgg11", resolution=224, width_mult=0.125),
        {"old": True, "input_layer": False},
    ),
}


def answers_of_opencv(path: Path, x: NDArray[np.float32], last: str) -> NDArray[np.float32]:
    net = cv2.dnn.readNetFromCaffe(str(path.with_name("deploy.prototxt")), str(path))
    net.enableWinograd(False)  # it rounds more
    rows = []
    for image in x:
        net.setInput(image[None])
        rows.append(np.array(net.forward(last)).reshape(-1))
    return np.stack(rows)


@pytest.mark.parametrize("case", NETWORKS)
@torch.no_grad()
def test_logits_are_opencvs(case: str, tmp_path: Path) -> None:
    name, arch, options = NETWORKS[case]
    network = with_random_weights(arch)
    path = caffe_of(arch, network.state_dict(), **options).write(tmp_path)
    width_mult = {"resnet50_paper": 0.25, "vgg11": 0.125}.get(name, 0.5)
    model = import_weights(path, model=name, width_mult=width_mult, preprocess="caffe")
    shape = (3, *arch.shape)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours = build_empty(model.arch)
    ours.load_state_dict(model.weights, assign=True)
    logits = ours.eval()(torch.from_numpy(x)).numpy()
    answers = answers_of_opencv(path, x, "prob")
    shares = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(shares / shares.sum(1, keepdims=True), answers, atol=1e-4)
    last = "head/pool" if name.startswith("squeeze") else "head/classifier"
    theirs = answers_of_opencv(path, x, last)
    assert np.ptp(theirs, axis=0).max() > 0.01, "all images have the same logits"
    np.testing.assert_allclose(logits, theirs, atol=1e-4 * theirs.std())
    assert model.origin.unused == ()
    assert model.arch == replace(arch, name=model.arch.name), "the network that was written"


def test_layers_that_no_network_above_has(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = Caffe(in_place=False)

    def conv(name: str, bottom: str, inputs: int, out: int, more: str = "") -> str:
        parameters = f"convolution_param {{ num_output: {out} kernel_size: 1 {more} }}"
        blobs = [random.normal(size=(out, inputs, 1, 1)), random.normal(size=out)]
        return files.layer(name, "Convolution", [bottom], name, parameters, *blobs)

    files.layer("data", "Input", [], "data", "input_param { shape: { dim: [1, 3, 12, 12] } }")
    conv("a", "data", 3, 4)
    sums = [random.normal(size=4) * 3, random.uniform(1, 2, 4) * 3, [3.0]]
    files.layer("a/bn", "BatchNorm", ["a"], "a", "", *sums)  # without a scale
    conv("b", "data", 3, 4)
    scales = [random.normal(size=4), random.normal(size=4)]
    files.layer("b/scale", "Scale", ["b"], "b", "scale_param { bias_term: true }", *scales)
    files.layer("b/scale2", "Scale", ["b"], "b", "", scales[0])
    files.layer("b/relu", "ReLU", ["b"], "b")
    average = "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"
    files.layer("a/pool", "Pooling", ["a"], "ap", average)
    files.layer("b/pool", "Pooling", ["b"], "bp", average)
    files.layer("ab", "Concat", ["ap", "bp"], "ab", "concat_param { axis: 1 }")
    pooled = "pooling_param { pool: AVE kernel_size: 7 }"
    files.layer("gate/pool", "Pooling", ["ab"], "gate", pooled)
    files.layer("gate/sigmoid", "Sigmoid", [conv("gate/conv", "gate", 8, 8)], "gates")
    files.layer("scaled", "Scale", ["ab", "gates"], "scaled", "scale_param { axis: 0 }")
    files.layer("sum", "Eltwise", ["scaled", "ab"], "sum", "eltwise_param { operation: SUM }")
    files.layer("flat", "Flatten", ["sum"], "flat")
    weight = random.normal(size=(5, 8 * 7 * 7))
    parameters = "inner_product_param { num_output: 5 bias_term: false }"
    files.layer("fc", "InnerProduct", ["flat"], "fc", parameters, weight)
    files.layer("prob", "Sigmoid", ["fc"], "prob")
    path = files.write(tmp_path)
    network = read_caffe(path)
    assert network.ending == "sigmoid"
    assert network.unused == ()
    x = random.normal(size=(3, 3, 12, 12)).astype(np.float32)
    theirs = answers_of_opencv(path, x, "fc")
    np.testing.assert_allclose(execute(network, x), theirs, atol=1e-4 * theirs.std())


STATED = "mean_value: 103.94 mean_value: 116.78 mean_value: 123.68 scale: 0.017"


def test_transform_param_is_the_preprocessing(tmp_path: Path) -> None:
    path = small(transform=f"transform_param {{ {STATED} mirror: false }}").write(tmp_path)
    found = read(path, preprocess=None).preprocess
    assert found.colour == "bgr"
    assert found.mean == pytest.approx((103.94, 116.78, 123.68))
    assert found.std == pytest.approx((1 / 0.017,) * 3)


def test_transform_param_of_the_training_is_in_the_weights(tmp_path: Path) -> None:
    files = small()
    stored = files.net.layer.add(name="train", type="Data")
    stored.include.add(phase=0)
    stored.transform_param.mean_value.extend([104, 117, 123])
    found = read(files.write(tmp_path), preprocess=None).preprocess
    assert (found.colour, found.mean, found.std) == ("bgr", (104, 117, 123), (1, 1, 1))


def test_a_file_that_states_no_preprocessing_needs_a_preset(tmp_path: Path) -> None:
    path = small(transform="transform_param { mean_file: 'mean.binaryproto' }").write(tmp_path)
    with pytest.raises(InputError, match="does not state how images are prepared; give"):
        read(path, preprocess=None)


def test_the_weights_alone_suffice_if_they_state_the_input(tmp_path: Path) -> None:
    path = whole_caffemodel(small()).write(tmp_path)
    path.with_name("deploy.prototxt").unlink()
    model = read(path)
    assert model.arch.resolution == 32
    assert model.origin.remarks == ()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["net", "deploy", "net_deploy"], "net"),
        (["net_deploy", "deploy", "other_deploy"], "net_deploy"),
        (["deploy", "other_deploy", "solver"], "deploy"),
        (["other-Deploy", "train_val", "other"], "other-Deploy"),
        (["other", "train_val", "solver"], "other"),
        (["train_val", "solver"], None),
        ([], None),
    ],
)
def test_which_definition_is_taken(tmp_path: Path, names: list[str], chosen: str | None) -> None:
    for name in names:
        (tmp_path / f"{name}.prototxt").touch()
    found = find_definition(tmp_path / "net.caffemodel")
    assert (found.stem if found else None) == chosen


def test_the_definition_is_named(tmp_path: Path) -> None:
    path = small().write(tmp_path, definition="any")
    assert "layers as defined in any.prototxt" in read(path).origin.remarks


def test_two_definitions_are_refused(tmp_path: Path) -> None:
    path = small().write(tmp_path, definition="a")
    small().write(tmp_path, definition="b")
    with pytest.raises(InputError, match=r"a.prototxt, b.prototxt are beside it; name the one"):
        read(path)


def test_unused_weights_are_listed(tmp_path: Path) -> None:
    files = small()
    stored = files.net.layer.add(name="loss3", type="InnerProduct")
    files.add_blob(stored, np.zeros((10, 4), np.float32))
    assert read(files.write(tmp_path)).origin.unused == ("loss3.0",)


CHANGED = {
    "a training's definition": (
        ('type: "Input"', 'type: "Data"'),
        "Data 'data' reads a data set: a definition for training",
    ),
    "an input of five channels": (("dim: 3 dim: 32", "dim: 5 dim: 32"), "not an image"),
    "no input": (("dim: 1 dim: 3 dim: 32 dim: 32", ""), "its input is (), not an image"),
    "an unknown layer": (('type: "ReLU6"', 'type: "PReLU"'), "PReLU 'stem/activation': it is not"),
    "a leaky ReLU": (
        ('type: "ReLU6"', 'type: "ReLU" relu_param { negative_slope: 0.1 }'),
        "a ReLU with a negative slope is not supported",
    ),
    "a name without weights": (
        ('name: "stem/conv"', 'name: "conv1"'),
        "has no weights of this name",
    ),
    "weights of another shape": (
        ("num_output: 8", "num_output: 16"),
        "Convolution 'stem/conv': weights of shape (8, 3, 3, 3); (16, 3, 3, 3) is expected",
    ),
    "a kernel of 2x3": (
        ("kernel_size: 3", "kernel_h: 2 kernel_w: 3"),
        "kernel 2 and 3; one of 1 or more for both directions is expected",
    ),
    "no kernel": (("kernel_size: 3", ""), "kernel none"),
    "a stride of 0": (("stride: 2", "stride: 0"), "stride 0; one of 1 or more"),
    "a dilation": (("kernel_size: 3", "kernel_size: 3 dilation: 2"), "dilation"),
    "padding of 3": (("pad: 1", "pad: 3"), "(3, 3, 3, 3) zeros around"),
    "groups that do not divide": (("group: 1", "group: 2"), "3 to 8 channels in 2 groups"),
    "a blob that nothing writes": (
        ('bottom: "data"', 'bottom: "date"'),
        "it reads 'date', which no",
    ),
    "two outputs": (
        (
            'layer { name: "prob"',
            'layer { type: "Split" bottom: "data" top: "x" } layer { name: "p"',
        ),
        "it has 2 outputs (x, prob); a classifier has one",
    ),
    "no text": (("layer {", "layer {{"), "not a Caffe definition: line"),
    "a solver": (("layer", "net: 'train_val.prototxt' solver"), "defines no layers"),
    "another network": (("group: 1 stride: 2", "group: 1 stride: 1"), "is full 3x3, stride 1"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_definition_that_does_not_fit_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    (old, new), message = CHANGED[case]
    files = small()
    whole = "\n".join(files.text)
    assert old in whole
    changed = whole.replace(old, new) if case == "a solver" else whole.replace(old, new, 1)
    files.text = [changed]
    path = files.write(tmp_path)
    with pytest.raises(InputError) as raised:
        read(path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("deep", ["layer { a { " * 20_000, "layer { a " + "[" * 20_000])
def test_text_nested_too_deep_is_refused(deep: str, tmp_path: Path) -> None:
    path = small().write(tmp_path)
    path.with_name("deploy.prototxt").write_text(deep)
    with pytest.raises(InputError, match="not a Caffe definition"):
        read(path)


def stored(blob: bytes) -> bytes:
    layer = delimited(1, b"stem/conv") + delimited(2, b"Convolution") + delimited(7, blob)
    return delimited(100, layer)


HOSTILE = {
    "empty": (b"", "no weights of this name"),
    "not protobuf": (b"<!DOCTYPE html><html>", "damaged, or not a .caffemodel"),
    "a layer of 2 GB": (
        delimited(100, b"", TWO_GB),
        "damaged: a field of 2,147,483,648 bytes where 0 are left",
    ),
    "data of 2 GB": (
        stored(delimited(7, delimited(1, varint(8))) + delimited(5, b"1234", TWO_GB)),
        "a field of 2,147,483,648 bytes",
    ),
    "a shape of 2 GB": (
        stored(delimited(7, delimited(1, varint(2**29))) + delimited(5, b"1234")),
        "4 bytes of weights, which is not float32 of shape (536870912,)",
    ),
    "a shape whose product wraps": (
        stored(delimited(7, delimited(1, varint(2**62) * 4)) + delimited(5, b"1234")),
        "4 bytes of weights, which is not float32",
    ),
    "a negative shape": (
        stored(delimited(7, delimited(1, varint(2**64 - 1) * 2)) + delimited(5, b"1234")),
        "4 bytes of weights, which is not float32 of shape (-1, -1)",
    ),
    "thousands of dimensions": (
        stored(delimited(7, delimited(1, varint(1) * 5000)) + delimited(5, b"1234")),
        "4 bytes of weights",
    ),
    "no data": (stored(delimited(7, delimited(1, varint(1)))), "weights in 0 parts"),
    "numbers one by one": (stored(varint(5 << 3 | 5) + b"1234"), "field 5 is not packed"),
    "millions of empty layers": (delimited(100, b"") * 2**21, "more than 131,072 fields"),
    "text of megabytes": (delimited(1, b"x" * 5 * 2**20), "more than 4,194,304 bytes"),
    "an endless number": (b"\xff" * 20, "the number is too long"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_weights_that_claim_too_much_are_refused_in_a_line(case: str, tmp_path: Path) -> None:
    content, message = HOSTILE[case]
    path = small().write(tmp_path)
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read(path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = small().write(tmp_path_factory.mktemp("caffe"))
    return path, path.read_bytes()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_damage_is_refused_or_read(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = whole
    if data.draw(st.booleans(), label="cut"):
        damaged = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        at = data.draw(st.integers(0, min(3000, len(content) - 9)))
        damaged = content[:at] + data.draw(st.binary(min_size=1, max_size=8)) + content[at + 8 :]
    path.write_bytes(damaged)
    with suppress(InputError):
        read(path)


def test_a_definition_given_instead_of_weights_is_refused(tmp_path: Path) -> None:
    path = small().write(tmp_path)
    with pytest.raises(InputError, match="defines layers; give the .caffemodel of weights"):
        read(path.with_name("deploy.prototxt"))
