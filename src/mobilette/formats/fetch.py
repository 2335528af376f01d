"""Fetches one file over HTTP with resumption and timeouts; no cache, no checksums."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

Report = Callable[[int, int | None], None]

CONNECT_S = 10.0
READ_S = 20.0
ATTEMPTS = 4
# Timeout for connecting and for each answer when the file is optional.
OPTIONAL_S = 5.0
BACK_OFF_S = 0.5
# A slower connection is given up: read timeouts alone would let a byte every now and then go on
# for ever.
SLOWEST_BYTES_PER_S = 1024
SLOWEST_OVER_S = 60.0
_CHUNK = 2**16
_RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TransferError(Exception):
    """A failed transfer.

    Attributes:
        keep: whether the bytes received so far are useful for another try.
    """

    def __init__(self, reason: str, *, keep: bool) -> None:
        super().__init__(reason)
        self.keep = keep


class _AgainError(Exception):
    """A fault that another try may resolve."""


def fetch(
    url: str,
    part: Path,
    *,
    largest: int,
    resume_unmarked: bool,
    report: Report,
    optional: bool = False,
) -> str | None:
    """Fetch ``url`` into ``part``, resuming an interrupted call for the same file.

    The server's ETag or date is kept in ``PART.tag`` meanwhile, so that two versions of a file are
    never mixed.

    Args:
        url: http or https.
        part: may exist; on return it holds the whole file, as far as the server tells.
        largest: limit in bytes.
        resume_unmarked: resume even if the server gives neither ETag nor date; only safe if the
            caller has a checksum.
        report: called with the bytes received and the total, if known.
        optional: give up at the first fault that occurs before any byte is received.

    Returns:
        The SHA-256 (hex) if the server states it (the Hugging Face Hub does, in X-Linked-Etag),
        else ``None``.

    Raises:
        TransferError: the file could not be fetched; the message is one line.
    """
    fault = ""
    longest_s = OPTIONAL_S if optional else READ_S
    had = received_bytes(part)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(BACK_OFF_S * 2 ** (attempt - 1))
        try:
            return _try(url, part, largest, resume_unmarked, report, longest_s)
        except _AgainError as error:
            fault = str(error)
            if optional and received_bytes(part) <= had:
                break
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise TransferError(f"{part}: cannot be written ({reason})", keep=False) from error
    raise TransferError(fault, keep=True)


def tag_file(part: Path) -> Path:
    """Return the path that keeps the ETag or date of the version in ``part``."""
    return part.with_name(part.name + ".tag")


def received_bytes(part: Path) -> int:
    """Return the number of bytes received so far."""
    try:
        return part.stat().st_size if part.is_file() else 0
    except FileNotFoundError:  # moved into place by the process that fetched it
        return 0


def _try(
    url: str, part: Path, largest: int, resume_unmarked: bool, report: Report, longest_s: float
) -> str | None:
    headers = _request_headers(part, resume_unmarked)
    host = urlsplit(url).hostname
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=(min(CONNECT_S, longest_s), longest_s)
        ) as response:
            _check(response, url)
            start, total = _span(response, part)
            if (total or 0) > largest:
                raise TransferError(_too_large(host, largest), keep=False)
            if start != total:
                _receive(response, part, start, total, largest, report)
            return _stated_sha256(response)
    except requests.exceptions.SSLError as error:
        reason = re.search(r"\] ([^()\]]+) \(_ssl", str(error))
        detail = f" ({reason[1]})" if reason else ""
        raise TransferError(f"no secure connection to {host}{detail}", keep=True) from error
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _AgainError(f"{host} did not answer within {longest_s:g} s") from error
    except requests.ConnectionError as error:
        raise _AgainError(f"{host} cannot be reached") from error
    except urllib3.exceptions.HTTPError as error:
        raise _AgainError(f"the connection to {host} was cut") from error
    except requests.RequestException as error:
        raise TransferError(f"{url}: {error}", keep=True) from error


def _request_headers(part: Path, resume_unmarked: bool) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    have = received_bytes(part)
    tag = tag_file(part).read_text("latin-1") if tag_file(part).is_file() else ""
    if have and (tag or resume_unmarked):
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    return headers


def _check(response: requests.Response, url: str) -> None:
    """Raise unless the server sends the file or says that nothing is missing."""
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise TransferError(f"{url} leads to {response.url}, which is not secure", keep=True)
    status = response.status_code
    if status == 429 or status >= 500:
        raise _AgainError(f"{response.url} is unavailable (HTTP status {status})")
    if status not in (200, 206, 416):
        raise TransferError(f"{response.url} was not found (HTTP status {status})", keep=True)


def _span(response: requests.Response, part: Path) -> tuple[int, int | None]:
    """Return the offset of the response's first byte and the file's length, if known."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None
    stated = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    have = received_bytes(part)
    if stated and int(stated[1] or stated[2]) == have:
        return have, int(stated[2])
    part.unlink(missing_ok=True)
    raise _AgainError(f"{response.url} cannot be resumed")


def _receive(
    response: requests.Response,
    part: Path,
    start: int,
    total: int | None,
    largest: int,
    report: Report,
) -> None:
    host = urlsplit(response.url).hostname
    done = before = start
    since = time.monotonic()
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        if not start:
            _keep_tag(response, part)
        report(done, total)
        while data := response.raw.read1(_CHUNK):
            done += len(data)
            if done > largest:
                raise TransferError(_too_large(host, largest), keep=False)
            file.write(data)
            report(done, total)
            if time.monotonic() - since > SLOWEST_OVER_S:
                if done - before < SLOWEST_BYTES_PER_S * SLOWEST_OVER_S:
                    raise _AgainError(
                        f"{host} sends less than {SLOWEST_BYTES_PER_S:,} bytes per second"
                    )
                since, before = time.monotonic(), done
    if total is not None and done != total:
        raise _AgainError(f"{host} sent {done:,} of {total:,} bytes")


def _keep_tag(response: requests.Response, part: Path) -> None:
    tag = response.headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # a weak ETag does not promise equal bytes
        tag = response.headers.get("Last-Modified", "")
    if tag:
        tag_file(part).write_text(tag, "latin-1")
    else:
        with suppress(FileNotFoundError):
            tag_file(part).unlink()


def _stated_sha256(response: requests.Response) -> str | None:
    for answer in (*response.history, response):
        stated = answer.headers.get("X-Linked-Etag", "").strip('"').lower()
        if _SHA256.fullmatch(stated):
            return stated
    return None


def _too_large(host: str | None, largest: int) -> str:
    return f"{host} sends more than the {largest:,} bytes expected at most"
