"""The environment of a run: device, precision, versions, threads."""

from __future__ import annotations

import os
import platform
from importlib.util import find_spec
from typing import Literal

import torch

from mobilette.data.cache import cache_size, images_cache
from mobilette.data.machine import available_memory, cpu_quota, usable_cores
from mobilette.errors import InputError, one_of
from mobilette.extras import version_or_unknown
from mobilette.nn.kernels import kernels_name, why_no_kernels
from mobilette.training.distributed import ALONE, World

Precision = Literal["fp32", "bf16", "fp16"]

# Packages that each extra installs and the package does without.
EXTRAS = {
    "weights": ("h5py", "flatbuffers"),
    "tensorboard": ("tensorboard",),
    "heic": ("pillow-heif",),
    "parquet": ("pyarrow",),
    "openvino": ("openvino", "nncf"),
    "litert": ("ai-edge-litert", "flatbuffers"),
    "litert-export": ("ai-edge-litert", "litert-torch", "torchao"),
    "executorch": ("executorch", "torchao"),
    "ncnn": ("ncnn", "pnnx"),
    "coreml": ("coremltools",),
    "mcu": ("litert-torch", "tflite-micro"),
    "search": ("optuna",),
    "serve": ("fastapi", "uvicorn", "prometheus-client", "python-multipart"),
    "video": ("av",),
    "hub": ("huggingface_hub",),
    "postgresql": ("optuna", "psycopg", "sqlalchemy"),
    "keras": ("keras", "h5py"),
}
PACKAGES = ("mobilette", "torch", "numpy", "pillow", "safetensors", "onnx", "onnxruntime")


def available_devices() -> list[str]:
    """Return this machine's devices, fastest first."""
    devices = ["mps"] if torch.backends.mps.is_available() else []
    if torch.cuda.is_available():
        devices = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*devices, "cpu"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``name`` (``auto``: CUDA, else Apple's MPS, else the CPU).

    Raises:
        InputError: this machine has no such device.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    return torch.device(one_of(name, available, "device"))


def choose_precision(
    asked: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Precision:
    """Return the training precision; ``auto`` means the fastest with hardware support.

    bf16 on GPUs of compute capability 8 and CPUs with AMX or AVX-512 bf16, fp16 on GPUs of
    capability 7 (tensor cores), else fp32.

    Raises:
        InputError: fp16 is asked for, but ``device`` is not a GPU.
    """
    if asked == "fp16" and device.type != "cuda":
        raise InputError(f"precision fp16 is for GPUs; {device} trains in fp32 or bf16")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
    if device.type == "cpu":
        tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 has none
        has = tell() if tell is not None else {}
        return "bf16" if has.get("amx_bf16") or has.get("avx512_bf16") else "fp32"
    return "fp32"


def can_fuse_norms(device: torch.device, *, world: World = ALONE) -> bool:
    """Whether our kernels, compiled if need be, compute batch norms there in every process."""
    cannot = device.type != "cpu" or why_no_kernels() is not None
    return not any(world.all_reduce_max((float(cannot),)))


def describe_environment(
    device: torch.device, precision: Precision, *, fused_norms: bool
) -> dict[str, object]:
    """Return what a run records about its machine."""
    return {
        "schema": 1,
        "device": str(device),
        "device_name": _device_name(str(device)),
        "precision": precision,
        "fused_norms": fused_norms,
        "kernels": kernels_name() if fused_norms else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: version_or_unknown(name) for name in PACKAGES},
    }


def examine() -> dict[str, object]:
    """Return what ``mobilette doctor`` shows about this machine."""
    available, cache = available_memory(), images_cache()
    sets, size = cache_size(cache) if cache is not None else (0, 0)
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": usable_cores(),
        "quota": cpu_quota(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(available / 1e9, 1) if available else None,
        "devices": {name: _device_name(name) for name in available_devices()},
        "versions": {name: version_or_unknown(name) for name in PACKAGES},
        "pictures": {
            "folder": str(cache) if cache is not None else None,
            "sets": sets,
            "bytes": size,
        },
        "data": os.environ.get("MOBILETTE_DATA") or "MOBILETTE_DATA is not set",
        "fused_norms": f"no: {without}" if (without := why_no_kernels()) else "yes",
        "extras": {name: _extra(name) for name in EXTRAS},
    }


def _extra(name: str) -> str:
    if all(find_spec(package.replace("-", "_")) is not None for package in EXTRAS[name]):
        return "installed"
    return f"pip install 'mobilette[{name}]'"


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
