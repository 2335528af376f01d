"""What the module of a web artifact makes of an image."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.artifact.contract import Contract
from mobilette.engines.node import NodeProcess
from mobilette.exporters.web import MODULE, PAGE

SCRIPT = Path(__file__).with_name("prepare.mjs")


class JavaScriptGeometry:
    """`prepare` of ``mobilette.js``, this version's own, under node.

    Raises:
        InputError: node is not installed.
    """

    def __init__(self, contract: Contract) -> None:
        self.shape = contract.input.shape
        known = {
            "preprocess": asdict(contract.preprocess),
            "arch": {"resolution": contract.arch.resolution},
        }
        self.node = NodeProcess(SCRIPT, [(PAGE / MODULE).as_uri(), json.dumps(known)])

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the network's input for ``image``, uint8 (C, H, W).

        Raises:
            NodeError: the module failed.
        """
        size = struct.pack("<II", *image.size)
        pixels = self.node.ask(size, image.convert("RGBA").tobytes())
        return np.frombuffer(pixels, np.uint8).reshape(self.shape)
