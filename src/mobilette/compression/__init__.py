"""Model transformations: fold, equalise, correct biases, slice, prune, inherit; simulated int8.

Also what they go by: scores of channels, and channels that are dead.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilette.compression.bias_correction import correct_biases
    from mobilette.compression.channel_scores import norm_scores, taylor_scores
    from mobilette.compression.dead_channels import dead_depthwise
    from mobilette.compression.equalisation import absorb_high_biases, equalise
    from mobilette.compression.folding import fold, merge_branches
    from mobilette.compression.inheriting import inherit
    from mobilette.compression.pruning import prune_channels, slice_to

__all__ = [
    "absorb_high_biases",
    "correct_biases",
    "dead_depthwise",
    "equalise",
    "fold",
    "inherit",
    "merge_branches",
    "norm_scores",
    "prune_channels",
    "slice_to",
    "taylor_scores",
]

# Imported on first use: `ranges` and `float_layers` must work without torch.
_HOME = {
    "absorb_high_biases": "equalisation",
    "correct_biases": "bias_correction",
    "dead_depthwise": "dead_channels",
    "equalise": "equalisation",
    "fold": "folding",
    "inherit": "inheriting",
    "merge_branches": "folding",
    "norm_scores": "channel_scores",
    "prune_channels": "pruning",
    "slice_to": "pruning",
    "taylor_scores": "channel_scores",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
