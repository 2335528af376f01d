from __future__ import annotations

import pytest
import torch

from mobilette.errors import InputError
from mobilette.training.environment import choose_device, describe_environment, examine


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="device 'gpu' is not one of"):
        choose_device("gpu")


def test_what_is_recorded_and_examined() -> None:
    recorded = describe_environment(torch.device("cpu"))
    assert recorded["threads"] == torch.get_num_threads()
    assert examine()["devices"]
