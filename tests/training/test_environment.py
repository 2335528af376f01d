from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch

from mobilette.errors import InputError
from mobilette.nn.kernels import kernels_name
from mobilette.training.environment import (
    EXTRAS,
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
        flags = cpuinfo.read_text()
        has_units = " amx_bf16" in flags or " avx512_bf16" in flags
        assert choose_precision("auto", cpu) == ("bf16" if has_units else "fp32")


def test_what_is_recorded_and_examined() -> None:
    recorded = describe_environment(torch.device("cpu"), "fp32", fused_norms=True)
    assert recorded["precision"] == "fp32"
    assert recorded["fused_norms"] is True
    assert recorded["kernels"] == kernels_name()
    assert recorded["threads"] == torch.get_num_threads()
    assert examine()["devices"]


def test_extras_are_those_of_the_package_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"].keys() == EXTRAS.keys()
    for name, lines in project["optional-dependencies"].items():
        brought = {re.split(r"[\[>]", line)[0] for line in lines} - {"mobilette"}
        assert brought <= set(EXTRAS[name])
    monkeypatch.setitem(EXTRAS, "weights", ("h5py", "no_such_package"))
    monkeypatch.setitem(EXTRAS, "tensorboard", ("json",))
    extras = examine()["extras"]
    assert isinstance(extras, dict)
    assert extras["weights"] == "pip install 'mobilette[weights]'"
    assert extras["tensorboard"] == "installed"
