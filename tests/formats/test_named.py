from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.formats.imported import Imported
from mobilette.formats.pretrained import create_model
from mobilette.formats.torch.name_tables import tensor_names, tensor_shapes
from mobilette.formats.torch.named import import_state_dict
from mobilette.formats.torch.names import SOURCES
from mobilette.nn.network import build_empty
from tests.formats.torch_names import Tensors, published
from tests.models import stem_of


@pytest.fixture(scope="module")
def v2() -> Tensors:
    return published("mobilenet_v2", width_mult=0.25, num_classes=5, in_channels=1)


def read(folder: Path, tensors: Tensors, model: str = "mobilenet_v2", **options: Any) -> Imported:
    torch.save(tensors, folder / "weights.pth")
    return import_state_dict(folder / "weights.pth", model=model, **options)


def assert_loads(imported: Imported) -> None:
    build_empty(imported.arch).load_state_dict(imported.weights, assign=True)


@settings(max_examples=25)
@given(name=st.sampled_from(list_models()), width=st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_shapes_of_tensors_are_those_of_the_network(name: str, width: float) -> None:
    arch = get_arch(name, Settings(width_mult=width))
    built = {key: tuple(tensor.shape) for key, tensor in build_empty(arch).state_dict().items()}
    assert tensor_shapes(arch) == built
    assert list(tensor_shapes(arch)) == list(built)


@pytest.mark.parametrize("source", SOURCES)
def test_no_two_layers_have_one_name(source: str) -> None:
    for model in SOURCES[source].tables:
        for resolution in (32, 224):
            arch = get_arch(model, Settings(width_mult=0.25, resolution=resolution))
            names = tensor_names(arch, SOURCES[source])
            assert len(set(names.values())) == len(names)


def test_classes_and_input_channels_are_the_files(v2: Tensors, tmp_path: Path) -> None:
    imported = read(tmp_path, v2, width_mult=0.25)
    chosen = Settings(width_mult=0.25, num_classes=5, in_channels=1)
    assert imported.arch == get_arch("mobilenet_v2", chosen)
    assert imported.preprocess is None
    assert (imported.tensors, imported.unused) == (len(v2), ())
    assert_loads(imported)


def test_old_files_have_no_counters(v2: Tensors, tmp_path: Path) -> None:
    counted = {name: tensor for name, tensor in v2.items() if "num_batches" not in name}
    imported = read(tmp_path, counted, width_mult=0.25)
    assert imported.weights["stem.norm.num_batches_tracked"] == 0
    assert_loads(imported)


def test_a_linear_layer_as_a_convolution_and_back(v2: Tensors, tmp_path: Path) -> None:
    weight = v2["classifier.1.weight"]
    imported = read(
        tmp_path, v2 | {"classifier.1.weight": weight[:, :, None, None]}, width_mult=0.25
    )
    assert torch.equal(imported.weights["head.classifier.weight"], weight)
    squeezed = published("squeezenet1_1", num_classes=3)
    squeezed["classifier.1.weight"] = squeezed["classifier.1.weight"].flatten(1)
    assert_loads(read(tmp_path, squeezed, "squeezenet1_1"))


def test_the_small_form_takes_the_same_weights_and_says_so(v2: Tensors, tmp_path: Path) -> None:
    imported = read(tmp_path, v2, width_mult=0.25, resolution=32)
    assert imported.arch.stem.stride == 1
    assert "other strides" in imported.remarks[-1]
    full = read(tmp_path, v2, width_mult=0.25, resolution=32, form="full")
    assert full.arch.stem.stride == 2
    assert "strides" not in full.remarks[-1]


def test_what_is_no_weight_is_left_over(v2: Tensors, tmp_path: Path) -> None:
    imported = read(tmp_path, v2 | {"n_averaged": torch.tensor(3)}, width_mult=0.25)
    assert imported.unused == ("n_averaged",)
    assert imported.tensors == len(v2) + 1


def test_timm_has_other_epsilons(tmp_path: Path) -> None:
    tensors = published("mobilenet_v3_small", "timm", num_classes=3)
    plain = read(tmp_path, tensors, "mobilenet_v3_small")
    assert plain.arch.norm_epsilon == 1e-5
    assert stem_of(plain.arch).padding == "symmetric"
    ported = read(tmp_path, tensors, "mobilenet_v3_small", tensorflow=True)
    assert ported.arch.norm_epsilon == 1e-3
    assert stem_of(ported.arch).padding == "tf_same"


def test_names_of_our_own(tmp_path: Path) -> None:
    network = create_model("shufflenet_v1_g3", num_classes=4, resolution=64)
    imported = read(tmp_path, network.state_dict(), "shufflenet_v1_g3", resolution=64)
    assert imported.arch.num_classes == 4
    assert_loads(imported)


# Refused


def refused(folder: Path, tensors: Tensors, part: str, model: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(folder, tensors, model, **options)
    message = str(caught.value)
    assert part in message, message
    assert "\n" not in message
    assert message.startswith(str(folder))


def test_a_width_that_the_file_does_not_have(v2: Tensors, tmp_path: Path) -> None:
    part = "in mobilenet_v2 of width 1; the file has the shapes of width 0.25"
    refused(tmp_path, v2, part, "mobilenet_v2")
    assert_loads(
        read(
            tmp_path,
            published("mobilenet_v3_large", width_mult=0.5),
            "mobilenet_v3_large",
            width_mult=0.5,
        )
    )
    small = published("shufflenet_v2_x0_5", num_classes=2)
    refused(tmp_path, small, "the shapes of width 0.5", "shufflenet_v2")


def test_a_larger_network_is_not_taken_for_a_smaller_one(tmp_path: Path) -> None:
    """Every tensor of ResNet-18 is in ResNet-34, with its shape."""
    tensors = published("resnet34", width_mult=0.1)
    part = "the first is 'layer1.2.bn1.bias'; these are torchvision's names of resnet34"
    refused(tmp_path, tensors, part, "resnet18", width_mult=0.1)


def test_another_network(v2: Tensors, tmp_path: Path) -> None:
    part = "no tensor is named like resnet18's in torchvision, timm, mobilette; the first is called"
    refused(tmp_path, v2, part, "resnet18")
    refused(tmp_path, v2, "these are torchvision's names of mobilenet_v2", "resnet18")
    refused(tmp_path, {"x": torch.zeros(1)}, "is called 'x'", "resnet18")


def test_a_missing_tensor_and_its_nearest(v2: Tensors, tmp_path: Path) -> None:
    renamed = {name.replace("18.0", "18.00"): tensor for name, tensor in v2.items()}
    part = (
        "1 of the 262 tensors of mobilenet_v2 in torchvision's names are missing, the first is "
        "'features.18.0.weight'; did you mean 'features.18.00.weight'?"
    )
    refused(tmp_path, renamed, part, "mobilenet_v2", width_mult=0.25)


@pytest.mark.parametrize(
    ("name", "tensor", "part"),
    [
        ("features.0.0.weight", torch.zeros(3), "is 3, but 8x"),
        ("features.0.0.weight", torch.zeros(8, 70_000, 1, 1), "in_channels 70000 is not"),
        ("features.0.1.num_batches_tracked", torch.zeros(2, dtype=torch.int64), "is 2, but one"),
        ("features.0.1.running_var", torch.ones(8, dtype=torch.int64), "not floating point"),
        ("classifier.1.weight", torch.tensor(1.0), "is one number, but"),
        ("classifier.1.bias", torch.zeros(6), "is 6, but 5 in mobilenet_v2"),
    ],
)
def test_tensors_that_do_not_fit(
    v2: Tensors, name: str, tensor: Tensor, part: str, tmp_path: Path
) -> None:
    refused(tmp_path, v2 | {name: tensor}, part, "mobilenet_v2", width_mult=0.25)


def test_tensorflow_is_for_timms_names(v2: Tensors, tmp_path: Path) -> None:
    refused(tmp_path, v2, "only timm's", "mobilenet_v2", width_mult=0.25, tensorflow=True)


def test_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'mobilenet_v2'"):
        read(tmp_path, {}, "mobilenet_w2")


# Published files


@pytest.mark.parametrize(("depth", "tensors"), [(20, 97), (56, 277)])
def test_akamasters_resnets(depth: int, tensors: int, shared: Path) -> None:
    path = shared / "weights" / f"resnet{depth}_cifar10_akamaster.th"
    imported = import_state_dict(path, model=f"resnet{depth}")
    assert (imported.tensors, imported.unused) == (tensors, ())
    assert (imported.arch.resolution, imported.arch.num_classes) == (32, 10)
    assert imported.remarks[0] == "took the weights under 'state_dict'"
    assert_loads(imported)


def test_squeezenet_in_torchvisions_names(shared: Path) -> None:
    path = shared / "weights" / "squeezenet1_0_imagenet_torchvision_keys.pth"
    imported = import_state_dict(path, model="squeezenet1_0", resolution=227)
    assert (imported.tensors, imported.unused) == (52, ())
    values = torch.load(path, weights_only=True)
    names = tensor_names(imported.arch, SOURCES["torchvision"])
    assert values.keys() == {names[name] for name in imported.weights}
    assert all(torch.equal(values[names[name]], w) for name, w in imported.weights.items())
    assert_loads(imported)
    with pytest.raises(InputError, match="these are torchvision's names of squeezenet1_0"):
        import_state_dict(path, model="squeezenet1_1")
