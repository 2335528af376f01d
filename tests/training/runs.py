"""What tests of training compare runs by."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mobilette.data.reading import Reading
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run
from mobilette.training.events import Event, Listener, Now, Sitting
from mobilette.training.plan import NetworkChoice
from mobilette.workflows.resume import run_resume
from mobilette.workflows.train import run_train


def same_weights(one: Path, other: Path) -> bool:
    """Whether the best weights of two runs have the same bits."""
    first, second = (load_file(path / "best.safetensors") for path in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


class Ticks:
    """A clock that goes by a hundredth of a second, or ``step``, whenever it is asked."""

    def __init__(self, step: float = 0.01) -> None:
        self.time, self.step = 0.0, step

    def __call__(self) -> float:
        self.time += self.step
        return self.time


def silent(event: Event) -> None:
    pass


def train(
    data: str | Path,
    *,
    model: str | None = None,
    width_mult: float | None = None,
    resolution: int | None = None,
    form: Any = None,
    in_channels: int | None = None,
    preprocess: str | None = None,
    resize: Any = None,
    start: str | Path | Model = "auto",
    overrides: Any = None,
    workers: int | None = None,
    max_unusable: float = 0.1,
    tensorboard: bool = False,
    report: Listener = silent,
    reporter: Reporter = SILENT,
    now: Now = time.perf_counter,
    **options: Any,
) -> Run:
    """Train as `mobilette.train` does, with a clock and a report that may end it like a kill."""
    return run_train(
        data,
        NetworkChoice(model, width_mult, resolution, form, in_channels, preprocess, resize),
        start=start,
        overrides=overrides or {},
        reading=Reading(workers=workers, max_unusable=max_unusable),
        sitting=Sitting(report=report, reporter=reporter, now=now, tensorboard=tensorboard),
        **options,
    )


def resume(
    path: str | Path,
    *,
    overrides: Any = None,
    report: Listener = silent,
    reporter: Reporter = SILENT,
    now: Now = time.perf_counter,
    **options: Any,
) -> Run:
    """Go on as `mobilette.resume` does, with a clock and a report that may end it like a kill."""
    return run_resume(
        path,
        overrides=overrides or {},
        sitting=Sitting(report=report, reporter=reporter, now=now),
        **options,
    )
