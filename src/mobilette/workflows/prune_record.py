"""``pruned.json``: how a run became narrower than the one that it was pruned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer
from mobilette.compression.pruning import Pruned
from mobilette.counting.cost import cost
from mobilette.errors import InputError
from mobilette.files import read_record, write_json
from mobilette.limits import AMOUNT, CHANNELS, FRACTION, SECONDS, Range
from mobilette.model.model import Model, Origin
from mobilette.records import check_ranges
from mobilette.run.directory import Run

PRUNED = "pruned.json"
Importance = Literal["taylor", "norm"]
PRUNABLE = Range(1, AMOUNT.highest)  # is divided by


@dataclass(frozen=True, kw_only=True)
class PruningStep:
    """One cut and the fine-tuning after it.

    Attributes:
        keep: the part of the unpruned network's mult-adds that was asked for.
        cut: accuracy on the images held out after the cut, before anything was learnt.
        tuned: accuracy of the best weights after fine-tuning.
        seconds: of the whole step.
        channels: of each layer that computes new ones, by its name.
    """

    keep: Annotated[float, FRACTION]
    madds: Annotated[int, AMOUNT]
    params: Annotated[int, AMOUNT]
    cut: Annotated[float, FRACTION]
    tuned: Annotated[float, FRACTION]
    seconds: Annotated[float, SECONDS]
    channels: Annotated[dict[str, int], CHANNELS]

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How a run was pruned; accuracies are 0 to 1 and top-1 (multi-label: mean average precision).

    Attributes:
        source: the unpruned run, whose answers the steps learnt from as well.
        keep: the part of its mult-adds that was asked for.
        accuracy: its accuracy on the images held out.
        channels: its channels, as those of a step.
        schema: version of this record.
    """

    source: str
    keep: Annotated[float, FRACTION]
    importance: Importance
    madds: Annotated[int, PRUNABLE]
    params: Annotated[int, PRUNABLE]
    accuracy: Annotated[float, FRACTION]
    channels: Annotated[dict[str, int], CHANNELS]
    steps: tuple[PruningStep, ...]
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.steps or any(
            step.channels.keys() != self.channels.keys() for step in self.steps
        ):
            raise InputError("steps: one or more with the channels of the same layers are expected")


def read_pruning(run: Path) -> Pruning:
    """Return how the run in the folder ``run`` was pruned.

    Raises:
        InputError: pruned.json is missing or damaged.
    """
    return read_record(run / PRUNED, Pruning)


def write_pruning(
    folder: Path,
    source: Run,
    *,
    keep: float,
    importance: Importance,
    accuracy: float,
    steps: Sequence[PruningStep],
) -> None:
    """Write pruned.json into ``folder``; the arguments are those of `Pruning`."""
    before = cost(source.arch)
    pruning = Pruning(
        source=str(source.path.resolve()),
        keep=keep,
        importance=importance,
        madds=before.madds,
        params=before.params,
        accuracy=accuracy,
        channels=new_channels(source.arch),
        steps=tuple(steps),
    )
    write_json(folder / PRUNED, asdict(pruning))


def cut_step(
    pruned: Pruned, *, keep: float, accuracy: Callable[[Arch, dict[str, Tensor]], float]
) -> PruningStep:
    """Return what a step has come to before it is fine-tuned."""
    left, cut = cost(pruned.arch), accuracy(pruned.arch, pruned.weights)
    return PruningStep(
        keep=keep,
        madds=left.madds,
        params=left.params,
        cut=cut,
        tuned=cut,
        seconds=0.0,
        channels=new_channels(pruned.arch),
    )


def tuned_step(step: PruningStep, run: Run, taken: float) -> PruningStep:
    """Return ``step`` with what fine-tuning has come to by now, after so many seconds."""
    try:
        best = run.best() or {}
    except InputError:  # no epoch is finished
        best = {}
    tuned = best.get("mean_average_precision", best.get("top1", step.cut))
    return replace(step, tuned=tuned, seconds=taken)


def new_channels(arch: Arch) -> dict[str, int]:
    """Return the channels of each layer that computes new ones: not depthwise, not the logits."""
    return {
        layer.name: layer.shape[0]
        for layer in layers(arch)
        if isinstance(layer, LinearLayer)
        or (isinstance(layer, ConvLayer) and not layer.is_depthwise)
        if not layer.name.startswith("head.classifier")
    }


def cut_model(run: Run, pruned: Pruned) -> Model:
    """Return the cut network of ``run``."""
    source = f"{run.path.resolve()}, pruned"
    return Model(
        arch=pruned.arch,
        weights=pruned.weights,
        preprocess=run.preprocess,
        classes=run.classes,
        multi_label=run.multi_label,
        origin=Origin(name=pruned.arch.name, source=source),
    )
