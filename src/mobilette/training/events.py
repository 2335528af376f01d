"""What a training run tells while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mobilette.run.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """Sent after every step: where the run is and how fast it goes."""

    epoch: int
    epochs: int | None
    step: int
    steps: int
    images_per_second: float
    loss: float
    part: float


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """Sent after every epoch whose weights were validated.

    Attributes:
        epoch: epochs that are over; not whole where the time was over within one.
        frozen: whether nothing but the head was trained until now.
    """

    epoch: float
    frozen: bool
    step: int
    lr: float
    train_loss: float
    metrics: Metrics
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """Sent at the end of a run that was profiled.

    Attributes:
        steps: that were measured.
        images_per_second: over these steps, nothing but steps counted.
        seconds: of all these steps together, by part of a step: ``data`` (waiting for pixels),
            ``augmentation``, ``forward``, ``backward``, ``optimiser``.
    """

    steps: int
    images_per_second: float
    seconds: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


Event = StepDone | EpochDone | Profiled
Report = Callable[[Event], None]
