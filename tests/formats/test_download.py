"""Downloads from a real server on this machine, with what goes wrong on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilette.errors import InputError
from mobilette.formats import fetch
from mobilette.formats.download import cached_path, download, weights_cache
from mobilette.formats.published import PublishedWeights, find_published

CONTENT = np.random.default_rng(0).bytes(3_000_000)
HANGS = 120  # seconds after which a test gives up
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/models/net-0123.pth"


class Server(ThreadingHTTPServer):
    """Serves `CONTENT`; the attributes say how, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.statuses: list[int] = []  # of the next answers, instead of the file
        self.ranges = True
        self.cut_after: list[int] = []  # bytes, for the next answers
        self.bytes_per_s = 0.0
        self.length = True
        self.redirected: dict[str, str] = {}  # path to place; the hub names the checksum there
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        span, condition = self.headers.get("Range"), self.headers.get("If-Range")
        server.asked.append((self.path, span, condition))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if self.path in server.redirected:
            self.send_response(302)
            self.send_header("Location", server.redirected[self.path])
            self.send_header("X-Linked-Etag", f'"{SHA256}"')
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = int(span[6:-1]) if span and server.ranges else 0
        if condition not in (None, server.headers.get("ETag"), server.headers.get("Last-Modified")):
            start = 0
        size = len(server.content)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if server.length:
            self.send_header("Content-Length", str(size - start))
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        stop = min(size, start + server.cut_after.pop(0)) if server.cut_after else size
        return self._send(server.content[start:stop])

    def _send(self, body: bytes) -> None:
        step = 20_000 if self.server.bytes_per_s else len(body)
        for first in range(0, len(body), step):
            piece = body[first : first + step]
            if self.server.bytes_per_s:
                time.sleep(len(piece) / self.server.bytes_per_s)
            self.wfile.write(piece)
            self.server.sent += len(piece)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True, scope="module")
def no_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOBILETTE_OFFLINE", "MOBILETTE_WEIGHTS_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "BACK_OFF_S", 0.01)


def entry(url: str, sha256: str = SHA256[:8]) -> PublishedWeights:
    known = find_published("torchvision/squeezenet1_0.IMAGENET1K_V1")
    return replace(known, url=url + PATH, sha256=sha256, size_bytes=len(CONTENT))


def left(weights: PublishedWeights) -> list[str]:
    """Return what there is in the cache besides locks, which are empty."""
    folder = cached_path(weights).parent
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def refused(weights: PublishedWeights, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        download(weights)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(f"by hand: save {weights.url} as {cached_path(weights)}")


def part(weights: PublishedWeights) -> Path:
    return cached_path(weights).with_name(weights.filename + ".part")


def test_it_comes_once_and_is_told_about(server: Server) -> None:
    weights, told = entry(server.url), list[tuple[int, int]]()
    path = download(weights, report=lambda done, total: told.append((done, total)))
    assert path == cached_path(weights)
    assert path.read_bytes() == CONTENT
    assert left(weights) == [weights.filename]
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    assert download(weights) == path
    assert server.asked == [(PATH, None, None)]


def test_a_cut_connection_is_taken_up_where_it_was_cut(server: Server) -> None:
    server.cut_after = [1_000_000, 500_000]
    path = download(entry(server.url))
    assert path.read_bytes() == CONTENT
    assert server.asked == [
        (PATH, None, None),
        (PATH, "bytes=1000000-", '"one"'),
        (PATH, "bytes=1500000-", '"one"'),
    ]
    # The server counts what it has sent, a moment after it was received.
    until = time.monotonic() + HANGS
    while server.sent < len(CONTENT) and time.monotonic() < until:
        time.sleep(0.01)
    assert server.sent == len(CONTENT)
    assert left(entry(server.url)) == [path.name]


def test_what_came_is_kept_for_the_next_call(server: Server) -> None:
    weights = entry(server.url)
    server.cut_after = [400_000, 1, 1, 1]
    refused(weights, "the connection to 127.0.0.1 was cut; by hand")
    assert len(server.asked) == fetch.ATTEMPTS
    assert left(weights) == [weights.filename + ".part", weights.filename + ".part.tag"]
    assert part(weights).stat().st_size == 400_003
    assert download(weights).read_bytes() == CONTENT
    assert server.asked[-1] == (PATH, "bytes=400003-", '"one"')
    assert left(weights) == [weights.filename]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, len(CONTENT) - 1), max_size=3),
    had=st.integers(0, len(CONTENT)),
    ranges=st.booleans(),
    length=st.booleans(),
    tag=st.sampled_from([{}, {"ETag": '"one"'}, {"ETag": 'W/"weak"'}]),
)
def test_wherever_it_is_cut_the_whole_file_comes(
    cuts: list[int], had: int, ranges: bool, length: bool, tag: dict[str, str]
) -> None:
    with serving() as server, TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "BACK_OFF_S", 0.001)
        server.cut_after, server.ranges, server.headers = list(cuts), ranges, tag
        server.length = length or bool(cuts)  # without a length a cut looks like the end
        file = Path(folder) / "part"
        file.write_bytes(CONTENT[:had])
        fetch.fetch(
            server.url,
            file,
            largest=len(CONTENT),
            resume_unmarked=True,
            report=lambda done, total: None,
        )
        assert file.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server: Server) -> None:
    server.cut_after, server.ranges = [1_000_000], False
    assert download(entry(server.url)).read_bytes() == CONTENT
    assert [span for _, span, _ in server.asked] == [None, "bytes=1000000-"]


