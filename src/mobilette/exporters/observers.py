"""What chooses the range of an activation while PyTorch's quantiser (pt2e) shows it images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mobilette.compression.ranges import Ranges, histogram_range


def activation_observer(ranges: Ranges) -> Any:
    """Return the class of the observer for ``ranges``, made here because its base is in an extra.

    All of them collect a histogram. ``plain`` is what LiteRT's and XNNPACK's quantisers take by
    themselves, torchao's `HistogramObserver`: it begins with all values and cuts an end, a
    hundred-thousandth of the values at a time, as long as its estimate of the mean square error
    falls, at least once; so a value far from all others is cut off. ``percentile`` and ``mse`` are
    those of `mobilette.compression.ranges`; the latter compares ranges, and knows that zero is
    exact.
    """
    from torchao.quantization.pt2e.observer import HistogramObserver

    if ranges == "plain":
        return HistogramObserver

    class RangeObserver(HistogramObserver):  # type: ignore[misc]
        """Collects a histogram and takes the range that `histogram_range` finds in it."""

        def calculate_qparams(self) -> Any:
            """Return scale and zero point."""
            low, high = float(self.min_val), float(self.max_val)
            edges = np.linspace(low, high, self.bins + 1)
            low, high = histogram_range(ranges, self.histogram.double().numpy(), edges)
            return self._calculate_qparams(torch.tensor(low), torch.tensor(high))

    return RangeObserver
