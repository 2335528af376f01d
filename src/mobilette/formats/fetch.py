"""One file over HTTP, resumed where the server can: no cache, no checksums, never a hang."""

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
# Who can do without the file waits so long for the connection, and for each answer.
OPTIONAL_S = 5.0
BACK_OFF_S = 0.5
# A connection that brings less than this for so long is given up: read timeouts alone would let
# a byte every now and then go on for ever.
SLOWEST_BYTES_PER_S = 1024
SLOWEST_OVER_S = 60.0
_CHUNK = 2**16
_RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TransferError(Exception):
    """A file that did not come.

    Attributes:
        keep: whether what has come so far is of use for another try.
    """

    def __init__(self, reason: str, *, keep: bool) -> None:
        super().__init__(reason)
        self.keep = keep


class _AgainError(Exception):
    """What another try may mend."""


def fetch(
    url: str,
    part: Path,
    *,
    largest: int,
    resume_unmarked: bool,
    report: Report,
    optional: bool = False,
) -> str | None:
    """Fetch ``url`` into ``part``, from where an interrupted call for the same file stopped.

    The server's ETag or date of the file stands in ``PART.tag`` meanwhile, so that pieces of two
    versions are never joined.

    Args:
        url: http or https.
        part: may exist; on return it has the whole file, as far as the server says.
        largest: bytes, above which the file is not taken.
        resume_unmarked: whether to resume where the server gives neither ETag nor date, too: only
            if the caller has a checksum.
        report: is told the bytes that are there and the total, if the server says one.
        optional: whether to give up at the first fault that comes before any byte of the file.

    Returns:
        The SHA-256 of the file in hexadecimal digits where the server states it (the Hugging Face
        Hub does, as X-Linked-Etag), else ``None``.

    Raises:
        TransferError: one line that says why the file did not come.
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
    """Return where the server's name for the version in ``part`` is kept."""
    return part.with_name(part.name + ".tag")


def received_bytes(part: Path) -> int:
    """Return how much has come so far; 0 if nothing has."""
    try:
        return part.stat().st_size if part.is_file() else 0
    except FileNotFoundError:  # the process that fetched it has moved it to its place
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
    """Raise unless the server answers with the file, or with the fact that nothing is missing."""
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise TransferError(f"{url} leads to {response.url}, which is not secure", keep=True)
    status = response.status_code
    if status == 429 or status >= 500:
        raise _AgainError(f"{response.url} cannot be had now (HTTP status {status})")
    if status not in (200, 206, 416):
        raise TransferError(f"{response.url} is not there (HTTP status {status})", keep=True)


def _span(response: requests.Response, part: Path) -> tuple[int, int | None]:
    """Return the place of the answer's first byte in the file, and the file's length if known."""
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
                        f"{host} sends less than {SLOWEST_BYTES_PER_S:,} bytes a second"
                    )
                since, before = time.monotonic(), done
    if total is not None and done != total:
        raise _AgainError(f"{host} sent {done:,} of {total:,} bytes")


def _keep_tag(response: requests.Response, part: Path) -> None:
    tag = response.headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # a weak one does not promise equal bytes
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
    return f"{host} sends more than the {largest:,} bytes that the file can have"
