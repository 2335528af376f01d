"""From the last feature maps to logits."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from mobilette.arch.rows import ConvPool, Head, PoolLinear
from mobilette.nn.layers import ConvUnit, GlobalAveragePool, MakeNorm, activation


def build_head(head: Head, *, in_channels: int, norm: MakeNorm) -> nn.Sequential:
    """Return the modules of ``head``: (N, C, H, W) to logits (N, classes)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if isinstance(head, ConvPool):
        if head.dropout:
            parts["dropout"] = nn.Dropout(head.dropout)
        parts["classifier"] = ConvUnit(head.classifier, in_channels=in_channels, norm=norm)
        parts["pool"] = GlobalAveragePool()
        parts["flatten"] = nn.Flatten()
        return nn.Sequential(parts)
    parts["pool"] = GlobalAveragePool() if head.pool == 1 else nn.AdaptiveAvgPool2d(head.pool)
    parts["flatten"] = nn.Flatten()
    features = in_channels * head.pool**2
    if head.hidden:
        parts["hidden"], features = _hidden(head, features)
    elif head.dropout:
        parts["dropout"] = nn.Dropout(head.dropout)
    parts["classifier"] = nn.Linear(features, head.classes)
    return nn.Sequential(parts)


def _hidden(head: PoolLinear, features: int) -> tuple[nn.Sequential, int]:
    layers = []
    for hidden in head.hidden:
        parts: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(features, hidden))
        if head.activation != "none":
            parts["activation"] = activation(head.activation)
        if head.dropout:
            parts["dropout"] = nn.Dropout(head.dropout)
        layers.append(nn.Sequential(parts))
        features = hidden
    return nn.Sequential(*layers), features
