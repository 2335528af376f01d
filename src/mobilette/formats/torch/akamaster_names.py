"""Yerlan Idelbayev's names of the layers of the ResNets for CIFAR.

github.com/akamaster/pytorch_resnet_cifar10, resnet.py; the shortcuts are those without weights.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from mobilette.arch.families.resnet import CIFAR_DEPTHS
from mobilette.formats.torch.name_tables import Source, resnet_names

AKAMASTER = Source(
    name="akamaster",
    tables=MappingProxyType(
        {f"resnet{d}": partial(resnet_names, classifier="linear") for d in CIFAR_DEPTHS}
    ),
)
