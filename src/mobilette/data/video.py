"""Frames of videos and of cameras, decoded by PyAV (the extra ``video``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilette.data.formats import HEAD, UnusableImage, format_of, what_it_is
from mobilette.data.names import has_image_name
from mobilette.errors import InputError
from mobilette.extras import needs

if TYPE_CHECKING:
    from av.container import InputContainer

_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"),
    *(".m2ts", ".mts", ".wmv", ".asf", ".flv", ".3gp", ".ogv"),
)
# Containers of one file. Playlists (HLS, concat) would open other files, and addresses.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg"
# Twice the pixels of 8K.
MAX_PIXELS = 2**26
# Format and name of a camera. Windows knows cameras by their names alone.
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_WINDOWS = "dshow"


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A picture of a video.

    Attributes:
        seconds: since the first picture, to the millisecond.
        pixels: uint8 (H, W, 3), RGB, upright.
    """

    seconds: float
    pixels: NDArray[np.uint8]


def is_video(path: str | Path) -> bool:
    """Whether ``path`` is a file that is a video by its content or, if that says nothing, its name.

    Files with an image's name are not opened: they are images, or damaged.
    """
    path = Path(path)
    if has_image_name(path.name):
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(HEAD)
    except (OSError, ValueError):
        return False
    if what_it_is(head) == "a video":
        return True
    return path.suffix.lower() in _SUFFIXES and format_of(head) is None


def video_frames(path: str | Path, *, every: float | None = None) -> Iterator[Frame]:
    """Yield the pictures of a video.

    Args:
        path: a file.
        every: seconds; the first picture, and then the next after each such time.

    Raises:
        UnusableImage: it cannot be decoded, perhaps after some pictures, or PyAV is missing.
    """
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    yield from _frames(f"file:{path}", None, options, every)


def camera_frames(number: int, *, every: float | None = None) -> Iterator[Frame]:
    """Yield the pictures of a camera, without end.

    Args:
        number: 0 is the first camera.
        every: as for `video_frames`.

    Raises:
        InputError: there is no such camera, or PyAV is missing.
    """
    try:
        yield from _frames(*_camera(number), {}, every)
    except UnusableImage as error:
        raise InputError(f"--camera {number}: {error}") from error


def _camera(number: int) -> tuple[str, str]:
    """Return name and format of a camera."""
    if sys.platform != "win32":
        form, name = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
        return name.format(number), form
    with needs("video", f"--camera {number}"):
        import av
    found = [each for each in av.enumerate_input_devices(_WINDOWS) if "video" in each.media_types]
    if number >= len(found):
        raise InputError(f"--camera {number}: there are {len(found)} cameras, counted from 0")
    return f"video={found[number].name}", _WINDOWS


def _frames(
    name: str, form: str | None, options: dict[str, str], every: float | None
) -> Iterator[Frame]:
    try:
        with needs("video", "a video"):
            import av
    except InputError as error:
        raise UnusableImage(str(error)) from error
    try:
        with av.open(name, format=form, options=options) as container:
            yield from _chosen(container, every)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        if isinstance(error, UnusableImage):
            raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnusableImage(f"cannot be decoded as a video ({reason})") from error


def _chosen(container: InputContainer, every: float | None) -> Iterator[Frame]:
    stream = container.streams.best("video")
    if stream is None:
        raise UnusableImage("no video in it")
    codec: Any = stream.codec_context
    codec.options = {"max_pixels": str(MAX_PIXELS)}
    begin: float | None = None
    due, number, rate = 0.0, 0, float(getattr(stream, "average_rate", None) or 25)
    for frame in container.decode(stream):
        picture: Any = frame
        time = picture.time if picture.time is not None else number / rate
        begin = time if begin is None else begin
        seconds, number = round(time - begin, 3), number + 1
        if every is not None and seconds < due:
            continue
        due = 0.0 if every is None else round((seconds // every + 1) * every, 3)
        pixels = picture.to_ndarray(format="rgb24")
        upright = np.rot90(pixels, picture.rotation // 90)
        yield Frame(seconds=seconds, pixels=np.ascontiguousarray(upright))
