"""Downloads published weights into a cache, with checksums and resumption.

A download is written to ``NAME.part`` and renamed once its size and checksum are right; an
interrupted one is kept and resumed. Environment variables:

- ``MOBILETTE_CACHE``: the cache folder, instead of the system's.
- ``MOBILETTE_OFFLINE=1``: nothing is fetched; files put into the cache by hand are used.
- ``MOBILETTE_WEIGHTS_MIRROR``: a base such as ``http://mirror.example/weights``, used instead of
  ``https://HOST`` for the same paths. Files without a known checksum are then only as trustworthy
  as the mirror. Proxies are taken from the usual variables (``HTTPS_PROXY`` ...).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from mobilette.errors import InputError
from mobilette.files import LARGEST_FILE, cache_root
from mobilette.folders import make_parents
from mobilette.formats.fetch import TransferError, fetch, received_bytes, tag_file
from mobilette.formats.published import PublishedWeights
from mobilette.progress import Advance

# Longer than a running process pauses between two bytes.
STALLED_S = 180.0
OPTIONAL_STALLED_S = 10.0


def weights_cache() -> Path:
    """Return the folder of downloaded weights; it need not exist."""
    return cache_root() / "weights"


def cached_path(weights: PublishedWeights) -> Path:
    """Return the path of the file in the cache, whether or not it exists."""
    return weights_cache() / weights.filename


def download(
    weights: PublishedWeights, *, report: Advance | None = None, optional: bool = False
) -> Path:
    """Return the path of ``weights`` in the cache, after fetching it if it is missing.

    A cached file is checked on every call: its size, and as many digits of its SHA-256 as are
    known. A few digits detect a damaged or wrong file, not a forged one.

    Args:
        weights: an entry of `mobilette.formats.published`.
        report: called with the bytes received and the expected total.
        optional: whether the caller can do without the file; an unresponsive server is then given
            up after seconds.

    Raises:
        InputError: the file cannot be fetched or is not the published one; the message says where
            to put it by hand. An interrupted download is kept for the next call; one that is wrong
            or does not fit on the disk is deleted.
    """
    path = cached_path(weights)
    by_hand = f"; by hand: save {weights.url} as {path}"
    if path.exists():
        if fault := _fault(path, weights):
            raise InputError(f"{path}: {fault}; remove it to fetch it again{by_hand}")
        return path
    if os.environ.get("MOBILETTE_OFFLINE", "0") not in ("", "0"):
        raise InputError(
            f"{weights.name} is not in the cache and MOBILETTE_OFFLINE is set{by_hand}"
        )
    make_parents(path)
    with _only_one(path, OPTIONAL_STALLED_S if optional else STALLED_S):
        if path.exists():  # fetched by another process in the meantime
            return path
        try:
            _download(weights, path, report, optional)
        except (TransferError, OSError) as error:
            raise InputError(f"{weights.name}: {error}{by_hand}") from error
    return path


def _download(
    weights: PublishedWeights, path: Path, report: Advance | None, optional: bool
) -> None:
    part = _part(path)
    expected = weights.size_bytes
    try:
        _check_space(part, expected)
        stated = fetch(
            _address(weights.url),
            part,
            largest=min(weights.size_range[1], LARGEST_FILE),
            resume_unmarked=bool(weights.sha256),
            report=lambda done, total: report(done, total or expected) if report else None,
            optional=optional,
        )
        if fault := _fault(part, weights, stated=stated):
            raise TransferError(f"the downloaded file {fault}", keep=False)
        part.replace(path)
        tag_file(part).unlink(missing_ok=True)
    except TransferError as error:
        if not error.keep:
            for left in (part, tag_file(part)):
                with suppress(OSError):
                    left.unlink()
        raise


def _fault(path: Path, weights: PublishedWeights, *, stated: str | None = None) -> str | None:
    """Return why ``path`` is not the published file, or ``None``."""
    if not path.is_file():
        return "is not a file"
    least, most = weights.size_range
    size = path.stat().st_size
    if not least <= size <= most:
        return f"has {size:,} bytes; {least:,} to {most:,} are expected"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for expected in (weights.sha256, stated or ""):
        if not digest.startswith(expected):
            return f"has SHA-256 {digest[: len(expected)]} instead of {expected}"
    return None


def _check_space(part: Path, size: int) -> None:
    try:
        free = shutil.disk_usage(part.parent).free
        missing = size - received_bytes(part)
    except OSError:
        return  # writing will fail if there is no space
    if free < missing:
        reason = f"{missing:,} bytes are missing, {free:,} are free"
        raise TransferError(f"{part.parent}: the disk is full: {reason}", keep=False)


@contextmanager
def _only_one(path: Path, stalled_s: float) -> Iterator[None]:
    """Wait while another process makes progress fetching ``path``."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    came = received_bytes(_part(path))
    try:
        while not lock.is_locked:
            try:
                lock.acquire(timeout=stalled_s)
            except Timeout:
                if received_bytes(_part(path)) == came:
                    raise InputError(
                        f"{path}: another process is downloading it, without progress for "
                        f"{stalled_s:g} s; end it and try again"
                    ) from None
                came = received_bytes(_part(path))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be written ({reason})") from error
    try:
        yield
    finally:
        lock.release()


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _address(url: str) -> str:
    base = os.environ.get("MOBILETTE_WEIGHTS_MIRROR")
    if not base:
        return url
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(
            f"MOBILETTE_WEIGHTS_MIRROR {base!r} is not an address; write http://HOST or "
            "https://HOST/FOLDER"
        )
    return base.rstrip("/") + urlsplit(url).path
