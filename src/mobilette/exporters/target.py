"""`Target`: what a kind of artifact is, as data; and what its writer is given and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilette.artifact.contract import Contract, Precision
from mobilette.artifact.golden import Golden
from mobilette.compression.ranges import Ranges
from mobilette.data.normalise import Normalise
from mobilette.model.model import Model
from mobilette.nn.network import Network

Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Training images, uint8 (N, C, H, W), by which ranges of activations are chosen.

    ``source`` says where they are from.
    """

    pixels: NDArray[np.uint8]
    source: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantisation:
    """How a network becomes int8.

    Attributes:
        ranges: by which the range of an activation is chosen from what calibration showed.
        float_layers: convolutions and linear layers that are computed in float, by their names in
            `mobilette.arch.layers`, such as ``rows.3.expand.conv``.
        network: with batch norms folded, to be quantised instead of the run's own, as which it
            answers: equalised, corrected or trained further.
    """

    ranges: Ranges = "plain"
    float_layers: frozenset[str] = frozenset()
    network: Network | None = None


Progress = Callable[[str, int, int], None]
"""Called with what is done now, how much of it is done, and of how much (0 where nobody knows)."""


def no_progress(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What every target is written from.

    Attributes:
        model: what is exported.
        network: its network with batch norms folded, in evaluation mode.
        normalise: what makes pixels its input.
        golden: inputs, and the checkpoint's answers.
        quantisation: how ``network`` becomes int8, where it does.
        progress: told what is done now.
    """

    model: Model
    network: Network
    normalise: Normalise
    golden: Golden
    quantisation: Quantisation = field(default_factory=Quantisation)
    progress: Progress = no_progress


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """What a writer made.

    Attributes:
        files: content by name: the contract's ``model`` and ``parts``.
        size_bytes: of what the engine loads; ``None`` means of all the files.
        arena_bytes: `Measured.arena_bytes`.
        operators: `Measured.operators`.
        exact: of an int8 model that every engine has to execute to the same bits: its own int8
            answers to the golden inputs, (N, classes).
    """

    files: Mapping[str, bytes]
    size_bytes: int | None = None
    arena_bytes: int | None = None
    operators: tuple[str, ...] = ()
    exact: NDArray[np.int8] | None = None


Writer = Callable[[Prepared, Contract, Calibration | None], Written]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of artifact.

    Attributes:
        name: as ``--to`` spells it.
        precisions: that can be written, the usual one first.
        packages: whose versions the contract records, beside mobilette and torch.
        extra: of pyproject.toml, which brings them; empty where everybody has them.
        model: name of the model file.
        parts: names of the files that belong to it.
        layout: of the input.
        dtype: of the input.
        input: the input's name in the model.
        output: the output's name in the model.
        batched: whether input and output have a dimension for several images.
        verifiable: `Contract.verifiable`.
        writer: writes the files; it imports the packages of its extra itself.
        code: Python of the README: from ``pixels`` (1, C, H, W), uint8, to ``logits`` (classes,);
            placeholders are those of `mobilette.exporters.readme`.
        imports: the imports that ``code`` needs.
        language: of ``code``; where it is not Python, ``code`` is the whole part of the README that
            tells how to run the model.
        batch: images that one call takes, where they have one; ``None`` means any number.
        integer_answers: whether an int8 model's output is int8, if its last layer is.
        default_ranges_differ_from_minmax: whether int8 ranges are cut by default.
        notes: the end of the README; placeholders as in ``code``.
    """

    name: str
    precisions: tuple[Precision, ...]
    packages: tuple[str, ...]
    model: str
    writer: Writer
    imports: str
    code: str
    extra: str = ""
    parts: tuple[str, ...] = ()
    layout: Layout = "NCHW"
    dtype: Literal["uint8", "float32"] = "uint8"
    input: str = "pixels"
    output: str = "logits"
    batched: bool = True
    verifiable: bool = True
    language: Literal["python", "javascript"] = "python"
    batch: int | None = None
    integer_answers: bool = False
    default_ranges_differ_from_minmax: bool = False
    notes: str = ""


class PixelsToLogits(nn.Module):
    """The network with its normalisation inside; takes pixels in the layout of a target.

    Pixels are uint8 or float32, 0 to 255, (N, C, H, W) or (N, H, W, C); logits are (N, classes).
    """

    def __init__(self, network: nn.Module, normalise: nn.Module, *, layout: Layout) -> None:
        super().__init__()
        self.normalise, self.network, self.layout = normalise, network, layout

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of ``pixels``."""
        if self.layout == "NHWC":
            pixels = pixels.permute(0, 3, 1, 2)
        logits: Tensor = self.network(self.normalise(pixels.to(torch.float32)))
        return logits
