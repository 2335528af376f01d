"""The state of a run on disk: `last.pt`, metrics.csv and the best weights."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import save
from torch import Tensor

from mobilette.errors import InputError
from mobilette.files import read_bytes, write_bytes, write_json, write_text
from mobilette.limits import AMOUNT, BATCH, DIFFERENCE, FRACTION, Range
from mobilette.model.answering import Answering
from mobilette.model.directory import ANSWERING, WEIGHTS
from mobilette.nn.network import Network
from mobilette.records import check_ranges, parse
from mobilette.run.directory import METRICS, METRICS_HEADER, MULTI_LABEL_HEADER, STATE
from mobilette.training.events import Now
from mobilette.training.optimiser import SCALE
from mobilette.training.recipe import Recipe
from mobilette.training.step import Trainer

SCHEMA = 2
SPENT = Range(0.0, 1e10)  # seconds
# What torch.load raises for damaged states; found by fuzzing.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    UnicodeError,
    struct.error,
)


@dataclass(kw_only=True)
class Progress:
    """Where a run stands.

    Attributes:
        epoch: the current epoch, from 0.
        step: steps done in it.
        index: steps done in the whole run.
        elapsed: seconds of wall-clock over all sittings.
        training_seconds: of these, seconds spent in training steps.
        images: images trained on.
        loss_sum: over this epoch's steps.
        best_score: of `best.safetensors` on the validation images; -1 before there is one.
        since_best: validations since then.
        parts: parts in which a process works through its share of a batch.
        rate_factor: factor on the recipe's rate, lowered after the loss exploded.
        rollbacks: how often it did.
        rows: the lines of metrics.csv so far.
        frozen_steps: steps of each frozen epoch if the time is too short for whole ones; else 0.
        missing: steps that shortened epochs lacked.
        trained_before: whether the initial weights already classify these images and are validated
            first, so that the result is no worse.
    """

    epoch: Annotated[int, AMOUNT] = 0
    step: Annotated[int, AMOUNT] = 0
    index: Annotated[int, AMOUNT] = 0
    elapsed: Annotated[float, SPENT] = 0.0
    training_seconds: Annotated[float, SPENT] = 0.0
    images: Annotated[int, AMOUNT] = 0
    loss_sum: float = 0.0
    best_score: Annotated[float, DIFFERENCE] = -1.0
    since_best: Annotated[int, AMOUNT] = 0
    parts: Annotated[int, BATCH] = 1
    rate_factor: Annotated[float, FRACTION] = 1.0
    rollbacks: Annotated[int, AMOUNT] = 0
    finished: bool = False
    rows: tuple[str, ...] = ()
    frozen_steps: Annotated[int, AMOUNT] = 0
    missing: Annotated[int, AMOUNT] = 0
    trained_before: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def validates_first(self) -> bool:
        """Whether to validate the initial weights before the first step."""
        return self.trained_before and self.index == 0 and not self.rows


def state_bytes(trainer: Trainer, progress: Progress) -> bytes:
    """Return the current state of a run as the content of `last.pt`."""
    buffer = io.BytesIO()
    torch.save(
        {
            "schema": SCHEMA,
            "progress": vars(progress),
            "network": trainer.network.state_dict(),
            "average": trainer.average.network.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "recipe": asdict(trainer.recipe),
        },
        buffer,
    )
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class State:
    """A saved state; ``recipe`` is the one it was trained with."""

    progress: Progress
    recipe: Recipe
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def read_state(path: Path) -> State:
    """Return the state in ``path``. Nothing in the file is executed (``weights_only``).

    Raises:
        InputError: the file is missing, damaged, of another version or not plain tensors.
    """
    content = io.BytesIO(read_bytes(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickles, which are refused anyway
            saved = torch.load(content, map_location="cpu", weights_only=True)
        schema = saved.pop("schema")
        if schema != SCHEMA:
            raise InputError(f"{path}: schema {schema}; this version reads {SCHEMA}")
        progress = parse(Progress, saved.pop("progress"), where=str(path))
        recipe = parse(Recipe, saved.pop("recipe"), where=str(path))
        return State(progress=progress, recipe=recipe, **saved)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than plain tensors; nothing in it was executed"
        ) from error
    except _DAMAGED as error:
        raise InputError(f"{path}: damaged, truncated or not a run's state") from error


def apply_state(state: State, trainer: Trainer, *, where: Path) -> None:
    """Put ``state``, read from ``where``, into ``trainer``.

    New optimiser settings in the recipe apply; another optimiser starts afresh.

    Raises:
        InputError: the state belongs to another network.
    """
    settings = [
        {name: value for name, value in group.items() if name not in ("params", SCALE)}
        for group in trainer.optimizer.param_groups
    ]
    try:
        trainer.network.load_state_dict(state.network)
        trainer.average.network.load_state_dict(state.average)
        if state.recipe.optimizer == trainer.recipe.optimizer:
            trainer.optimizer.load_state_dict(state.optimizer)
        trainer.scaler.load_state_dict(state.scaler)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{where}: belongs to another network or recipe") from error
    if state.recipe != trainer.recipe:
        for group, own in zip(trainer.optimizer.param_groups, settings, strict=True):
            group.update(own)


class LastState:
    """Writes the newest snapshot of a run, with its metrics.csv and best weights.

    A step can ruin the weights although its own loss, computed before it, was good. So a snapshot
    and its best weights are held back until the weights have shown a good loss: the state on disk
    is always worth going back to.

    Attributes:
        taken_at: when the newest snapshot was taken, by ``now``.
        longest: the most seconds that taking or writing a snapshot took.
    """

    def __init__(self, folder: Path, *, multi_label: bool, now: Now) -> None:
        self.folder, self.now = folder, now
        self.header = MULTI_LABEL_HEADER if multi_label else METRICS_HEADER
        self.taken_at = self.now()
        self.longest = 0.0
        self._held_back: tuple[str, bytes] | None = None
        self._best: tuple[bytes, Answering] | None = None

    def hold_best(self, network: Network, answering: Answering) -> None:
        """Hold the weights of ``network`` for the next snapshot that is written."""
        tensors = network.state_dict()
        weights = save({name: each.contiguous().cpu() for name, each in tensors.items()})
        self._best = weights, answering

    def snapshot(self, trainer: Trainer, progress: Progress) -> None:
        """Hold back the current state instead of the last; non-writers only note the time."""
        begun = self.now()
        if trainer.world.writes:
            table = "\n".join([self.header, *progress.rows]) + "\n"
            self._held_back = table, state_bytes(trainer, progress)
        self.taken_at = self.now()
        self.longest = max(self.longest, self.taken_at - begun)

    def write(self) -> None:
        """Write what is held back, if anything."""
        if self._held_back is None:
            return
        begun = self.now()
        table, state = self._held_back
        # Best weights first: a run killed in between validates again.
        if self._best is not None:
            weights, answering = self._best
            write_bytes(self.folder / WEIGHTS, weights)
            write_json(self.folder / ANSWERING, asdict(answering))
        write_text(self.folder / METRICS, table)
        write_bytes(self.folder / STATE, state)
        self._held_back = self._best = None
        self.longest = max(self.longest, self.now() - begun)

    def drop(self) -> None:
        """Forget what is held back: its weights have shown a bad loss."""
        self._held_back = self._best = None
