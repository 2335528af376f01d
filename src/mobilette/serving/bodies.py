"""A request's body: read within limits, and taken apart into images."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from mobilette.errors import shown
from mobilette.serving.settings import Limits

FORM, JSON = "multipart/form-data", "application/json"
PART = "file"
EXPECTED = (
    f"send an image's bytes as image/* or application/octet-stream, a form ({FORM}) with parts "
    f"named {PART!r}, or {JSON} with base64"
)
_SHAPES = 'expected {"image": "..."} or {"images": ["...", ...]}, with base64'
_NESTED = 2
_NAME_BYTES = 1024


class Refused(Exception):
    """Why a request gets no answer, with HTTP's status for it.

    Attributes:
        close: whether the connection ends with the answer, as what is left of the body is not read.
    """

    def __init__(self, status: int, reason: str, *, close: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.close = status, reason, close


def busy(reason: str, *, close: bool = False) -> Refused:
    """Return the refusal of a request that may be sent again in a second."""
    return Refused(503, f"{reason}; try again in a second", close=close)


@dataclass(kw_only=True)
class Upload:
    """An encoded image.

    Attributes:
        name: what the client calls it, for the answer only.
        animated: whether it has more frames than the first; known once it is decoded.
    """

    content: bytes
    name: str = ""
    animated: bool = False


class Held:
    """The bytes of all bodies in memory, at most ``limits.held``."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._bytes = limits, 0

    def take(self, size: int) -> None:
        """Count ``size`` bytes; `Refused` if they are too many now."""
        if self._bytes + size > self._limits.held:
            raise busy("too many bytes are being received", close=True)
        self._bytes += size

    def free(self, size: int) -> None:
        """Count ``size`` bytes no more."""
        self._bytes -= size


async def read_body(
    chunks: AsyncIterator[bytes], declared: str | None, *, limits: Limits, held: Held
) -> bytes:
    """Return a request's body; whoever gets it frees its size of ``held``.

    A body that is too large by ``declared``, the header Content-Length, is refused unread.

    Raises:
        Refused: it is too large, or takes too long.
    """
    body = bytearray()
    try:
        if declared is not None and int(declared) > limits.bytes:
            raise _too_large(int(declared), limits)
        async with asyncio.timeout(limits.seconds):
            async for chunk in chunks:
                if len(body) + len(chunk) > limits.bytes:
                    raise _too_large(len(body) + len(chunk), limits)
                held.take(len(chunk))
                body += chunk
    except TimeoutError:
        held.free(len(body))
        reason = f"the body did not arrive within {limits.seconds:g} seconds"
        raise Refused(408, reason, close=True) from None
    except BaseException:
        held.free(len(body))
        raise
    return bytes(body)


def _too_large(size: int, limits: Limits) -> Refused:
    reason = f"a body of {size:,} bytes or more; the limit is {limits.mebibytes} MiB"
    return Refused(413, reason, close=True)


def uploads_of(body: bytes, content_type: str, *, limits: Limits) -> list[Upload]:
    """Return the images in a ``body``; `Refused` if there are none, or too many."""
    from python_multipart.multipart import parse_options_header

    parsed, options = parse_options_header(content_type)
    kind = parsed.decode("latin-1")
    if kind == FORM:
        return _of_form(body, options.get(b"boundary", b""), limits)
    if kind == JSON:
        return _of_json(body, limits)
    if kind in ("", "application/octet-stream") or kind.startswith("image/"):
        return [Upload(content=body)]
    raise Refused(415, f"Content-Type {shown(kind)}; {EXPECTED}")


def _of_json(body: bytes, limits: Limits) -> list[Upload]:
    _check_signs(body, limits)
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(422, f"not JSON ({str(error)[:80]})") from None
    texts: Any = None
    if isinstance(value, dict) and len(value) == 1:
        texts = [value["image"]] if "image" in value else value.get("images")
    if not isinstance(texts, list) or not texts:
        raise Refused(422, _SHAPES)
    _check_count(len(texts), limits)
    return [Upload(content=_decoded(text, number)) for number, text in enumerate(texts, start=1)]


def _check_signs(body: bytes, limits: Limits) -> None:
    """Refuse a body of another shape unparsed: its values would take 30 times its bytes.

    Base64 has no commas or brackets, so a good body has one of each bracket and a comma between
    two images. Twice as many are parsed: ``data:image/png;base64,...`` is better refused as that.
    """
    if body.count(b"[") + body.count(b"{") > _NESTED:
        raise Refused(422, _SHAPES)
    _check_count(body.count(b",") // 2 + 1, limits)


def _decoded(text: object, number: int) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    raise Refused(422, f"image {number} is no base64 text; give the file's bytes as base64 alone")


@dataclass
class _Part:
    """A part of a form while it is read: its headers, and where its content lies."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes = b""
    value: bytes = b""
    content: bytearray = field(default_factory=bytearray)


class _Form:
    """What python-multipart calls while it parses a form."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._part = limits, _Part()
        self.uploads: list[Upload] = []
        self.ended = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        names = ["part_begin", "header_field", "header_value", "header_end"]
        names += ["headers_finished", "part_data", "part_end", "end"]
        return {f"on_{name}": getattr(self, name) for name in names}

    def part_begin(self) -> None:
        _check_count(len(self.uploads) + 1, self._limits)
        self._part = _Part()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def header_end(self) -> None:
        part = self._part
        part.headers[part.name.lower()] = part.value
        part.name = part.value = b""

    def headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        header = self._part.headers.get(b"content-disposition", b"")
        options = parse_options_header(header)[1]
        if (name := options.get(b"name", b"").decode(errors="replace")) != PART:
            raise Refused(422, f"a part named {shown(name)}; name the parts with images {PART!r}")
        self._part.name = options.get(b"filename", b"")[:_NAME_BYTES]

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._part.content += data[start:end]

    def part_end(self) -> None:
        name = self._part.name.decode(errors="replace")
        self.uploads.append(Upload(content=bytes(self._part.content), name=name))
        self._part = _Part()

    def end(self) -> None:
        self.ended = True


def _of_form(body: bytes, boundary: bytes, limits: Limits) -> list[Upload]:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    if not boundary:
        raise Refused(400, f"Content-Type {FORM} without a boundary")
    form = _Form(limits)
    try:
        callbacks: Any = form.callbacks()
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused(400, f"not a form ({str(error)[:80]})") from None
    if not form.ended:
        raise Refused(400, "the form is cut short")
    if not form.uploads:
        raise Refused(422, f"a form without a part named {PART!r}")
    return form.uploads


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.files:
        raise Refused(413, f"more images than {limits.files} in a request; send several requests")
