"""Clients that open many connections, or do not read what they asked for."""

from __future__ import annotations

import re
import select
import socket
import sys

import pytest

from mobilette.artifact.directory import Artifact
from mobilette.errors import InputError
from mobilette.serving.middleware import in_parts
from mobilette.serving.server import connections_within
from tests.serving.servers import running
from tests.serving.test_process import until
from tests.serving.test_refusals import connected, read_from

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
SECONDS = 60_000  # milliseconds: machines stall


def is_open(link: socket.socket) -> bool:
    """Whether an idle connection is: one that the server has closed has its end to read."""
    return not select.select([link], [], [], 0)[0]


@posix
def test_connections_beyond_the_limit_are_closed(exported: Artifact) -> None:
    """Of 120 that do nothing, those that are counted stay, and who was there first is answered."""
    few = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (100, 100))"
    with running(exported.path, "--max-seconds=60", python=few) as server:
        assert server.get("/v1/model").json()["limits"]["connections"] == 36
        server.client.close()
        first = connected(server)
        idle = [connected(server) for _ in range(120)]
        for _ in range(2):
            first.sendall(GET % b"/healthz")
            assert b" 200 " in read_from(first).splitlines()[0]
        waiting = select.poll()
        for link in idle[40:]:
            waiting.register(link, select.POLLIN)
            assert waiting.poll(SECONDS)
            waiting.unregister(link)
        assert 30 <= sum(map(is_open, idle)) <= 35
        for link in (first, *idle):
            link.close()
        assert server.end() == 0
        assert server.said() == "answered 3 of 3 requests\n"


@posix
def test_too_few_files_for_any_connection_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(InputError, match="may open 64 files.*'ulimit -n 1024' allows more"):
        connections_within(512)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere open files are not counted")
def test_who_does_not_read_an_answer_loses_the_connection(exported: Artifact) -> None:
    with running(exported.path, "--max-seconds=1") as server:

        def files() -> str:
            found = re.search("^process_open_fds (.+)$", server.get("/metrics").text, re.MULTILINE)
            assert found is not None
            return found[1]

        before = (files(), files())[1]
        with connected(server) as link:
            link.sendall((GET % b"/openapi.json") * 1000)  # the answers fill all buffers on the way
            until(lambda: files() != before)
            until(lambda: files() == before)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("size", [0, 2**16, 2**16 + 1, 2**18])
def test_a_large_answer_is_sent_in_parts(size: int, more: bool) -> None:
    """The time to read is for each of them: a slow reader gets all of a large answer."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    parts = list(in_parts({"type": "http.response.body", "body": body, "more_body": more}))
    assert b"".join(each["body"] for each in parts) == body
    assert all(len(each["body"]) <= 2**16 for each in parts)
    assert [each["more_body"] for each in parts] == [True] * (len(parts) - 1) + [more]
