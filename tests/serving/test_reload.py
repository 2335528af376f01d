"""SIGHUP: other versions of the artifacts, without a lost request."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx

from mobilette.artifact.directory import Artifact, copy_artifact
from tests.serving.servers import running
from tests.serving.test_process import PNG, posix, until

pytestmark = posix


def test_it_is_reloaded_without_a_lost_request(
    exported: Artifact, red: bytes, tmp_path: Path
) -> None:
    """Requests go on while the artifact is replaced by one with another temperature."""
    place = Path(shutil.copytree(exported.path, tmp_path / "served"))
    (tmp_path / "next").mkdir()
    contract = replace(exported.contract, temperature=7.5)
    copy_artifact(exported, tmp_path / "next", contract=contract, readme="other")
    with running(f"m={place}") as server:
        stop = threading.Event()

        def ask() -> list[int]:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                found = []
                while not stop.is_set():
                    found.append(client.post("/v1/predict", content=red, headers=PNG).status_code)
                return found

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            before = server.get("/v1/model").json()
            (place / "labels.txt").write_text("damaged")
            os.kill(server.process.pid, signal.SIGHUP)
            until(lambda: "not reloaded" in server.said())
            assert server.get("/v1/model").json() == before
            shutil.rmtree(place)
            (tmp_path / "next").rename(place)
            os.kill(server.process.pid, signal.SIGHUP)
            until(lambda: server.get("/v1/model").json()["answering"]["temperature"] == 7.5)
            stop.set()
            statuses = [status for each in asking for status in each.result()]
        assert set(statuses) == {200}
        assert "reloaded m" in server.said()


# The first reload waits for a file beside the artifact, and each says when it begins and ends.
IN_TURN = """
import sys, time
from pathlib import Path
import mobilette.serving.service as service
opened, count = service.open_served, 0
def slow(places, *, work):
    global count
    count += 1
    number, beside = count, next(iter(places.values())).parent
    if number > 1:
        print("begin", file=sys.stderr, flush=True)
        while number == 2 and not (beside / "go").exists():
            time.sleep(0.01)
    found = opened(places, work=work)
    if number > 1:
        print("end", file=sys.stderr, flush=True)
    return found
service.open_served = slow
"""


def test_reloads_happen_in_turn(artifact_copy: Path) -> None:
    """Of two at once the older could end last, and stay."""
    with running(artifact_copy, python=IN_TURN) as server:
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: "begin" in server.said())
        os.kill(server.process.pid, signal.SIGHUP)
        for _ in range(20):  # while it would begin
            assert server.get("/healthz").status_code == 200
        (artifact_copy.parent / "go").touch()
        until(lambda: server.said().count("reloaded") == 2)
        said = [line for line in server.said().splitlines() if line in ("begin", "end")]
        assert said == ["begin", "end"] * 2


FAILING = """
import mobilette.serving.service as service
opened, count = service.open_served, 0
def failing(places, *, work):
    global count
    count += 1
    if count > 1:
        raise RuntimeError("no memory\\nleft")
    return opened(places, work=work)
service.open_served = failing
"""


def test_whatever_a_reload_raises_is_one_line(exported: Artifact, red: bytes) -> None:
    with running(exported.path, python=FAILING) as server:
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: "not reloaded" in server.said())
        assert server.said() == "not reloaded: RuntimeError: no memory\\nleft\n"
        assert server.post(content=red, headers=PNG).status_code == 200
