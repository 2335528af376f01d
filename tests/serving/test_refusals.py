"""Bad requests: a status and one line that says what is wrong and what would be right."""

from __future__ import annotations

import base64
import re
import select
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from tests.serving.conftest import encoded
from tests.serving.servers import Running, running

PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def png(width: int, height: int, *others: bytes) -> bytes:
    """Return a PNG that declares a size and has next to nothing of it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(others) + body + chunk(b"IEND", b"")


def assert_refused(response: httpx.Response, status: int, *parts: str) -> None:
    value = response.json()
    assert response.status_code == status, value
    assert "\n" not in value["error"]
    for part in parts:
        assert part in value["error"]


BOMB = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
IMAGES = {
    "text": (b"no image", 415, "not an image"),
    "web page": (b"<!doctype html><html>", 415, "not an image (HTML, a web page)"),
    "an icon": (b"\0\0\1\0" + bytes(60), 415, "ICO is not decoded here; convert it to PNG"),
    "nothing": (b"", 422, "empty file (0 bytes)"),
    "truncated": (encoded(Image.effect_noise((50, 50), 9))[:800], 422, "truncated"),
    "50,000 x 50,000": (png(50_000, 50_000), 413, "too many pixels (the limit is 4,000,000)"),
    "just too large": (png(2001, 2000), 413, "too many pixels (the limit is 4,000,000)"),
    "a bomb": (png(40, 40, BOMB), 422, "truncated"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_bad_images(server: Running, name: str) -> None:
    content, status, said = IMAGES[name]
    alone = server.post(content=content, headers=PNG)
    assert_refused(alone, status, said)
    assert said in alone.json()["answers"][0]["error"]
    if content:
        assert_refused(server.post(files={"file": ("name", content)}), status, said)


def test_images_that_are_bad_in_different_ways(server: Running) -> None:
    response = server.post(files=[("file", b"text"), ("file", IMAGES["truncated"][0])])
    assert_refused(response, 422, "not an image")
    assert len(response.json()["answers"]) == 2


def test_a_bomb_in_a_chunk_is_left_out(server: Running, red: bytes) -> None:
    head = 8 + 25
    response = server.post(content=red[:head] + BOMB + red[head:], headers=PNG)
    assert response.json()["answers"][0]["label"] == "red"


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no JSON": (
        {"content": b"{", "headers": JSON},
        422,
        "not JSON",
    ),
    "deep JSON": (
        {"content": b"[" * 100_000, "headers": JSON},
        422,
        'expected {"image": "..."}',
    ),
    "wide JSON, not parsed": (
        {"content": b"[{},{},{}", "headers": JSON},
        422,
        'expected {"image": "..."}',
    ),
    "many images in JSON, not parsed": (
        {"content": b'{"images": [""' + b',""' * 99, "headers": JSON},
        413,
        "more images than 4",
    ),
    "a list": ({"json": []}, 422, 'expected {"image": "..."}'),
    "another key": ({"json": {"image": "", "top": 1}}, 422, 'expected {"image": "..."}'),
    "no images": ({"json": {"images": []}}, 422, 'expected {"image": "..."}'),
    "a number": ({"json": {"images": [1]}}, 422, "image 1 is no base64"),
    "an address": ({"json": {"image": "data:image/png;base64,AA=="}}, 422, "image 1 is no base64"),
    "too many in JSON": ({"json": {"images": [text_of(b"a")] * 5}}, 413, "more images than 4"),
    "too many in a form": ({"files": [("file", b"a")] * 5}, 413, "more images than 4"),
    "another part": ({"files": {"picture": b"a"}}, 422, "named 'picture'; name the parts"),
    "no boundary": (
        {"content": b"a", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "without a boundary",
    ),
    "a form cut short": (
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc',
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
        400,
        "cut short",
    ),
    "an empty form": (
        {"content": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        422,
        "without a part named 'file'",
    ),
    "no form": (
        {"content": b"abc", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400,
        "not a form",
    ),
    "a wrong type": (
        {"content": b"a", "headers": {"Content-Type": "text/\u00e9".encode()}},
        415,
        "send an image's bytes as image/*",
    ),
    "too many bytes": ({"content": bytes(2**20 + 1), "headers": PNG}, 413, "the limit is 1 MiB"),
    "too many bytes in pieces": (
        {"content": iter([bytes(2**19)] * 3), "headers": PNG},
        413,
        "the limit is 1 MiB",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_bodies(server: Running, name: str) -> None:
    how, status, said = BODIES[name]
    before = server.said()
    assert_refused(server.post(**how), status, said)
    assert server.said() == before  # who sends many of them fills no log


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/predict?top=0", 422, "top '0': "),
        ("/v1/predict?top=x%1b[2J", 422, r"top 'x\x1b[2J': "),
        ("/v1/predict?model=colour", 404, "did you mean 'colours'?"),
        ("/v1/models/..%2f..%2fetc/predict", 404, "Not Found"),
        ("/v1/models/" + "x" * 3000 + "/predict", 404, "is not one of colours, wild"),
        ("/v2/predict", 404, "Not Found"),
    ],
)
def test_bad_addresses(server: Running, red: bytes, path: str, status: int, said: str) -> None:
    assert_refused(server.post(path, content=red, headers=PNG), status, said)


@pytest.mark.parametrize("path", ["/metrics%0a", "/healthz%0A"])
def test_no_address_has_control_characters(server: Running, path: str) -> None:
    """A proxy that hides /metrics would let its address with a line feed through."""
    assert_refused(server.get(path), 404, "Not Found")


def test_a_gigabyte_is_refused_unread(server: Running) -> None:
    """Its sender learns it before it has sent anything but the head."""
    with connected(server) as link:
        link.sendall(head("image/png", 2**30))
        answer = read_from(link)
    assert b" 413 " in answer.splitlines()[0]
    assert b"1,073,741,824 bytes or more; the limit is 1 MiB" in answer


@pytest.mark.parametrize("chunked", [True, False])
def test_a_gigabyte_that_is_sent_is_stopped_at_the_limit(server: Running, chunked: bool) -> None:
    """Its sender looks for an answer as it sends, as curl does."""
    piece, before = bytes(2**18), memory(server)
    begin = head("image/png", 2**30)
    if chunked:
        begin = begin.replace(b"Content-Length: 1073741824", b"Transfer-Encoding: chunked")
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)
    with connected(server) as link:
        link.sendall(begin)
        sent = 0
        while not select.select([link], [], [], 0.01 if sent > 2**21 else 0)[0]:
            link.sendall(piece)
            sent += len(piece)
            assert sent < 2**25, "a 32nd of the gigabyte was taken"
        assert b" 413 " in read_from(link).splitlines()[0]
    assert memory(server) - before < 2**23


def memory(server: Running) -> float:
    """Return the bytes that the server says it has in memory."""
    text = server.get("/metrics").text
    found = re.search(r"^process_resident_memory_bytes (.+)$", text, re.MULTILINE)
    if found is None:
        pytest.skip("prometheus-client knows no process here")
    return float(found[1])


def connected(server: Running) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), timeout=60)


def read_from(link: socket.socket) -> bytes:
    """Return an answer in JSON."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += (more := link.recv(65536))
        assert more, answer
    return answer


