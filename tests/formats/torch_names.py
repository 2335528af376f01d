"""Small networks' weights under the names of other projects, to be saved as people save them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.formats.pretrained import create_model
from mobilette.formats.torch.name_tables import tensor_names
from mobilette.formats.torch.names import SOURCES

Tensors = dict[str, Tensor]


def published(model: str, source: str = "torchvision", **options: Any) -> Tensors:
    """Return random weights of a network under the names of ``source``."""
    arch = get_arch(model, Settings(**options))
    network = create_model(model, **options)
    names = tensor_names(arch, SOURCES[source])
    return {names[name]: tensor for name, tensor in network.state_dict().items()}
