"""EfficientNet-Lite 0 to 4: EfficientNet without what accelerators lack.

Tan 2020 (tensorflow/tpu, models/official/efficientnet/lite): the B0 of Tan and Le 2019,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv 1905.11946, with
ReLU6 and without squeeze-and-excitation. Compound scaling multiplies widths and rows, but not the
stem, the last convolution, and the rows of the first and the last stage. Published at 224, 240,
260, 280 and 300 pixels (timm evaluates 3 and 4 at 300 and 380).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.families.mnasnet import Stage, searched
from mobilette.arch.scale import Settings

TABLE = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 6, 24, 2, 2),
    Stage(5, 6, 40, 2, 2),
    Stage(3, 6, 80, 3, 2),
    Stage(5, 6, 112, 3, 1),
    Stage(5, 6, 192, 4, 2),
    Stage(3, 6, 320, 1, 1),
)
# width, depth, dropout
SCALING = ((1.0, 1.0, 0.2), (1.0, 1.1, 0.2), (1.1, 1.2, 0.3), (1.2, 1.4, 0.3), (1.4, 1.8, 0.3))


def _table(depth: float) -> tuple[Stage, ...]:
    first, *middle, last = TABLE
    return (first, *(stage._replace(n=math.ceil(stage.n * depth)) for stage in middle), last)


TABLES = {f"efficientnet_lite{i}": _table(depth) for i, (_, depth, _) in enumerate(SCALING)}
# rows in each stage
STAGES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {name: tuple(stage.n for stage in table) for name, table in TABLES.items()}
)
VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    name: partial(
        searched,
        name=name,
        table=table,
        stem=32,
        activation="relu6",
        scale_stem=False,
        base_width=width,
        dropout=dropout,
    )
    for (name, table), (width, _, dropout) in zip(TABLES.items(), SCALING, strict=True)
}
