"""`Model`: arch, weights, preprocessing and classes as one frozen value."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.scale import Form
from mobilette.arguments import checked
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError
from mobilette.model.answering import PLAIN, Answering
from mobilette.model.classes import ClassLabel
from mobilette.nn.network import Network, build_empty


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from; not part of the Arch's hash.

    Attributes:
        name: the network's name in the catalogue.
        width_mult: the width multiplier; ``None`` if the channels match no width, as after pruning.
        form: ``small`` or ``full``.
        source: where the weights were read from: a run folder, a file, the name of published
            weights, or ``scratch``.
        sha256: of the weight file, or of a folder's files in order of name (hex).
        tensors: the number of tensors in an imported file; ``None`` for a run.
        unused: the names of tensors in that file that the network does not use.
        remarks: what was inferred or left out on import, one line each.
    """

    name: str
    width_mult: float | None = None
    form: Form | None = None
    source: str = "scratch"
    sha256: str | None = None
    tensors: int | None = None
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A network, its weights, its classes and its preprocessing.

    Attributes:
        arch: the network.
        weights: exactly the network's state dict; float32 (counters int64).
        preprocess: how images are prepared.
        classes: one per logit, in order.
        multi_label: whether classes are independent (a sigmoid over several outputs).
        has_classifier: otherwise the classifier is one class of zeros, for training and features
            only.
        origin: where the model comes from.
        answering: how logits become probabilities, and when the answer is ``unknown``.

    Raises:
        InputError: the parts do not fit together; the message names the first that does not.
    """

    arch: Arch
    weights: Mapping[str, Tensor]
    preprocess: Preprocess
    classes: tuple[ClassLabel, ...]
    multi_label: bool = False
    has_classifier: bool = True
    origin: Origin
    answering: Answering = PLAIN

    def __post_init__(self) -> None:
        check_parts(self.arch, self.preprocess, self.classes)
        check_tensors(self.weights, self.arch)

    @cached_property
    def network(self) -> Network:
        """The network with a copy of these weights, on the CPU in evaluation mode.

        Raises:
            InputError: it has no classifier.
        """
        self.check_classifier()
        return self.backbone

    def check_classifier(self) -> None:
        """Raise `InputError`, naming the command that trains one, if there is no classifier."""
        if not self.has_classifier:
            source = self.origin.source
            raise InputError(
                f"{source}: its weights were imported from a file without a classifier; "
                f"'{shlex.join(['mobilette', 'train', 'DATA', '--from', source])}' trains one"
            )

    @cached_property
    def backbone(self) -> Network:
        """The `network`, also without a classifier: its features are right, its logits zeros."""
        network = build_empty(self.arch)
        copied = {name: tensor.clone() for name, tensor in self.weights.items()}
        network.load_state_dict(copied, assign=True)
        return network.eval()

    @checked
    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the model into ``folder`` as a run directory and return its path.

        Args:
            folder: the new run directory; `Model.load` and every command can read it.
            force: replace ``folder`` if it exists.

        Raises:
            InputError: ``folder`` exists or cannot be written; nothing is left behind.
        """
        from mobilette.model.directory import write_model

        return write_model(Path(folder), self, force=force)

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Model:
        """Return the model in a run directory.

        Args:
            path: the run directory.

        Raises:
            InputError: there is none, or one of its files is damaged.
        """
        from mobilette.model.directory import read_model

        return read_model(Path(path))


def numbered_classes(count: int) -> tuple[ClassLabel, ...]:
    """Return ``count`` classes named by their numbers."""
    return tuple(ClassLabel(id=str(number), name=str(number)) for number in range(count))


def check_parts(arch: Arch, preprocess: Preprocess, classes: Sequence[ClassLabel]) -> None:
    """Raise `InputError` unless the three fit together."""
    if len(classes) != arch.num_classes:
        raise InputError(f"{len(classes)} classes, but the network has {arch.num_classes}")
    if preprocess.channels != arch.in_channels:
        raise InputError(f"{preprocess.channels} channels, but the network has {arch.in_channels}")
    preprocess.check_resolution(arch.resolution)


def check_tensors(tensors: Mapping[str, Tensor], arch: Arch) -> None:
    """Raise `InputError` unless ``tensors`` match the network's by name, shape and dtype."""
    expected = build_empty(arch).state_dict()
    for name, like in expected.items():
        if name not in tensors:
            raise InputError(f"tensor {name!r} of {arch.name} is missing")
        if tensors[name].shape != like.shape:
            raise InputError(
                f"tensor {name!r} is {tuple(tensors[name].shape)}, "
                f"but {arch.name} needs {tuple(like.shape)}"
            )
        if tensors[name].dtype != like.dtype:
            raise InputError(f"tensor {name!r} is {tensors[name].dtype}, not {like.dtype}")
    for name in tensors.keys() - expected.keys():
        raise InputError(f"tensor {name!r} is none of {arch.name}'s")


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise `InputError` if a tensor has a non-finite value."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"tensor {name!r} has values that are not finite")
