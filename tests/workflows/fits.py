"""Fits that take seconds, for several tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilette.training.events import Sitting
from mobilette.workflows.fit import run_fit
from mobilette.workflows.fit_record import FitRequest, Fitted
from tests.training.runs import Ticks

BUDGET = "size<=1MB, madds<=4M"


def asked(data: Path, **changes: Any) -> FitRequest:
    values = FitRequest(
        data=str(data),
        budget=BUDGET,
        scene=None,
        to=None,
        precision="fp32",
        seconds=60.0,
        starts=(),
        teacher=None,
        names=("mobilenet_v1", "resnet8", "shufflenet_v2", "squeezenet1_1_bn"),
        max_drop=1.0,
        seed=0,
        storage=None,
        device="cpu",
        workers=0,
        max_unusable=0.1,
        holdout=None,
        groups=None,
        study="fit of a test",
    )
    return replace(values, **changes)


def fit_small(data: Path, out: Path, **changes: Any) -> Fitted:
    """Fit by a clock that goes by whenever it is asked, so that the machine's speed is nothing."""
    return run_fit(asked(data, **changes), out=out, sitting=Sitting(now=Ticks(0.04)))