def head(kind: str, length: int) -> bytes:
    lines = ("POST /v1/predict HTTP/1.1", "Host: x", f"Content-Type: {kind}")
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()


# With a token, with little time, and with a queue of one


@pytest.fixture(scope="module")
def strict(exported: Artifact) -> Iterator[Running]:
    options = ("--queue=1", "--max-files=1", "--max-seconds=1.5", "--max-megapixels=20")
    with running(exported.path, *options, token="secret") as found:
        found.client.headers["Authorization"] = "Bearer secret"
        yield found


@pytest.mark.parametrize("given", ["", "Bearer wrong", "Bearer", "Basic secret", "Bearer s\u00e9"])
def test_only_the_token_opens(strict: Running, red: bytes, given: str) -> None:
    headers = {b"Content-Type": b"image/png", b"Authorization": given.encode()}
    for response in (
        strict.client.post("/v1/predict", content=red, headers=headers),
        strict.client.get("/v1/model", headers=headers),
        strict.client.get("/metrics", headers=headers),
    ):
        assert_refused(response, 401, "the token is missing or wrong")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert strict.client.get("/readyz", headers=headers).status_code == 200
    assert strict.post(content=red, headers=PNG).status_code == 200


def test_a_body_that_takes_too_long(strict: Running) -> None:
    with connected(strict) as link:
        secret = b"Authorization: Bearer secret\r\n\r\n"
        link.sendall(head("image/png", 1000)[:-2] + secret + bytes(10))
        answer = read_from(link)
        assert b" 408 " in answer.splitlines()[0]
        assert b"the body did not arrive within 1.5 seconds" in answer


def test_a_head_that_takes_too_long_ends_the_connection(strict: Running) -> None:
    for part in (b"", b"POST /v1/pre"):
        with connected(strict) as link:
            link.sendall(part)
            assert link.recv(65536) == b""


def test_no_http(strict: Running) -> None:
    with connected(strict) as link:
        link.sendall(b"\x16\x03\x01\0\0\r\n\r\n")
        assert b" 400 " in link.recv(65536).splitlines()[0]


def test_too_much_to_do_is_refused_at_once(strict: Running) -> None:
    """While an image of 19 megapixels in few bytes is decoded, others are refused."""
    large = encoded(Image.new("RGB", (4400, 4400)))
    begin = threading.Barrier(6)

    def ask() -> httpx.Response:
        begin.wait()
        return httpx.post(
            f"{strict.url}/v1/predict",
            content=large,
            headers={**PNG, "Authorization": "Bearer secret"},
            timeout=60,
        )

    with ThreadPoolExecutor(6) as pool:
        responses = [future.result() for future in [pool.submit(ask) for _ in range(6)]]
    statuses = [response.status_code for response in responses]
    assert set(statuses) <= {200, 503}
    refused = [response for response in responses if response.status_code == 503]
    assert refused
    for response in refused:
        assert response.headers["Retry-After"] == "1"
        assert "try again in a second" in response.json()["error"]
    assert strict.get("/readyz").status_code == 200


def test_heic_without_its_plugin_is_said(exported: Artifact) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    without = "import sys; sys.modules['pillow_heif'] = None"
    with running(exported.path, python=without) as server:
        response = server.post(content=heic, headers={"Content-Type": "image/heic"})
        assert_refused(response, 415, "pip install 'mobilette[heic]'")
