"""Mobilette: a folder of images and a device budget in, a small verified classifier out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mobilette.arch.catalogue import list_models
    from mobilette.counting.cost import cost
    from mobilette.engines.load import load
    from mobilette.errors import InputError
    from mobilette.exporters.export import export
    from mobilette.formats.importing import import_weights
    from mobilette.formats.pretrained import create_model
    from mobilette.verification.evaluate import evaluate
    from mobilette.verification.verify import verify
    from mobilette.workflows.prune import prune
    from mobilette.workflows.quantize import quantize
    from mobilette.workflows.resume import resume
    from mobilette.workflows.train import train

__all__ = [
    "InputError",
    "__version__",
    "cost",
    "create_model",
    "evaluate",
    "export",
    "import_weights",
    "list_models",
    "load",
    "prune",
    "quantize",
    "resume",
    "train",
    "verify",
]

_HOME = {
    "InputError": "mobilette.errors",
    "cost": "mobilette.counting.cost",
    "create_model": "mobilette.formats.pretrained",
    "evaluate": "mobilette.verification.evaluate",
    "export": "mobilette.exporters.export",
    "import_weights": "mobilette.formats.importing",
    "list_models": "mobilette.arch.catalogue",
    "load": "mobilette.engines.load",
    "prune": "mobilette.workflows.prune",
    "quantize": "mobilette.workflows.quantize",
    "resume": "mobilette.workflows.resume",
    "train": "mobilette.workflows.train",
    "verify": "mobilette.verification.verify",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mobilette' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
