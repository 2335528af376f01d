"""A network as stored in a file: layers in terms of `Arch`, with the file's names and tensors.

The readers of Keras, TensorFlow.js, TensorFlow Lite, Caffe and ONNX build it with
`mobilette.formats.file_builder`; `mobilette.formats.matching` compares it with an `Arch`. Layouts
are PyTorch's: the readers transpose. Every shape is (channels, height, width); a vector is a map of
one pixel, and a flattened map keeps its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.primitives import AnyLayer, Shape
from mobilette.data.preprocess import Preprocess, Resize

Weights = NDArray[np.float32]
Pads = tuple[int, int, int, int]  # top, bottom, left, right
NO_PADS: Pads = (0, 0, 0, 0)
Ending = Literal["logits", "softmax", "sigmoid"]
Join = Literal["add", "concat", "scale"]
# The tensors of a batch norm, by their PyTorch names
NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, kw_only=True, eq=False)
class FileLayer:
    """A layer of a file.

    Attributes:
        layer: with the file's names for itself and its inputs.
        tensors: by PyTorch name (``weight``, ``bias``, ``running_mean``, ``running_var``).
        epsilon: of a batch norm.
        fault: why the layer is unsupported, if it is; raised only where it is needed.
    """

    layer: AnyLayer
    tensors: Mapping[str, Weights] = field(default_factory=dict)
    epsilon: float = 0.0
    fault: str = ""

    @property
    def name(self) -> str:
        """The layer's name in the file."""
        return self.layer.name


@dataclass(frozen=True, kw_only=True, eq=False)
class FileNetwork:
    """A network as stored in a file.

    Readers leave out layers that change no logit (dropout, reshape, flatten, quantise) and a final
    softmax or sigmoid, which becomes ``ending``. ``where`` is the file, for messages.

    Attributes:
        layers: in order of execution.
        output: the name of the layer that computes the logits.
        shape: (channels, height, width) of the input.
        preprocess: the preprocessing that the file states.
        resize: how the file makes images square, if it does.
        tensors: the names of all weight tensors in the file.
        unused: the names of weight tensors that no layer uses.
        remarks: notes for the user, one line each.
    """

    where: str
    layers: tuple[FileLayer, ...]
    output: str
    shape: Shape
    ending: Ending = "logits"
    preprocess: Preprocess | None = None
    resize: Resize | None = None
    tensors: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
