"""Features are what other libraries' networks give before their last layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mobilette.arch.catalogue import get_arch
from mobilette.arch.features import features_layer
from mobilette.arch.scale import Settings
from tests.batch_norm import give_statistics
from tests.parity.libraries import library, with_weights

# The library's name: ours, width
TIMM = {
    "mobilenetv2_050": ("mobilenet_v2", 0.5),
    "mobilenetv3_small_075": ("mobilenet_v3_small", 0.75),
    "mobilenetv4_conv_small_050": ("mobilenet_v4_conv_small", 0.5),
    "ghostnet_050": ("ghostnet", 0.5),
    "resnet18": ("resnet18", 1.0),
}
TORCHVISION = {
    "mobilenet_v3_small": "mobilenet_v3_small",
    "shufflenet_v2_x1_0": "shufflenet_v2",
    "squeezenet1_1": "squeezenet1_1",
    "vgg11_bn": "vgg11_bn",
}


@torch.no_grad()
def compare(ours: str, width: float, theirs: nn.Module, features: nn.Module | None = None) -> None:
    """Assert that features are those of ``features``, by default timm's of ``theirs``."""
    resolution = 64
    arch = get_arch(ours, Settings(width_mult=width, resolution=resolution, form="full"))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((4, 3, resolution, resolution), generator=generator)
    give_statistics(theirs, images)
    network = with_weights(arch, theirs.eval()).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = next(m.eps for m in theirs.modules() if isinstance(m, nn.BatchNorm2d))
    if features is None:
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)  # type: ignore[operator]
    else:
        expected = features(images).flatten(1)
    logits, answer = network.with_features(images)
    assert answer.shape == (4, features_layer(arch).shape[0])
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    scale = float(expected.abs().max())
    torch.testing.assert_close(answer, expected, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(logits, network(images), atol=0, rtol=0)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    compare(*TIMM[name], library("timm").create_model(name))


class WithoutLast(nn.Module):
    """A torchvision network without its last layer."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs = theirs

    def forward(self, x: Tensor) -> Tensor:
        """Return its features, (N, D)."""
        if isinstance(getattr(self.theirs, "fc", None), nn.Linear):
            vars(self.theirs)["_modules"]["fc"] = nn.Identity()
            result: Tensor = self.theirs(x)
            return result
        classifier = self.theirs.classifier
        assert isinstance(classifier, nn.Sequential)
        x = self.theirs.features(x)  # type: ignore[operator]
        if isinstance(classifier[-1], nn.Linear):
            x = self.theirs.avgpool(x).flatten(1)  # type: ignore[operator]
            return classifier[:-1](x)  # type: ignore[no-any-return]
        return x.mean(dim=(2, 3))  # SqueezeNet: what its convolution to the classes reads


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    theirs = library("torchvision").models.get_model(name, weights=None)
    compare(TORCHVISION[name], 1.0, theirs, WithoutLast(theirs))
