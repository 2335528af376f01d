"""State dicts with nobody's names: each module's logits, whatever its parts are called."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from mobilette.errors import InputError
from mobilette.formats.imported import Imported
from mobilette.formats.torch.named import import_state_dict
from mobilette.nn.network import Network
from tests.batch_norm import give_statistics
from tests.parity.libraries import library

SIDE = 96
Tensors = dict[str, Tensor]


def torchvision(name: str, **options: Any) -> nn.Module:
    module: nn.Module = getattr(library("torchvision").models, name)(num_classes=7, **options)
    return module


def timm(name: str, **options: Any) -> nn.Module:
    module: nn.Module = library("timm").create_model(name, num_classes=7, **options)
    return module


NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "mobilenet_v1": (lambda: timm("mobilenetv1_100"), 1.0),
    "mobilenet_v2": (lambda: torchvision("mobilenet_v2", width_mult=0.35), 0.35),
    "mobilenet_v3_small": (lambda: timm("mobilenetv3_small_100"), 1.0),
    "resnet18": (lambda: torchvision("resnet18"), 1.0),
    "squeezenet1_1": (lambda: torchvision("squeezenet1_1"), 1.0),
    "shufflenet_v2": (lambda: torchvision("shufflenet_v2_x0_5"), 0.5),
    "mnasnet_b1": (lambda: torchvision("mnasnet0_5"), 0.5),
    "mobilenet_v4_conv_small": (lambda: timm("mobilenetv4_conv_small"), 1.0),
    "efficientnet_lite0": (lambda: timm("efficientnet_lite0"), 1.0),
    "pp_lcnet": (lambda: timm("lcnet_050"), 0.5),
    "ghostnet": (lambda: timm("ghostnet_050"), 0.5),
    "repvgg_a0": (lambda: timm("repvgg_a0"), 1.0),
}


def renamed(tensors: Tensors, *, seed: int = 0, prefix: str = "") -> Tensors:
    """Return tensors under random nested names, in order."""
    names: dict[str, str] = {}
    chosen = random.Random(seed)
    made = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        new = f"part{len(names) // 5}.{chosen.choice('abc')}.{chosen.randrange(10**6)}"
        made[f"{prefix}{names.setdefault(module, new)}.{part}"] = tensor
    return made


def reordered(tensors: Tensors, key: Callable[[str], Any]) -> Tensors:
    """Return tensors with their modules sorted by ``key``, otherwise in order."""
    return {
        name: tensors[name] for name in sorted(tensors, key=lambda n: key(n.rpartition(".")[0]))
    }


def read(folder: Path, content: object, model: str, width_mult: float = 1.0) -> Imported:
    torch.save(content, folder / "own.pth")
    return import_state_dict(
        folder / "own.pth", model=model, width_mult=width_mult, resolution=SIDE
    )


def refusal(folder: Path, tensors: Tensors, model: str, width_mult: float = 1.0) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, tensors, model, width_mult)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def resnet() -> nn.Module:
    return torchvision("resnet18")


@torch.no_grad()
def check(imported: Imported, module: nn.Module) -> None:
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = module.eval()(images)
    network = Network(imported.arch)
    network.load_state_dict(imported.weights)
    scale = max(1.0, float(expected.std()))
    torch.testing.assert_close(network.eval()(images), expected, atol=1e-4 * scale, rtol=0)


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = make()
    give_statistics(module, torch.randn(2, 3, SIDE, SIDE))
    return module


@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_of_somebodys_own_gives_its_logits(name: str, tmp_path: Path) -> None:
    make, width_mult = NETWORKS[name]
    module = trained(make)
    named = renamed(module.state_dict(), prefix="module.")
    imported = read(tmp_path, {"epoch": 3, "model_state_dict": named}, name, width_mult)
    assert (imported.tensors, imported.unused) == (len(named), ())
    assert any("nobody's names" in remark for remark in imported.remarks)
    check(imported, module)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10**6),
    prefix=st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod.", "net.body."]),
    counted=st.booleans(),
)
def test_names_do_not_matter(tmp_path: Path, seed: int, prefix: str, counted: bool) -> None:
    tensors = published_shufflenet()
    named = renamed(tensors, seed=seed, prefix=prefix)
    given = {n: t for n, t in named.items() if counted or "num_batches" not in n}
    imported = read(tmp_path, given, "shufflenet_v2", 0.5)
    ours = [t for n, t in imported.weights.items() if "num_batches" not in n]
    theirs = [t for n, t in tensors.items() if "num_batches" not in n]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def published_shufflenet() -> Tensors:
    torch.manual_seed(0)
    tensors = torchvision("shufflenet_v2_x0_5").state_dict()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)  # no two alike
    return dict(tensors)


def block_of(module: str) -> Sequence[Any]:
    """Return the place of a module of ResNet-18: stem, blocks in order, classifier."""
    parts = module.split(".")
    return (1, parts[0], parts[1]) if parts[0].startswith("layer") else (2 * (parts[0] == "fc"),)


ORDERS: dict[str, Callable[[str], Any]] = {
    "the shortcut first": lambda m: (block_of(m), "downsample" not in m),
    "the classifier first": lambda m: m != "fc",
    "the shortcut and the classifier first": lambda m: (
        m != "fc",
        block_of(m),
        "downsample" not in m,
    ),
    "a path's convolutions before its norms": lambda m: (
        block_of(m),
        "downsample" in m,
        "bn" in m or m.endswith("downsample.1"),
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_modules_registered_in_another_order(order: str, tmp_path: Path) -> None:
    module = trained(resnet)
    changed = reordered(dict(module.state_dict()), ORDERS[order])
    check(read(tmp_path, renamed(changed), "resnet18"), module)


def test_norms_registered_before_their_convolutions(tmp_path: Path) -> None:
    module = trained(lambda: torchvision("mobilenet_v2", width_mult=0.35))
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in module.state_dict()))
    place = {name: number for number, name in enumerate(modules)}
    for conv, norm in zip(modules[:-1:2], modules[1:-1:2], strict=True):
        place[conv], place[norm] = place[norm], place[conv]
    changed = reordered(dict(module.state_dict()), place.__getitem__)
    check(read(tmp_path, renamed(changed), "mobilenet_v2", 0.35), module)


def test_norms_that_could_be_either_paths_are_refused(tmp_path: Path) -> None:
    """ResNet's three norms of a block have one shape: apart, no one can tell which is which."""
    tensors = dict(resnet().state_dict())
    apart = reordered(tensors, lambda m: (block_of(m), "bn" in m or m.endswith("downsample.1")))
    message = refusal(tmp_path, renamed(apart), "resnet18")
    assert "they fit in two orders: rows.3.conv1.norm could be" in message


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: t.pop(list(t)[-20]), "has no place"),
        (lambda t: t.update({"more.weight": torch.ones(3, 3)}), "'more.weight' of 3x3 comes after"),
        (lambda t: t.update({"a.gamma": torch.ones(3)}), "'a.gamma' is not one of a convolution"),
        (
            lambda t: t.update({next(iter(t)): torch.ones(8, 3, 5, 5)}),
            "of 8x3x5x5 has no place: stem",
        ),
    ],
)
def test_every_tensor_must_have_its_place(
    change: Callable[[Tensors], object], part: str, tmp_path: Path
) -> None:
    tensors = renamed(dict(torchvision("mobilenet_v2", width_mult=0.35).state_dict()))
    change(tensors)
    assert part in refusal(tmp_path, tensors, "mobilenet_v2", 0.35)


