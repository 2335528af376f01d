"""The parts of a network: operations, blocks of named operations, and heads.

A row is one operation (`Conv`, `Pool`) or a `Block`: operations in sequence and on parallel paths
that are added or concatenated. Every family of the catalogue consists of these; the blocks that the
papers name (`bottleneck`, `fire`, `shuffle_unit`, ...) are functions in the family files.

Rows are concrete: widths, classes and forms are already expanded (`mobilette.arch.scale`). Step
names are parts of layer names: the depthwise convolution of the fourth row is
``rows.3.depthwise.conv`` in state dicts, cost tables and exported files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from mobilette.errors import InputError
from mobilette.limits import CHANNELS, CLASSES, KERNEL, STRIDE, Range
from mobilette.records import Ranged, check_ranges

Activation = Literal["none", "relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid"]
Norm = Literal["batch", "none"]
Padding = Literal["symmetric", "tf_same", "valid"]

DROPOUT = Range(0.0, 0.99)
MOST_STEPS = 64  # of a block; the catalogue's longest have 9


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution, then batch norm if any, then an activation if any.

    Attributes:
        channels: output channels.
        kernel: odd side of the square kernel.
        stride: the same in both directions.
        groups: 1 for a full convolution, the input's channels for a depthwise one.
        padding: ``symmetric`` pads (kernel - 1) // 2 on every side; ``tf_same`` pads what makes the
            output ceil(input / stride), the odd pixel at the bottom and right (TensorFlow);
            ``valid`` pads nothing.
        bias: whether the convolution itself has a bias.
    """

    channels: Annotated[int, CHANNELS]
    activation: Activation
    kernel: Annotated[int, KERNEL] = 1
    stride: Annotated[int, STRIDE] = 1
    groups: Annotated[int, CHANNELS] = 1
    padding: Padding = "symmetric"
    bias: bool = False
    norm: Norm = "batch"
    kind: Literal["conv"] = "conv"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.kernel % 2 == 0:
            raise InputError(f"kernel {self.kernel} is even: only odd kernels are supported")
        if self.channels % self.groups:
            raise InputError(f"groups {self.groups} do not divide {self.channels} channels")


@dataclass(frozen=True, kw_only=True)
class Pool(Ranged):
    """The maximum or average of a window.

    Attributes:
        padding: ``symmetric`` pads (kernel - 1) // 2 on every side (an average counts the zeros);
            ``valid`` pads nothing.
        ceil_mode: whether a last window that extends over the edge counts.
    """

    function: Literal["max", "average"]
    kernel: Annotated[int, KERNEL]
    stride: Annotated[int, STRIDE]
    padding: Literal["symmetric", "valid"] = "symmetric"
    ceil_mode: bool = False
    kind: Literal["pool"] = "pool"


@dataclass(frozen=True, kw_only=True)
class SqueezeExcite:
    """Squeeze-and-excitation (Hu et al. 2018): pool, reduce, expand, scale the input by it."""

    reduce: Conv
    expand: Conv
    kind: Literal["squeeze_excite"] = "squeeze_excite"


@dataclass(frozen=True, kw_only=True)
class ChannelShuffle(Ranged):
    """Channels as (groups, n) transposed to (n, groups) (ShuffleNet, Zhang et al. 2018)."""

    groups: Annotated[int, Range(2, CHANNELS.highest)]
    kind: Literal["channel_shuffle"] = "channel_shuffle"


@dataclass(frozen=True, kw_only=True)
class Subsample(Ranged):
    """Every ``stride``-th position; zeros as new channels, half before and half after the old.

    The shortcut without weights of He et al. 2016 (option A).
    """

    channels: Annotated[int, CHANNELS]
    stride: Annotated[int, STRIDE]
    kind: Literal["subsample"] = "subsample"


@dataclass(frozen=True, kw_only=True)
class Ghost:
    """A ghost module (Han et al. 2020): ``primary``, and beside its output ``cheap`` of it."""

    primary: Conv
    cheap: Conv
    kind: Literal["ghost"] = "ghost"


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """A batch norm alone: the identity path of a block that is trained with branches."""

    kind: Literal["batch_norm"] = "batch_norm"


Operation = Conv | Pool | SqueezeExcite | ChannelShuffle | Subsample | Ghost | BatchNorm


