"""What identifies an image: a hash of its pixels or of its file."""

from __future__ import annotations

import hashlib
from typing import Literal

from PIL import Image

# What the order inside a split, the fingerprint and the count of duplicates go by.
Digest = Literal["decoded pixels", "files", "names and sizes"]


def pixel_sha256(image: Image.Image) -> str:
    """Return the SHA-256, in hex, of a decoded image: its mode, size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
