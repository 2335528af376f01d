"""What tests of training compare runs by."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def same_weights(one: Path, other: Path) -> bool:
    """Whether the best weights of two runs have the same bits."""
    first, second = (load_file(path / "best.safetensors") for path in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


class Ticks:
    """A clock that goes by a hundredth of a second whenever it is asked."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 0.01
        return self.time
