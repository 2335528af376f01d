"""``pruned.json``: how a run was pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer
from mobilette.counting.cost import cost
from mobilette.errors import InputError
from mobilette.files import read_record, write_json
from mobilette.limits import AMOUNT, CHANNELS, FRACTION, SECONDS, Range
from mobilette.model.model import Model
from mobilette.records import Ranged, check_ranges
from mobilette.run.directory import Run

PRUNED = "pruned.json"
Importance = Literal["taylor", "norm"]
PRUNABLE = Range(1, AMOUNT.highest)  # a divisor


@dataclass(frozen=True, kw_only=True)
class PruningStep(Ranged):
    """One cut and the fine-tuning after it.

    Attributes:
        keep: requested fraction of the unpruned network's mult-adds.
        cut: accuracy on the held-out images after the cut, before fine-tuning.
        tuned: accuracy of the best weights after fine-tuning.
        channels: output channels by name of layer, for layers with channels of their own.
    """

    keep: Annotated[float, FRACTION]
    madds: Annotated[int, AMOUNT]
    params: Annotated[int, AMOUNT]
    cut: Annotated[float, FRACTION]
    tuned: Annotated[float, FRACTION]
    seconds: Annotated[float, SECONDS]
    channels: Annotated[dict[str, int], CHANNELS]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How a run was pruned; accuracies are 0 to 1 and top-1 (multi-label: mean average precision).

    Attributes:
        source: the unpruned run.
        keep: requested fraction of its mult-adds.
        accuracy: its accuracy on the held-out images.
        channels: its channels, as in a step.
        trained_left_out: how many images are not held out because it was trained on them.
        includes_trained: whether it was trained on some that are; ``None`` if not known.
    """

    source: str
    keep: Annotated[float, FRACTION]
    importance: Importance
    madds: Annotated[int, PRUNABLE]
    params: Annotated[int, PRUNABLE]
    accuracy: Annotated[float, FRACTION]
    channels: Annotated[dict[str, int], CHANNELS]
    steps: tuple[PruningStep, ...]
    trained_left_out: Annotated[int, AMOUNT] = 0
    includes_trained: bool | None = False
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.steps or any(
            step.channels.keys() != self.channels.keys() for step in self.steps
        ):
            raise InputError("steps: at least one is needed, all with the same layers in channels")


def read_pruning(run: Path) -> Pruning:
    """Return how the run in the folder ``run`` was pruned; `InputError` without a valid record."""
    return read_record(run / PRUNED, Pruning)


def write_pruning(
    folder: Path,
    arch: Arch,
    *,
    source: Path,
    keep: float,
    importance: Importance,
    accuracy: float,
    trained_left_out: int,
    includes_trained: bool | None,
    steps: Sequence[PruningStep],
) -> None:
    """Write pruned.json into ``folder``; ``arch`` is the unpruned network, the rest `Pruning`'s."""
    before = cost(arch)
    pruning = Pruning(
        source=str(source),
        keep=keep,
        importance=importance,
        madds=before.madds,
        params=before.params,
        accuracy=accuracy,
        trained_left_out=trained_left_out,
        includes_trained=includes_trained,
        channels=new_channels(arch),
        steps=tuple(steps),
    )
    write_json(folder / PRUNED, asdict(pruning))


def cut_step(pruned: Model, *, keep: float, accuracy: float) -> PruningStep:
    """Return the record of a step before fine-tuning."""
    left = cost(pruned.arch)
    return PruningStep(
        keep=keep,
        madds=left.madds,
        params=left.params,
        cut=accuracy,
        tuned=accuracy,
        seconds=0.0,
        channels=new_channels(pruned.arch),
    )


def tuned_step(step: PruningStep, run: Run, seconds: float) -> PruningStep:
    """Return ``step`` with the best accuracy of ``run`` so far."""
    try:
        best = run.best() or {}
    except InputError:  # no epoch is finished
        best = {}
    tuned = best.get("mean_average_precision", best.get("top1", step.cut))
    return replace(step, tuned=tuned, seconds=seconds)


def new_channels(arch: Arch) -> dict[str, int]:
    """Return the output channels by layer, except of depthwise layers and the classifier."""
    return {
        layer.name: layer.shape[0]
        for layer in layers(arch)
        if isinstance(layer, LinearLayer)
        or (isinstance(layer, ConvLayer) and not layer.is_depthwise)
        if not layer.name.startswith("head.classifier")
    }