def test_pieces_of_two_versions_are_not_joined(server: Server) -> None:
    weights = entry(server.url, sha256="")
    server.cut_after, server.content = [1_000_000] + [1] * 3, CONTENT[::-1]
    refused(weights, "was cut")
    server.content, server.headers = CONTENT, {"ETag": '"two"'}
    assert download(weights).read_bytes() == CONTENT


def test_without_tag_and_checksum_nothing_is_resumed(server: Server) -> None:
    server.cut_after, server.headers = [1_000_000], {"ETag": 'W/"weak"'}
    assert download(entry(server.url, sha256="")).read_bytes() == CONTENT
    assert [span for _, span, _ in server.asked] == [None, None]


def test_a_date_marks_a_version_too(server: Server) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.cut_after, server.headers = [1_000_000], {"Last-Modified": date}
    assert download(entry(server.url, sha256="")).read_bytes() == CONTENT
    assert server.asked[1] == (PATH, "bytes=1000000-", date)


def test_a_download_that_was_whole_already_is_only_checked(server: Server) -> None:
    weights = entry(server.url)
    part(weights).parent.mkdir(parents=True)
    part(weights).write_bytes(CONTENT)
    assert download(weights).read_bytes() == CONTENT
    assert server.sent == 0


def test_a_wrong_file_is_removed(server: Server) -> None:
    weights = entry(server.url)
    server.content = CONTENT[:-1] + b"\0"
    wrong = hashlib.sha256(server.content).hexdigest()[:8]
    refused(weights, f"the downloaded file has SHA-256 {wrong} instead of {SHA256[:8]}")
    assert left(weights) == []
    server.content = CONTENT
    assert download(weights).read_bytes() == CONTENT


def test_what_the_server_states_is_checked_where_nothing_is_known(server: Server) -> None:
    weights = entry(server.url, sha256="")
    server.headers = {"X-Linked-Etag": f'"{"0" * 64}"'}
    refused(weights, f"the downloaded file has SHA-256 {SHA256} instead of {'0' * 64}")
    assert left(weights) == []
    server.headers = {"X-Linked-Etag": f'"{SHA256}"'}
    assert download(weights).read_bytes() == CONTENT


def test_a_redirect_is_followed_and_its_checksum_is_kept(server: Server) -> None:
    """As the Hugging Face Hub answers: the checksum comes with the redirect only."""
    weights = entry(server.url, sha256="")
    server.redirected = {PATH: "/cdn"}
    server.content, server.cut_after = CONTENT[::-1], [1_000_000]
    refused(weights, f"instead of {SHA256}")
    server.content, server.cut_after = CONTENT, [1_000_000]
    assert download(weights).read_bytes() == CONTENT
    assert server.asked[-2:] == [(path, "bytes=1000000-", '"one"') for path in (PATH, "/cdn")]


@pytest.mark.parametrize("length", [True, False])
def test_a_file_that_is_too_large_is_not_taken(server: Server, length: bool) -> None:
    weights = entry(server.url)
    server.content, server.length = CONTENT * 8, length
    most = weights.size_range[1]
    refused(weights, f"127.0.0.1 sends more than the {most:,} bytes expected at most")
    assert left(weights) == []
    assert not length or server.sent < 8 * len(CONTENT)


def test_a_short_answer_without_a_length_is_noticed(server: Server) -> None:
    weights = entry(server.url, sha256="")
    server.content, server.length = CONTENT[:2_000_000], False
    refused(
        weights, r"the downloaded file has 2,000,000 bytes; 2,\d+,\d+ to 3,\d+,\d+ are expected"
    )
    assert left(weights) == []


def test_what_is_not_there_is_asked_for_once(server: Server) -> None:
    server.statuses = [404]
    refused(entry(server.url), rf"{server.url}{PATH} was not found \(HTTP status 404\)")
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.statuses = [503, 429]
    assert download(entry(server.url)).read_bytes() == CONTENT
    server.statuses = [500] * 9
    refused(replace(entry(server.url), name="timm/other.x"), r"is unavailable \(HTTP status 500")


def test_no_network(server: Server) -> None:
    refused(entry("http://127.0.0.1:1"), "torchvision/squeezenet1_0.*: 127.0.0.1 cannot be reached")
    refused(entry("http://weights.invalid"), "weights.invalid cannot be reached")
    refused(entry(server.url.replace("http:", "https:")), "no secure connection to 127.0.0.1")


def test_a_silent_server_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "READ_S", 0.05)
    server.bytes_per_s = 20_000 / 0.4
    refused(entry(server.url), "127.0.0.1 did not answer within 0.05 s")


