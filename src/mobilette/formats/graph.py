"""What a file with a graph (Keras, TensorFlow.js, TensorFlow Lite) says, as found.

One small vocabulary for all of them; `mobilette.formats.matching` compares it with an `Arch`.
Layouts are PyTorch's: whoever reads a file transposes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.rows import Activation
from mobilette.data.preprocess import Preprocess, Resize

Weights = NDArray[np.float32]
# (top, bottom, left, right), or what makes the output ceil(input / stride)
Padding = tuple[int, int, int, int] | Literal["same"]
NO_PADDING = (0, 0, 0, 0)
Ending = Literal["logits", "softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """What every node has.

    Attributes:
        name: the file's, unique in it.
        inputs: names of the nodes (or the graph's ``input``) whose outputs it reads.
    """

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvNode(Node):
    """A 2-d convolution, or a linear layer as a 1x1 convolution of one pixel.

    Attributes:
        weight: (out, in / groups, height, width); a linear layer's (out, in, 1, 1), its inputs in
            the file's order (height, width, channels).
        bias: (out,) or ``None``.
        linear: whether the file has it as a linear layer.
    """

    weight: Weights
    bias: Weights | None = None
    stride: int = 1
    groups: int = 1
    padding: Padding = NO_PADDING
    linear: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class NormNode(Node):
    """A batch norm; every array is (channels,)."""

    scale: Weights
    shift: Weights
    mean: Weights
    variance: Weights
    epsilon: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivationNode(Node):
    """An element-wise non-linearity."""

    function: Activation


@dataclass(frozen=True, kw_only=True, eq=False)
class PadNode(Node):
    """Zeros around the image."""

    padding: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class PoolNode(Node):
    """The largest value or the average of a window; ``kernel`` 0 means the whole map."""

    function: Literal["max", "average"]
    kernel: int = 0
    stride: int = 1
    padding: Padding = NO_PADDING


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinNode(Node):
    """Several inputs become one; ``scale`` multiplies the first, or the second, by the other."""

    function: Literal["add", "concat", "scale"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A network as a file has it.

    What changes no logit (dropout, reshape, flatten, softmax, quantise) is left out by the readers:
    the nodes beyond read the node before. So is a softmax or sigmoid at the end: ``output`` gives
    logits, ``ending`` tells what was left out.

    Attributes:
        where: the file, for messages.
        nodes: in the order of execution.
        input: the name that nodes use for the network's input.
        output: the name of the node that gives the logits.
        shape: (channels, height, width) of the input.
        ending: what the file applies to the logits.
        preprocess: how the file says that images are prepared.
        resize: how the file makes images square, if it does.
        tensors: names of all tensors of weights in the file.
        unused: those of them that are in no node.
        remarks: one line each for people.
    """

    where: str
    nodes: tuple[Node, ...]
    input: str
    output: str
    shape: tuple[int, int, int]
    ending: Ending = "logits"
    preprocess: Preprocess | None = None
    resize: Resize | None = None
    tensors: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
