"""From the last feature maps to logits."""

from __future__ import annotations

from collections import OrderedDict
from typing import assert_never

from torch import nn

from mobilette.arch.rows import Head, PoolLinear, PoolLinearLinear
from mobilette.nn.layers import GlobalAveragePool, activation


def build_head(head: Head, *, in_channels: int) -> nn.Sequential:
    """Return the modules of ``head``: (N, in_channels, H, W) to logits (N, classes)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["pool"] = GlobalAveragePool()
    parts["flatten"] = nn.Flatten()
    features = in_channels
    match head:
        case PoolLinear():
            pass
        case PoolLinearLinear():
            parts["hidden"] = nn.Linear(features, head.hidden)
            parts["activation"] = activation(head.activation)
            features = head.hidden
        case _:
            assert_never(head)
    if head.dropout:
        parts["dropout"] = nn.Dropout(head.dropout)
    parts["classifier"] = nn.Linear(features, head.classes)
    return nn.Sequential(parts)
