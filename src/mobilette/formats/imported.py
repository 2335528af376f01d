"""`Imported`: a published network as one of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.data.preprocess import PRESETS, Preprocess, Resize, preset
from mobilette.errors import InputError
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model, Origin, numbered_classes


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """A published network, read and found to be complete.

    Attributes:
        arch: the network as the file has it: its biases, batch norms, activations, padding,
            classes and resolution where the file tells them.
        weights: float32 (counters int64), exactly the tensors of the network's state dict.
        preprocess: how images are prepared, as far as the file tells; ``None`` if it does not.
        resize: how the file makes images square; ``None`` if it does not.
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


def preprocess_of(
    imported: Imported, given: str | None, *, resize: Resize | None, where: str
) -> Preprocess:
    """Return how images are prepared for a network.

    Args:
        imported: the network.
        given: a preset's name, for a file that does not scale images itself. ``raw`` is right for
            one that does: it takes them as they are.
        resize: how an image becomes square; ``None`` does what the file says, or crops.
        where: the file, for messages.

    Raises:
        InputError: neither the file nor ``given`` tells, or they differ.
    """
    said = None if given is None else preset(given, in_channels=imported.arch.in_channels)
    told = imported.preprocess
    if said is None and told is None:
        raise InputError(
            f"{where}: does not say how images are prepared; give --preprocess "
            f"{', '.join(list(PRESETS)[:-1])} or {list(PRESETS)[-1]}"
        )
    if told is not None and said is not None and given != "raw" and not _alike(told, said):
        raise InputError(
            f"{where}: scales images itself (mean {told.mean[0]:g}, std {told.std[0]:g}), "
            f"otherwise than --preprocess {given}; leave that out"
        )
    chosen = told or said
    assert chosen is not None
    return replace(chosen, resize=resize or imported.resize or "crop")


def _alike(first: Preprocess, second: Preprocess) -> bool:
    """Whether two scalings are the same, a quantised input's rounding aside."""
    pairs = zip(first.mean + first.std, second.mean + second.std, strict=True)
    return first.colour == second.colour and all(
        abs(a - b) <= 0.01 * (a + b) + 0.5 for a, b in pairs
    )


def as_model(
    imported: Imported,
    *,
    preprocess: Preprocess,
    classes: Sequence[ClassLabel] | None = None,
    origin: Origin,
) -> Model:
    """Return the network as a `Model`; its classes are numbers where nobody names them."""
    labels = numbered_classes(imported.arch.num_classes)
    return Model(
        arch=imported.arch,
        weights=imported.weights,
        preprocess=preprocess,
        classes=labels if classes is None or not imported.has_classifier else tuple(classes),
        multi_label=imported.multi_label,
        has_classifier=imported.has_classifier,
        origin=replace(
            origin,
            tensors=imported.tensors,
            unused=imported.unused,
            remarks=imported.remarks,
        ),
    )
