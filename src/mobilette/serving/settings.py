"""What a request may cost, and how the engines' work is divided."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 2**20
# Bodies held at the same time, by the size of the largest one.
_HELD = 8
_LEAST_HELD = 256 * MEBIBYTE


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may cost; the answer to one that would cost more names the limit.

    Attributes:
        mebibytes: of a request's body.
        megapixels: of an image, as its file declares them.
        files: images of a request.
        seconds: for a request's head and body to arrive, for its answer, and for each part of the
            answer to be read.
        queue: images accepted and not answered; beyond it the answer is 503.
        connections: open at the same time; others are closed at once.
    """

    mebibytes: int = 32
    megapixels: int = 64
    files: int = 32
    seconds: float = 10.0
    queue: int = 128
    connections: int = 512

    @property
    def bytes(self) -> int:
        """Bytes of a request's body."""
        return self.mebibytes * MEBIBYTE

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.megapixels * 1_000_000

    @property
    def held(self) -> int:
        """Bytes of all bodies that are in memory at the same time."""
        return max(_HELD * self.bytes, _LEAST_HELD)


@dataclass(frozen=True, kw_only=True)
class Work:
    """How the engines' work is divided.

    Attributes:
        threads: of each call of an engine; 0 lets it choose.
        engines: calls at the same time.
        workers: threads that decode.
        max_batch: images of one call.
        window_s: how long a call waits, in seconds, for images that are being decoded.
    """

    threads: int = 1
    engines: int = 1
    workers: int = 1
    max_batch: int = 4
    window_s: float = 0.002
