"""Weights go in from torchvision's and timm's modules by name, and out into them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.data.preprocess import preset
from mobilette.exporters.state_dict import TIMM_NETWORKS, export_state_dict
from mobilette.formats.imported import Imported, as_model
from mobilette.formats.torch.name_tables import tensor_names
from mobilette.formats.torch.named import import_state_dict
from mobilette.formats.torch.names import SOURCES
from mobilette.model.model import Origin
from mobilette.nn.network import build_empty
from mobilette.run.directory import Run, open_run
from tests.batch_norm import give_statistics
from tests.parity.libraries import library
from tests.parity.test_timm import NETWORKS

RESOLUTION = 96

# torchvision's constructor and options; ours and its width
TORCHVISION = {
    "mobilenet_v2 0.35": ("mobilenet_v2", {"width_mult": 0.35}, "mobilenet_v2", 0.35),
    "large 1": ("mobilenet_v3_large", {}, "mobilenet_v3_large", 1.0),
    "small 0.5": ("mobilenet_v3_small", {"width_mult": 0.5}, "mobilenet_v3_small", 0.5),
    "squeezenet1_0": ("squeezenet1_0", {}, "squeezenet1_0", 1.0),
    "squeezenet1_1": ("squeezenet1_1", {}, "squeezenet1_1", 1.0),
    "shufflenet 0.5": ("shufflenet_v2_x0_5", {}, "shufflenet_v2", 0.5),
    "mnasnet0_5": ("mnasnet0_5", {}, "mnasnet_b1", 0.5),
    "resnet18": ("resnet18", {}, "resnet18", 1.0),
}
# Those of test_timm and one whose stem timm does not scale.
TIMM = {
    name: (name, *NETWORKS.get(name, ("mobilenet_v3_small", 0.5)))
    for name in (
        "mobilenetv1_125",
        "mobilenetv2_050",
        "mobilenetv2_110d",
        "mobilenetv3_large_075",
        "mobilenetv3_small_050",
        "mobilenetv3_small_100",
        "tf_mobilenetv3_small_075",
        "tf_mobilenetv3_large_minimal_100",
        "mobilenetv4_conv_small_050",
        "mobilenetv4_conv_medium",
        "semnasnet_075",
        "fbnetc_100",
        "efficientnet_lite0",
        "lcnet_050",
        "ghostnet_050",
        "repvgg_a0",
        "mobileone_s0",
        "resnet18",
    )
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Logits are about 10 here: of some draws, rounding alone changes them by more than 1e-4."""
    torch.manual_seed(0)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str, tmp_path: Path) -> None:
    theirs, options, ours, width = TORCHVISION[name]
    build: Any = getattr(library("torchvision").models, theirs)
    check_round_trip(build(num_classes=11, **options), "torchvision", ours, width, tmp_path)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str, tmp_path: Path) -> None:
    theirs, ours, width = TIMM[name]
    channels = 1 if name == "mobilenetv2_050" else 3
    module = library("timm").create_model(theirs, num_classes=11, in_chans=channels)
    check_round_trip(module, "timm", ours, width, tmp_path, tensorflow=name.startswith("tf_"))


@torch.no_grad()
def check_round_trip(
    theirs: nn.Module,
    names: str,
    model: str,
    width: float,
    folder: Path,
    *,
    tensorflow: bool = False,
) -> None:
    """Assert equal logits in, and out through the README's Python, and the same tensors out."""
    channels = next(tensor.shape[1] for tensor in theirs.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, channels, RESOLUTION, RESOLUTION, generator=generator)
    give_statistics(theirs, images)
    expected = theirs.eval()(images)
    torch.save(theirs.state_dict(), folder / "theirs.pth")

    imported = import_state_dict(
        folder / "theirs.pth",
        model=model,
        width_mult=width,
        resolution=RESOLUTION,
        tensorflow=tensorflow,
    )
    assert imported.unused == ()
    assert imported.tensors == len(theirs.state_dict())
    network = build_empty(imported.arch)
    network.load_state_dict(imported.weights, assign=True)
    assert expected.std() > 1e-3
    scale = max(1.0, float(expected.std()))
    torch.testing.assert_close(network.eval()(images), expected, atol=1e-4 * scale, rtol=0)

    file = export_state_dict(
        as_run(imported, width, folder / "run"), names=names, out=folder / "out"
    )
    loaded = run_readme(file)
    assert type(loaded) is type(theirs)
    torch.testing.assert_close(loaded(images), expected, atol=1e-6, rtol=0)
    tensors = loaded.state_dict()
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(tensors[key], tensor), key


def as_run(imported: Imported, width_mult: float, path: Path) -> Run:
    """Return a run of an imported network."""
    model = as_model(
        imported,
        preprocess=preset("torch", in_channels=imported.arch.in_channels),
        origin=Origin(name=imported.arch.name, width_mult=width_mult),
    )
    return open_run(model.save(path))


def run_readme(file: Path) -> nn.Module:
    """Execute the Python in the README beside ``file`` as printed and return the network."""
    text = (file.parent / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent)
        exec(code, names)
    network = names["network"]
    assert isinstance(network, nn.Module)
    return network


def test_every_name_of_torchvision() -> None:
    """In the order of execution, by which tests of logits have shown that the weights fit."""
    models = library("torchvision").models
    source = SOURCES["torchvision"]
    for name in source.tables:
        called = {"shufflenet_v2": "shufflenet_v2_x1_0", "mnasnet_b1": "mnasnet1_0"}.get(name, name)
        with torch.device("meta"):
            keys = list(getattr(models, called)().state_dict())
        table = tensor_names(get_arch(name), source)
        assert [table[ours] for ours in build_empty(get_arch(name)).state_dict()] == keys


def test_every_name_of_timm() -> None:
    source = SOURCES["timm"]
    for theirs, (ours, width) in TIMM_NETWORKS.items():
        with torch.device("meta"):
            keys = list(library("timm").create_model(theirs).state_dict())
        arch = get_arch(ours, Settings(width_mult=width))
        table = tensor_names(arch, source)
        assert [table[name] for name in build_empty(arch).state_dict()] == keys