def test_another_network_is_refused(tmp_path: Path) -> None:
    tensors = renamed(dict(torchvision("mobilenet_v2", width_mult=0.35).state_dict()))
    assert "of 16x3x3x3 has no place: stem.conv is" in refusal(tmp_path, tensors, "mobilenet_v1")


def test_biases_are_the_files_and_a_missing_classifier_is_remarked(tmp_path: Path) -> None:
    tensors = dict(torchvision("mobilenet_v2", width_mult=0.35).state_dict())
    biased: Tensors = {}
    for name, tensor in tensors.items():
        biased[name] = tensor
        if tensor.ndim == 4:
            biased[f"{name.removesuffix('weight')}bias"] = torch.ones(len(tensor))
    body = {name: tensor for name, tensor in biased.items() if "classifier" not in name}
    imported = read(tmp_path, renamed(body), "mobilenet_v2", 0.35)
    assert torch.equal(imported.weights["stem.conv.bias"], torch.ones(16))
    assert not imported.has_classifier


def test_safetensors_do_not_keep_the_order(tmp_path: Path) -> None:
    tensors = renamed(dict(torchvision("mobilenet_v2", width_mult=0.35).state_dict()))
    save_file(tensors, tmp_path / "own.safetensors")
    with pytest.raises(
        InputError, match=r"safetensors files do not keep the order; save the state dict"
    ):
        import_state_dict(tmp_path / "own.safetensors", model="mobilenet_v2", width_mult=0.35)
