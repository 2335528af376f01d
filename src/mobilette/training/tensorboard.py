"""What metrics.csv has, for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilette.errors import InputError
from mobilette.training.events import EpochDone, Event, Report

FOLDER = "tensorboard"


def check_tensorboard() -> None:
    """Raise `InputError` unless the extra is installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--tensorboard needs the extra: pip install 'mobilette[tensorboard]'"
        ) from error


@contextmanager
def logged(report: Report, *, folder: Path, wanted: bool) -> Iterator[Report]:
    """Yield ``report``, which also writes TensorBoard events into the run ``folder`` if ``wanted``.

    Raises:
        InputError: the extra is not installed.
    """
    if not wanted:
        yield report
        return
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / FOLDER)) as writer:

        def tell(event: Event) -> None:
            report(event)
            if isinstance(event, EpochDone):
                for name, value in (
                    ("loss/train", event.train_loss),
                    ("loss/val", event.metrics.loss),
                    ("accuracy/top1", event.metrics.top1),
                    ("accuracy/top5", event.metrics.top5),
                    ("accuracy/mean_average_precision", event.metrics.mean_average_precision),
                    ("lr", event.lr),
                ):
                    # Of one label an image; of the weights that a run starts from.
                    if value is not None and not math.isnan(value):
                        writer.add_scalar(name, value, event.step)

        yield tell
