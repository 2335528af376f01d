"""Where a network stands in somebody's state dict, and which layer is its classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mobilette.errors import InputError
from mobilette.formats.imported import Imported
from mobilette.formats.torch.named import import_state_dict
from mobilette.nn.network import build_empty
from tests.formats.torch_names import Tensors, published

WIDTH = 0.1


@pytest.fixture(scope="module")
def v2() -> Tensors:
    return published("mobilenet_v2", width_mult=WIDTH, num_classes=5)


@pytest.fixture(scope="module")
def v3() -> Tensors:
    return published("mobilenet_v3_small", width_mult=WIDTH, num_classes=5)


def read(
    folder: Path, tensors: Tensors, model: str = "mobilenet_v2", width_mult: float = WIDTH
) -> Imported:
    torch.save(tensors, folder / "weights.pth")
    imported = import_state_dict(folder / "weights.pth", model=model, width_mult=width_mult)
    build_empty(imported.arch).load_state_dict(imported.weights, assign=True)
    return imported


def refused(folder: Path, tensors: Tensors, part: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(folder, tensors, **options)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without(tensors: Tensors, start: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}


@pytest.mark.parametrize("prefix", ["model.", "student.backbone.net.", "a.b.c.d.e."])
def test_any_prefix(prefix: str, v2: Tensors, tmp_path: Path) -> None:
    others = {"loss.weight": torch.ones(5), "accuracy.confmat": torch.zeros(5, 5).long()}
    imported = read(tmp_path, prefixed(prefix, v2) | others)
    assert torch.equal(imported.weights["stem.conv.weight"], v2["features.0.0.weight"])
    assert imported.unused == ("accuracy.confmat", "loss.weight")
    assert f"removed the prefix {prefix!r}" in imported.remarks


def test_two_networks_are_one_too_many_unless_one_is_an_average(
    v2: Tensors, tmp_path: Path
) -> None:
    other = {name: tensor + 1 for name, tensor in v2.items()}
    for first, second in (("student.", "teacher."), ("model.", "")):
        part = "mobilenet_v2 is in it several times, as "
        refused(tmp_path, prefixed(first, v2) | prefixed(second, other), part)
    for prefix in ("ema_model.", "averaged.", "model_ema.module."):
        for plain in ("model.", ""):
            imported = read(tmp_path, prefixed(plain, other) | prefixed(prefix, v2))
            assert torch.equal(imported.weights["stem.conv.weight"], v2["features.0.0.weight"])
            assert len(imported.unused) == len(v2)


@pytest.mark.parametrize(
    "module", ["classifier", "classifier.1.1", "classifier.4", "fc", "head.linear", "out.0.0"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_classifier_at_another_name(module: str, bias: bool, v2: Tensors, tmp_path: Path) -> None:
    moved = without(v2, "classifier") | {f"{module}.weight": v2["classifier.1.weight"]}
    if bias:
        moved[f"{module}.bias"] = v2["classifier.1.bias"]
    imported = read(tmp_path, prefixed("net.", moved))
    assert torch.equal(imported.weights["head.classifier.weight"], v2["classifier.1.weight"])
    expected = v2["classifier.1.bias"] if bias else torch.zeros(5)
    assert torch.equal(imported.weights["head.classifier.bias"], expected)
    assert imported.unused == ()
    assert any(f"the classifier is called 'net.{module}'" in r for r in imported.remarks) or any(
        f"the classifier is called '{module}'" in r for r in imported.remarks
    )


def test_widths_are_told_whatever_the_names_are(v2: Tensors, tmp_path: Path) -> None:
    moved = without(v2, "classifier") | {"fc.weight": v2["classifier.1.weight"]}
    for tensors in (prefixed("model.", v2), moved, without(v2, "classifier")):
        refused(tmp_path, tensors, "the shapes of width 0.1", width_mult=1.0)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"classifier.4.weight": torch.ones(3, 5)}, "its head has 2 layers"),
        (
            {"classifier.0.weight": torch.ones(1280), "classifier.0.bias": torch.ones(1280)},
            "2 layers",
        ),
        ({"features.19.weight": torch.ones(2)}, "1 weights do not belong to mobilenet_v2"),
    ],
)
def test_another_head(more: Tensors, part: str, v2: Tensors, tmp_path: Path) -> None:
    refused(tmp_path, v2 | more, part)


def test_a_classifier_without_a_bias_at_its_usual_name(v2: Tensors, tmp_path: Path) -> None:
    imported = read(tmp_path, without(v2, "classifier.1.bias"))
    assert not imported.weights["head.classifier.bias"].any()
    assert "the classifier is called 'classifier.1' without a bias" in imported.remarks


def test_half_of_a_hidden_layer_is_missed(v3: Tensors, tmp_path: Path) -> None:
    part = "'classifier.0.bias'"
    refused(tmp_path, without(v3, "classifier.0.bias"), part, model="mobilenet_v3_small")


def test_a_copy_with_a_classifier_elsewhere(v2: Tensors, tmp_path: Path) -> None:
    other = without({name: tensor + 1 for name, tensor in v2.items()}, "classifier")
    moved = other | {"fc.weight": v2["classifier.1.weight"], "fc.bias": v2["classifier.1.bias"]}
    ema = without(v2, "classifier") | {"fc.weight": v2["classifier.1.weight"]}
    for plain in ("", "model."):
        imported = read(tmp_path, prefixed(plain, moved) | prefixed("ema.", ema))
        assert torch.equal(imported.weights["stem.conv.weight"], v2["features.0.0.weight"])


def test_a_layer_behind_the_whole_network(v2: Tensors, tmp_path: Path) -> None:
    """A backbone whose own 1,000 classes are read by another layer."""
    more = {"fc.weight": torch.ones(2, 5), "fc.bias": torch.ones(2)}
    refused(tmp_path, prefixed("backbone.", v2) | more, "its head has 2 layers")


@pytest.mark.parametrize("name", ["fc.weight_v", "fc.parametrizations.weight.original1"])
def test_a_classifier_that_is_put_together_of_parts(name: str, v2: Tensors, tmp_path: Path) -> None:
    part = "but the classifier; the remaining"
    refused(tmp_path, without(v2, "classifier") | {name: torch.ones(5, 1280)}, part)


def test_without_a_classifier(v2: Tensors, v3: Tensors, tmp_path: Path) -> None:
    imported = read(tmp_path, without(v2, "classifier"))
    assert not imported.has_classifier
    assert not imported.weights["head.classifier.weight"].any()
    # timm's num_classes=0 leaves the hidden layer of V3, the features alone have none
    assert not read(tmp_path, without(v3, "classifier.3"), "mobilenet_v3_small").has_classifier
    bare = read(tmp_path, without(v3, "classifier"), "mobilenet_v3_small")
    assert not bare.has_classifier
    assert "head.hidden.0.linear.weight" not in bare.weights


def test_v3_with_one_layer_for_its_head(v3: Tensors, tmp_path: Path) -> None:
    channels = v3["classifier.0.weight"].shape[1]
    head = {"classifier.weight": torch.ones(2, channels), "classifier.bias": torch.ones(2)}
    imported = read(tmp_path, without(v3, "classifier") | head, "mobilenet_v3_small")
    assert imported.has_classifier
    assert imported.arch.num_classes == 2
    assert "head.hidden.0.linear.weight" not in imported.weights


def test_a_convolution_for_a_classifier(tmp_path: Path) -> None:
    tensors = published("squeezenet1_1", num_classes=3)
    moved = without(tensors, "classifier") | {
        "head.weight": tensors["classifier.1.weight"],
        "head.bias": tensors["classifier.1.bias"],
    }
    imported = read(tmp_path, moved, "squeezenet1_1", 1.0)
    assert torch.equal(
        imported.weights["head.classifier.conv.weight"], tensors["classifier.1.weight"]
    )


@pytest.mark.parametrize(
    ("model", "head"),
    [("resnet18", "fc"), ("mobilenet_v2", "classifier"), ("shufflenet_v2", "fc"), ("vgg11", "")],
)
def test_modules_of_torchvision_in_a_sequence(model: str, head: str, tmp_path: Path) -> None:
    """As Lightning's page on transfer learning makes its feature extractor."""
    width = 1.0 if model == "shufflenet_v2" else WIDTH
    tensors = published(model, width_mult=width, num_classes=5)
    children = {
        "resnet18": "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4 avgpool",
        "shufflenet_v2": "conv1 maxpool stage2 stage3 stage4 conv5",
    }.get(model, "features").split()
    body = {
        ".".join(["extractor", str(children.index(first)), *rest]): tensor
        for name, tensor in tensors.items()
        for first, *rest in [name.split(".")]
        if first in children
    }
    classifier = {
        f"classifier.{name.rpartition('.')[2]}": tensor
        for name, tensor in tensors.items()
        if head and name.startswith(head)
    }
    imported = read(tmp_path, body | classifier, model, width)
    assert imported.has_classifier == bool(head)
    assert imported.unused == ()
    first = next(iter(tensors.values()))
    assert torch.equal(imported.weights["stem.conv.weight"], first)


