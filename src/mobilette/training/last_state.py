"""What a run leaves in its directory as it goes on: state, table of metrics, best weights."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from mobilette.files import write_bytes, write_text
from mobilette.model.directory import WEIGHTS
from mobilette.nn.network import Network
from mobilette.run.directory import METRICS, METRICS_HEADER, MULTI_LABEL_HEADER, STATE
from mobilette.run.metrics import Metrics
from mobilette.training.clock import Now
from mobilette.training.state import Progress, state_bytes
from mobilette.training.step import Trainer


class LastState:
    """The newest state of a run, and the table of its metrics as it was then.

    A step can explode whose own loss, that of the weights before it, was still good. What is on
    disk must be worth going back to, so a state is held back until its weights have shown a loss,
    and the best weights with it: their score is in the state.

    Attributes:
        taken_at: when the newest state was taken down, by ``now``.
        longest: seconds that taking down a state, or writing it, took at most.
    """

    def __init__(self, folder: Path, *, multi_label: bool, now: Now) -> None:
        self.folder, self.now = folder, now
        self.header = MULTI_LABEL_HEADER if multi_label else METRICS_HEADER
        self.taken_at = self.now()
        self.longest = 0.0
        self._held_back: tuple[str, bytes] | None = None
        self._best: bytes | None = None

    def hold_best(self, network: Network) -> None:
        """Hold the weights of ``network``, wherever it lies, for the next state that is written."""
        tensors = network.state_dict()
        self._best = save({name: each.contiguous().cpu() for name, each in tensors.items()})

    def take_down(self, trainer: Trainer, progress: Progress) -> None:
        """Hold the state as it stands; the one before it, if still held back, is dropped.

        Processes that do not write (`World.writes`) only take down the time.
        """
        begun = self.now()
        if trainer.world.writes:
            table = "\n".join([self.header, *progress.rows]) + "\n"
            self._held_back = table, state_bytes(trainer, progress)
        self._measure(begun)
        self.taken_at = self.now()

    def write(self) -> None:
        """Write what is held back, if anything is."""
        if self._held_back is None:
            return
        begun = self.now()
        table, state = self._held_back
        # First: a run killed between the two validates these weights again.
        if self._best is not None:
            write_bytes(self.folder / WEIGHTS, self._best)
        write_text(self.folder / METRICS, table)
        write_bytes(self.folder / STATE, state)
        self._held_back = self._best = None
        self._measure(begun)

    def drop(self) -> None:
        """Forget what is held back: its weights have shown a bad loss."""
        self._held_back = self._best = None

    def _measure(self, begun: float) -> None:
        self.longest = max(self.longest, self.now() - begun)


def metrics_row(
    progress: Progress,
    metrics: Metrics,
    *,
    epochs: float,
    elapsed: float,
    rate: float,
    train_loss: float,
) -> str:
    """Return the line of metrics.csv for a validation ``elapsed`` seconds after the start.

    It comes after so many ``epochs``, the last of which may be a part of one.
    """
    precision = metrics.mean_average_precision
    top5 = "" if metrics.top5 is None else f"{metrics.top5:.6f}"
    return (
        f"{epochs:g},{progress.index},{elapsed:.3f},{rate:.6g},"
        f"{train_loss:.6f},{metrics.loss:.6f},{metrics.top1:.6f},{top5},"
        f"{progress.images / progress.training_seconds:.1f}"
    ) + (f",{precision:.6f}" if precision is not None else "")
