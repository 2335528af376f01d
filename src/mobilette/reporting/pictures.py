"""Pictures inside a page: small, as data URIs, and no more of them than a page can bear."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from mobilette.data.formats import UnusableImage
from mobilette.data.images import LabelledImage
from mobilette.errors import visible

SMALL = 64  # pixels a side, up to which a picture is kept as it is


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as an ``img`` element has it; ``small`` ones are enlarged without smoothing."""

    name: str
    source: str
    small: bool


def picture_of(image: LabelledImage, *, side: int) -> Picture | None:
    """Return an image of at most ``side`` pixels a side; ``None`` if it cannot be decoded."""
    try:
        opened = image.open()
    except UnusableImage:
        return None
    return embedded(opened, name=image.name, side=side)


def embedded(image: Image.Image, *, name: str, side: int) -> Picture:
    """Return ``image``, RGB or grey, of at most ``side`` pixels a side, called ``name``."""
    small = max(image.size) <= SMALL
    file = io.BytesIO()
    if small:
        image.save(file, "PNG")
    else:
        image.thumbnail((side, side))
        image.save(file, "JPEG", quality=80)
    kind = "png" if small else "jpeg"
    data = base64.b64encode(file.getvalue()).decode()
    return Picture(name=visible(name), source=f"data:image/{kind};base64,{data}", small=small)


class Album:
    """The pictures of one page, until it has enough of them."""

    def __init__(self, *, most: int, most_bytes: int, side: int) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.shown: set[str] = set()
        self.count = self.bytes = 0
        self._side = side

    def take(self, image: LabelledImage) -> Picture | None:
        """Return an image for the page; ``None`` if there is no room or it cannot be decoded."""
        if self.count >= self.most or self.bytes >= self.most_bytes:
            return None
        found = picture_of(image, side=self._side)
        if found is not None:
            self._add(found)
            self.shown.add(image.name)
        return found

    def take_drawn(self, image: Image.Image, name: str) -> Picture | None:
        """Return a picture that was drawn; ``None`` if there is no room."""
        if self.count >= self.most or self.bytes >= self.most_bytes:
            return None
        found = embedded(image, name=name, side=self._side)
        self._add(found)
        return found

    def _add(self, picture: Picture) -> None:
        self.count += 1
        self.bytes += len(picture.source)
