"""Whether a network is one that a machine could hold, told before anything is allocated."""

from __future__ import annotations

from mobilette.arch.arch import Arch
from mobilette.counting.cost import cost
from mobilette.errors import InputError

# Values of 4 bytes: VGG-19 has 144 million weights, and at 4,096 pixels a billion values at once.
LARGEST_WEIGHTS = 2**30
LARGEST_ACTIVATIONS = 2**31


def check_memory(arch: Arch) -> None:
    """Raise `InputError` if the weights or the values of one image do not fit any machine.

    Every number of ``arch`` may be in its range while their product is not.

    Raises:
        InputError: also if the rows do not fit together.
    """
    counted = cost(arch)
    if counted.params > LARGEST_WEIGHTS:
        raise InputError(
            f"{arch.name}: {counted.params:,} weights; {LARGEST_WEIGHTS:,} are the limit"
        )
    values = counted.peak_activation_bytes.int8
    if values > LARGEST_ACTIVATIONS:
        raise InputError(
            f"{arch.name} at {arch.resolution}x{arch.resolution} pixels has {values:,} values at "
            f"once; {LARGEST_ACTIVATIONS:,} are the limit"
        )