def test_a_trickle_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SLOWEST_OVER_S", 0.1)
    monkeypatch.setattr(fetch, "SLOWEST_BYTES_PER_S", 10_000_000)
    server.bytes_per_s = 500_000
    refused(entry(server.url), "127.0.0.1 sends less than 10,000,000 bytes per second")


def test_offline_uses_what_was_put_there_and_checks_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = entry(server.url)
    monkeypatch.setenv("MOBILETTE_OFFLINE", "1")
    refused(weights, "is not in the cache and MOBILETTE_OFFLINE is set; by hand: save http")
    assert not cached_path(weights).parent.exists()
    cached_path(weights).parent.mkdir(parents=True)
    cached_path(weights).write_bytes(CONTENT[::-1])
    refused(weights, rf"{weights.filename}: has SHA-256 \w{{8}} instead of .*; remove it to fetch")
    cached_path(weights).write_bytes(b"<html>Sign in to download</html>")
    refused(weights, "has 32 bytes; 2,.* are expected")
    cached_path(weights).write_bytes(CONTENT)
    assert download(weights) == cached_path(weights)
    assert server.asked == []


def test_a_mirror_is_asked_for_the_same_path(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = replace(entry("https://weights.invalid"))
    monkeypatch.setenv("MOBILETTE_WEIGHTS_MIRROR", server.url + "/copy/")
    assert download(weights).read_bytes() == CONTENT
    assert server.asked == [("/copy" + PATH, None, None)]
    monkeypatch.setenv("MOBILETTE_WEIGHTS_MIRROR", "localhost:80")
    with pytest.raises(
        InputError, match="MOBILETTE_WEIGHTS_MIRROR 'localhost:80' is not an address"
    ):
        download(replace(weights, name="timm/other.x"))


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        download(entry(server.url))
    assert server.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_leaves_nothing(server: Server) -> None:
    weights = entry(server.url)
    part(weights).parent.mkdir(parents=True)
    part(weights).symlink_to("/dev/full")
    refused(weights, r"\.part: cannot be written \(no space left on device\)")
    assert left(weights) == []


SCRIPT = """
import resource, sys
from dataclasses import replace
from mobilette.errors import InputError
from mobilette.formats.download import download
from mobilette.formats.published import find_published
url, sha256, size, largest = sys.argv[1:]
known = find_published("torchvision/squeezenet1_0.IMAGENET1K_V1")
weights = replace(known, url=url, sha256=sha256, size_bytes=int(size))
if int(largest):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
try:
    print(download(weights), flush=True)
except InputError as error:
    sys.exit(str(error))
"""


def another_process(server: Server, *, largest: int = 0) -> subprocess.Popen[str]:
    arguments = [server.url + PATH, SHA256[:8], str(len(CONTENT)), str(largest)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_file_that_the_system_will_not_let_grow_leaves_nothing(server: Server) -> None:
    output, errors = (process := another_process(server, largest=1_000_000)).communicate(
        timeout=HANGS
    )
    assert (process.returncode, output) == (1, "")
    assert os.strerror(errno.EFBIG).lower() in errors
    assert "Traceback" not in errors
    assert left(entry(server.url)) == []


def test_a_killed_download_is_resumed(server: Server) -> None:
    weights = entry(server.url)
    server.bytes_per_s = 1_000_000
    process = another_process(server)
    wait_until(lambda: part(weights).exists() and part(weights).stat().st_size > 500_000)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=HANGS)
    came = part(weights).stat().st_size
    assert 500_000 < came < len(CONTENT)
    server.bytes_per_s = 0.0
    assert download(weights).read_bytes() == CONTENT
    assert server.asked[-1] == (PATH, f"bytes={came}-", '"one"')
    assert left(weights) == [weights.filename]


def test_processes_at_once_fetch_it_once(server: Server) -> None:
    server.bytes_per_s = 2_000_000
    processes = [another_process(server) for _ in range(3)]
    for process in processes:
        output, errors = process.communicate(timeout=HANGS)
        assert (process.returncode, errors) == (0, "")
        assert Path(output.strip()).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_one_that_waits_for_a_stopped_process_gives_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = entry(server.url)
    server.bytes_per_s = 500_000
    process = another_process(server)
    wait_until(part(weights).exists)
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("mobilette.formats.download.STALLED_S", 0.3)
    try:
        with pytest.raises(InputError, match="another process is downloading it, without progress"):
            download(weights)
    finally:
        process.kill()
        process.communicate(timeout=HANGS)


def wait_until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/mobilette/weights"),
        ("linux", {}, "/home/me/.cache/mobilette/weights"),
        ("darwin", {}, "/home/me/Library/Caches/mobilette/weights"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/mobilette/weights"),
        ("win32", {"MOBILETTE_CACHE": "~/mine"}, "/home/me/mine/weights"),
    ],
)
def test_the_cache_is_where_the_system_keeps_caches(
    platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOBILETTE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert weights_cache().as_posix() == expected
