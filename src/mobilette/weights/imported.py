"""`Imported`: a published network as one of ours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.data.preprocess import Preprocess, Resize


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """A published network, read and found to be complete.

    Attributes:
        arch: the network as the file has it: its biases, batch norms, activations, padding,
            classes and resolution where the file tells them.
        weights: float32 (counters int64), exactly the tensors of the network's state dict.
        preprocess: how pictures are prepared, as far as the file tells; ``None`` if it does not.
        resize: how the file makes pictures square; ``None`` if it does not.
        multi_label: whether each class is answered for by itself (a sigmoid over several).
        has_classifier: otherwise the classifier is one class of zeros: a start for training.
        tensors: how many tensors the file has.
        unused: names of the file's tensors that the network has no place for.
        remarks: one line each about what was concluded or left out ("class 0 is background"),
            without the file's name.
    """

    arch: Arch
    weights: dict[str, Tensor]
    preprocess: Preprocess | None = None
    resize: Resize | None = None
    multi_label: bool = False
    has_classifier: bool = True
    tensors: int
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