StepName = Literal[
    "depthwise",
    "depthwise_start",
    "pointwise",
    "expand",
    "squeeze_excite",
    "project",
    "squeeze",
    "expand1x1",
    "expand3x3",
    "compress",
    "channel_shuffle",
    "conv1",
    "conv2",
    "conv3",
    "conv4",
    "conv1x1",
    "identity",
    "ghost1",
    "ghost2",
    "shortcut",
    "shortcut_pointwise",
]


@dataclass(frozen=True, kw_only=True)
class Step:
    """An operation and its name within the block."""

    name: StepName
    operation: Operation


Branch = tuple[Step, ...]


def branch(**operations: Operation) -> Branch:
    """Return ``operations`` as steps in order; their keywords are the steps' names."""
    return tuple(
        Step(name=cast(StepName, name), operation=operation)
        for name, operation in operations.items()
    )


@dataclass(frozen=True, kw_only=True)
class Block:
    """Steps in order, then steps on parallel paths that are joined.

    Attributes:
        entry: steps before the paths.
        paths: each from the entry's output to the join; an empty one is the identity.
        join: how the paths' outputs are combined; ``none`` without paths.
        split: whether each of two paths gets half of the channels (ShuffleNet V2), instead of all.
        activation: after the join.
        shuffle: groups of a channel shuffle after the activation; 0 for none.
    """

    entry: Branch = ()
    paths: tuple[Branch, ...] = ()
    join: Literal["none", "add", "concat"] = "none"
    split: bool = False
    activation: Activation = "none"
    shuffle: Annotated[int, Range(0, CHANNELS.highest)] = 0
    kind: Literal["block"] = "block"

    def __post_init__(self) -> None:
        check_ranges(self)
        names = [step.name for step in self.steps()]
        if len(names) > MOST_STEPS or len(self.paths) > MOST_STEPS:
            raise InputError(f"a block of {len(names)} steps: at most {MOST_STEPS} are supported")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two steps of a block are called {name!r}")
        if (self.join == "none") != (not self.paths) or len(self.paths) == 1:
            raise InputError(
                f"join {self.join!r} with {len(self.paths)} paths: add and concat need two or "
                "more, none has none"
            )
        if self.split and len(self.paths) != 2:
            raise InputError(f"a split needs two paths, not {len(self.paths)}")

    def steps(self) -> Iterator[Step]:
        """Yield every step, in execution order."""
        for path in (self.entry, *self.paths):
            yield from path

    @property
    def stride(self) -> int:
        """The stride of the longest path."""
        longest = max(self.paths, key=len, default=())
        stride = 1
        for step in (*self.entry, *longest):
            stride *= getattr(step.operation, "stride", 1)
        return stride


Row = Conv | Pool | Block


@dataclass(frozen=True, kw_only=True)
class PoolLinear(Ranged):
    """Average pool, hidden linear layers if any, linear classifier.

    Attributes:
        pool: side of the grid of averaged cells; 1 averages the whole map.
        hidden: features of the hidden layers, each followed by ``activation``.
        dropout: after every hidden layer's activation, or before the classifier if there is none.
    """

    classes: Annotated[int, CLASSES]
    pool: Annotated[int, Range(1, 64)] = 1
    hidden: Annotated[tuple[int, ...], CHANNELS] = ()
    activation: Activation = "none"
    dropout: Annotated[float, DROPOUT] = 0.0
    kind: Literal["pool_linear"] = "pool_linear"


@dataclass(frozen=True, kw_only=True)
class ConvPool(Ranged):
    """Dropout, a 1x1 convolution to the classes with ReLU, average over the map (SqueezeNet)."""

    classes: Annotated[int, CLASSES]
    norm: Norm = "none"
    dropout: Annotated[float, DROPOUT] = 0.0
    kind: Literal["conv_pool"] = "conv_pool"

    @property
    def classifier(self) -> Conv:
        """The convolution to the classes."""
        return Conv(
            channels=self.classes, activation="relu", norm=self.norm, bias=self.norm == "none"
        )


@dataclass(frozen=True, kw_only=True)
class PoolConvLinear:
    """Average over the map, a 1x1 convolution with batch norm, linear classifier (MobileNet V4)."""

    classes: Annotated[int, CLASSES]
    conv: Conv
    dropout: Annotated[float, DROPOUT] = 0.0
    kind: Literal["pool_conv_linear"] = "pool_conv_linear"

    def __post_init__(self) -> None:
        check_ranges(self)


Head = PoolLinear | ConvPool | PoolConvLinear
