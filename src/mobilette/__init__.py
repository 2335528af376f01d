"""Mobilette: a folder of images and a device budget in, a small verified classifier out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from mobilette.arch.arch import Arch
    from mobilette.arch.catalogue import get_arch, list_models
    from mobilette.cli.training_output import TrainingProgress
    from mobilette.counting.cost import cost
    from mobilette.counting.latency import LatencyTable, predicted_latency, read_latency_table
    from mobilette.engines.load import load
    from mobilette.errors import InputError
    from mobilette.formats.importing import import_weights
    from mobilette.formats.pretrained import create_model
    from mobilette.model.model import Model
    from mobilette.reporting.report import report
    from mobilette.verification.bench import bench
    from mobilette.verification.evaluate import evaluate
    from mobilette.verification.explain import explain
    from mobilette.verification.latency_table import build_latency_table
    from mobilette.verification.shifts import evaluate_shifts
    from mobilette.verification.verify import verify
    from mobilette.workflows.audit import audit
    from mobilette.workflows.classifier import ImageClassifier
    from mobilette.workflows.export import export
    from mobilette.workflows.fit import fit, resume_fit
    from mobilette.workflows.prune import prune
    from mobilette.workflows.quantize import quantize
    from mobilette.workflows.resume import resume
    from mobilette.workflows.train import train

__all__ = [
    "Arch",
    "ImageClassifier",
    "InputError",
    "LatencyTable",
    "Model",
    "TrainingProgress",
    "__version__",
    "audit",
    "bench",
    "build_latency_table",
    "cost",
    "create_model",
    "evaluate",
    "evaluate_shifts",
    "explain",
    "export",
    "fit",
    "get_arch",
    "import_weights",
    "list_models",
    "load",
    "predicted_latency",
    "prune",
    "quantize",
    "read_latency_table",
    "report",
    "resume",
    "resume_fit",
    "train",
    "verify",
]

# Imported when it is used: torch alone takes a second.
_HOME = {
    "Arch": "mobilette.arch.arch",
    "ImageClassifier": "mobilette.workflows.classifier",
    "InputError": "mobilette.errors",
    "LatencyTable": "mobilette.counting.latency",
    "Model": "mobilette.model.model",
    "TrainingProgress": "mobilette.cli.training_output",
    "audit": "mobilette.workflows.audit",
    "bench": "mobilette.verification.bench",
    "build_latency_table": "mobilette.verification.latency_table",
    "cost": "mobilette.counting.cost",
    "create_model": "mobilette.formats.pretrained",
    "evaluate": "mobilette.verification.evaluate",
    "evaluate_shifts": "mobilette.verification.shifts",
    "explain": "mobilette.verification.explain",
    "export": "mobilette.workflows.export",
    "fit": "mobilette.workflows.fit",
    "get_arch": "mobilette.arch.catalogue",
    "import_weights": "mobilette.formats.importing",
    "list_models": "mobilette.arch.catalogue",
    "load": "mobilette.engines.load",
    "predicted_latency": "mobilette.counting.latency",
    "prune": "mobilette.workflows.prune",
    "quantize": "mobilette.workflows.quantize",
    "read_latency_table": "mobilette.counting.latency",
    "report": "mobilette.reporting.report",
    "resume": "mobilette.workflows.resume",
    "resume_fit": "mobilette.workflows.fit",
    "train": "mobilette.workflows.train",
    "verify": "mobilette.verification.verify",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mobilette' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
