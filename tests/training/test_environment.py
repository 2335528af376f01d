from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mobilette.errors import InputError
from mobilette.training.environment import (
    choose_device,
    choose_precision,
    describe_environment,
    examine,
)


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="device 'gpu' is not one of"):
        choose_device("gpu")


def test_precision_follows_the_device_unless_asked_for() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu) == "fp32"
    assert choose_precision("bf16", cpu) == "bf16"
    cpuinfo = Path("/proc/cpuinfo")
    if hasattr(torch.cpu, "get_capabilities") and cpuinfo.exists():
        has_units = " amx_bf16" in cpuinfo.read_text()
        assert choose_precision("auto", cpu) == ("bf16" if has_units else "fp32")


def test_what_is_recorded_and_examined() -> None:
    recorded = describe_environment(torch.device("cpu"), "fp32")
    assert recorded["precision"] == "fp32"
    assert recorded["threads"] == torch.get_num_threads()
    assert examine()["devices"]
