"""Transfer and normalisation of pixels on the training device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilette.data.preprocess import Preprocess


class Normalise(nn.Module):
    """Pixels to the network's input: (pixel - mean) / std, in the network's channel order.

    One 1x1 convolution with bias, so that an exported graph can take uint8 pixels and an engine can
    fuse it. Its tensors are buffers: neither trained nor part of the weights.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        channels = len(preprocess.mean)
        mean = torch.tensor(preprocess.mean, dtype=torch.float64)
        std = torch.tensor(preprocess.std, dtype=torch.float64)
        matrix = torch.diag(1.0 / std)
        if preprocess.colour == "bgr":
            matrix = matrix.flip(1)
        weight = matrix.reshape(channels, channels, 1, 1).float()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", (-mean / std).float(), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 (N, C, H, W) for ``pixels`` uint8 (N, C, H, W), RGB or grey."""
        return functional.conv2d(pixels.to(self.weight.dtype), self.weight, self.bias)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device`` without waiting for queued GPU work.

    From pageable memory, CUDA copies more than 64 KiB only after earlier kernels have finished,
    which would keep Python from preparing the next step.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
