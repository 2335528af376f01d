"""Where a run is trained: device, versions, threads."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Literal

import torch

from mobilette.data.reading import available_memory
from mobilette.errors import one_of
from mobilette.training.process import usable_cores

Precision = Literal["fp32", "bf16"]

PACKAGES = ("mobilette", "torch", "numpy", "pillow", "safetensors", "onnx", "onnxruntime")


def available_devices() -> list[str]:
    """Return the names of the devices of this machine, the fastest first."""
    devices = ["mps"] if torch.backends.mps.is_available() else []
    if torch.cuda.is_available():
        devices = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*devices, "cpu"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``name`` (``auto``: CUDA, else Apple's MPS, else the CPU).

    Raises:
        InputError: no such device here.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    return torch.device(one_of(name, available, "device"))


def choose_precision(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """Return the precision of training: bf16 for ``auto`` where the device has units for it."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type == "cpu":
        tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 has none
        return "bf16" if tell is not None and tell().get("amx_bf16") else "fp32"
    return "fp32"


def describe_environment(device: torch.device, precision: Precision) -> dict[str, object]:
    """Return what a run records about where it was trained."""
    return {
        "schema": 1,
        "device": str(device),
        "device_name": _device_name(str(device)),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def examine() -> dict[str, object]:
    """Return what there is to work with on this machine, for ``mobilette doctor``."""
    available = available_memory()
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(available / 1e9, 1) if available else None,
        "devices": {name: _device_name(name) for name in available_devices()},
        "versions": {name: version(name) for name in PACKAGES},
        "data": os.environ.get("MOBILETTE_DATA") or "MOBILETTE_DATA is not set",
        "targets": {"onnx": f"onnxruntime {version('onnxruntime')}"},
        "extras": "none in this version",
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu()


def _cpu() -> str:
    return platform.processor() or platform.machine()
