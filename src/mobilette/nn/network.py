"""`Network`: the module of any `Arch`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.counting.memory import check_memory
from mobilette.nn.block import build_operation
from mobilette.nn.heads import build_head
from mobilette.nn.layers import ConvUnit, initialise


class Network(nn.Module):
    """The network that an `Arch` describes.

    Modules are named as the layers of `mobilette.arch.layers.layers`. ``forward`` takes the
    normalised image, float (N, C, H, W), and returns logits, float (N, classes).

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        check_memory(arch)  # says which row is wrong before any module is made
        self.arch = arch
        norm = partial(nn.BatchNorm2d, eps=arch.norm_epsilon, momentum=arch.norm_momentum)
        self.stem = ConvUnit(arch.stem, in_channels=arch.in_channels, norm=norm)
        self.rows = nn.Sequential()
        channels = arch.stem.channels
        for row in arch.rows:
            module, channels = build_operation(row, in_channels=channels, norm=norm)
            self.rows.append(module)
        self.head = build_head(arch.head, in_channels=channels, norm=norm)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for normalised images ``x`` (N, C, H, W)."""
        logits: Tensor = self.head(self.rows(self.stem(x)))
        return logits

    def features(self, x: Tensor) -> dict[int, Tensor]:
        """Return the last feature maps at each stride: {2: (N, C, H/2, W/2), 4: ...}."""
        stride = self.arch.stem.stride
        x = self.stem(x)
        maps = {stride: x}
        for row, block in zip(self.arch.rows, self.rows, strict=True):
            stride *= row.stride
            x = block(x)
            maps[stride] = x
        return maps


def build_empty(arch: Arch) -> Network:
    """Return the network without storage (meta device), for weights that are loaded next."""
    with torch.device("meta"):
        return Network(arch)