def flat(name: str, last: str, classifier: str) -> str:
    """Return torchvision's name of a tensor of MobileNet V2 as d-li14 and tonylins have it."""
    for old, new in (("features.18", last), ("classifier.1", classifier)):
        if name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    if ".conv." not in name:
        return name
    block, _, rest = name.partition(".conv.")
    first = block == "features.1"  # has no expansion
    places = {"0.0": "0", "0.1": "1", "1": "3", "2": "4"} if first else {}
    places |= {} if first else {"0.0": "0", "0.1": "1", "1.0": "3", "1.1": "4", "2": "6", "3": "7"}
    place, _, tensor = rest.rpartition(".")
    return f"{block}.conv.{places[place]}.{tensor}"


@pytest.mark.parametrize(
    ("last", "classifier"), [("conv", "classifier"), ("features.18", "classifier.1")]
)
def test_v2_with_flat_names(last: str, classifier: str, v2: Tensors, tmp_path: Path) -> None:
    renamed = {flat(name, last, classifier): tensor for name, tensor in v2.items()}
    read_again = read(tmp_path, renamed).weights
    for name, tensor in read(tmp_path, v2).weights.items():
        assert torch.equal(read_again[name], tensor), name


def test_v2_of_mmpretrain(v2: Tensors, tmp_path: Path) -> None:
    stages = [(stage, place) for stage, n in enumerate((1, 2, 3, 4, 3, 3, 1)) for place in range(n)]

    def renamed(name: str) -> str:
        if name.startswith("classifier.1"):
            return name.replace("classifier.1", "head.fc")
        number, _, rest = name.removeprefix("features.").partition(".")
        kind = {"0": "conv", "1": "bn"}
        if number in ("0", "18"):
            return f"backbone.conv{1 if number == '0' else 2}.{kind[rest[0]]}{rest[1:]}"
        stage, place = stages[int(number) - 1]
        step, rest = rest.removeprefix("conv.").split(".", 1)
        last = 1 if number == "1" else 2
        if int(step) >= last:
            step, rest = str(last), f"{int(step) - last}.{rest}"
        return f"backbone.layer{stage + 1}.{place}.conv.{step}.{kind[rest[0]]}{rest[1:]}"

    names = {name: renamed(name) for name in v2}
    assert "backbone.layer2.0.conv.2.bn.running_mean" in names.values()
    read_again = read(tmp_path, {names[name]: tensor for name, tensor in v2.items()}).weights
    for name, tensor in read(tmp_path, v2).weights.items():
        assert torch.equal(read_again[name], tensor), name


def test_networks_of_other_projects_are_not_taken_for_many(tmp_path: Path) -> None:
    """Every block of a ResNet has a layer that is called as the network's first."""
    tensors = published("resnet18", width_mult=WIDTH, num_classes=5)
    changed = {name.replace("layer", "stage"): tensor for name, tensor in tensors.items()}
    del changed["stage4.1.bn2.weight"]  # complete, they would fit in order
    refused(tmp_path, changed, "tensors of resnet18 in torchvision's names", model="resnet18")
