"""What was drawn on the CPU, on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``, without waiting for the work that a GPU still has.

    From ordinary memory, CUDA copies anything above 64 KiB only when the kernels before it are
    done, and Python would prepare no step while another runs.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
