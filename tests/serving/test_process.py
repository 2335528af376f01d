"""The process: how it starts, is refused, reloads and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from mobilette.artifact.directory import Artifact
from mobilette.cli.serve import parse_window
from mobilette.errors import InputError
from mobilette.serving.server import listening
from mobilette.serving.settings import Limits
from tests.cli.test_cli import assert_refused, in_this_process
from tests.serving.conftest import WILD
from tests.serving.servers import running

Capture = pytest.CaptureFixture[str]
DEPLOY = Path(__file__).parents[2] / "deploy"
PNG = {"Content-Type": "image/png"}
posix = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def test_a_damaged_artifact_is_refused(artifact_copy: Path, capsys: Capture) -> None:
    model = artifact_copy / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    result = in_this_process(capsys, "serve", artifact_copy, "--port=0")
    assert_refused(result, "model.onnx", "changed since the export")


def test_answers_are_not_delayed_by_nagles_algorithm() -> None:
    """Asyncio turns it off for sockets that say they are TCP's, such as those accepted here."""
    with listening("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_port_in_use_is_one_line(exported: Artifact, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = in_this_process(capsys, "serve", exported.path, f"--port={port}")
        assert_refused(result, f"port {port} of 127.0.0.1: Address already in use", "--port 0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{a}", "{a}"], "of several artifacts each needs a name"),
        (["a={a}", "a={a}"], "two artifacts of this name"),
        (["a/b={a}"], "'a/b' is no name"),
        (["x={a}nothing"], "no such folder"),
        (["{a}", "--token=a b"], "the token is not"),
        (["{a}", "--max-files=9", "--queue=8"], "--max-files 9 never fit into --queue 8"),
        (["{a}", "--host=999.999.999.999"], "127.0.0.1 is this machine"),
    ],
)
def test_wrong_requests(
    exported: Artifact, capsys: Capture, arguments: list[str], said: str
) -> None:
    given = [each.format(a=exported.path) for each in arguments]
    result = in_this_process(capsys, "serve", "--port=0", *given)
    assert_refused(result, said)
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_package_names_the_extra(
    exported: Artifact, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = in_this_process(capsys, "serve", exported.path, "--port=0")
    assert_refused(result, "pip install 'mobilette[serve]'")


@pytest.mark.parametrize(("text", "seconds"), [("2ms", 0.002), ("500us", 0.0005), ("0s", 0.0)])
def test_windows(text: str, seconds: float) -> None:
    assert parse_window(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["2", "2m", "1.1s", "-1ms", "nan"])
def test_no_windows(text: str) -> None:
    with pytest.raises(InputError, match="is not a time up to 1s, such as 2ms"):
        parse_window(text)


def test_it_needs_no_torch(exported: Artifact, red: bytes) -> None:
    without = "import sys; sys.modules['torch'] = None"
    with running(exported.path, python=without) as server:
        assert server.post(content=red, headers=PNG).status_code == 200


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_every_request_answered(
    exported: Artifact, red: bytes, number: signal.Signals
) -> None:
    """Clients go on asking until they find nobody; what was accepted has been answered."""
    with running(exported.path) as server:

        def ask() -> tuple[int, int]:
            """Return how many requests were answered with 200, and how many otherwise."""
            good = other = 0
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while True:
                    try:
                        response = client.post("/v1/predict", content=red, headers=PNG)
                    except httpx.TransportError:
                        return good, other
                    good += response.status_code == 200
                    other += response.status_code != 200

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            asked = 0
            while 'route="/v1/predict",status="200"} 2' not in server.get("/metrics").text:
                asked += 1
            os.kill(server.process.pid, number)
            assert server.process.wait(timeout=60) == 0
            results = [each.result() for each in asking]
        assert sum(each[1] for each in results) == 0
        last = server.said().splitlines()[-1]
        answered, accepted = (int(each.replace(",", "")) for each in last.split()[1:4:2])
        assert answered == accepted == sum(each[0] for each in results) + asked + 1


BROKEN = """
from mobilette.engines.artifact import ArtifactPredictor as Predictor
logits = Predictor.batch_logits
def broken(self, images):
    if images.any():
        raise RuntimeError("/a/secret/place:\\nno memory")
    return logits(self, images)
Predictor.batch_logits = broken
"""


def test_an_engine_that_fails_is_an_answer_and_is_counted(exported: Artifact, red: bytes) -> None:
    with running(exported.path, python=BROKEN) as server:
        response = server.post(content=red, headers=PNG)
        assert response.status_code == 500
        assert response.json()["error"].startswith("the server failed (RuntimeError)")
        assert "secret" not in response.text
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert 'route="/v1/predict",status="500"} 1.0' in server.get("/metrics").text
        assert r"POST /v1/predict: RuntimeError: /a/secret/place:\nno memory" in server.said()
        assert server.end() == 0
        assert server.said().endswith("answered 2 of 2 requests\n")


def test_labels_that_steer_a_terminal_are_escaped(wild: Artifact) -> None:
    with running(f"wild={wild.path}") as server:
        classes = server.get("/v1/model").json()["classes"]
        assert tuple(each["name"] for each in classes) == WILD
        assert b"\x1b" not in server.get("/v1/model").content


def test_the_containers_files_fit_together() -> None:
    """What can be checked without Docker: names, ports, the limits' defaults, files that exist."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    nginx = (DEPLOY / "nginx.conf").read_text()
    assert (DEPLOY / compose["mobilette"]["build"]["context"] / "pyproject.toml").exists()
    assert (
        (DEPLOY / compose["mobilette"]["build"]["context"])
        .joinpath(compose["mobilette"]["build"]["dockerfile"])
        .exists()
    )
    assert (DEPLOY / compose["nginx"]["volumes"][0].split(":")[0]).exists()
    assert compose["nginx"]["ports"][0].endswith(re.findall(r"listen (\d+);", nginx)[0])
    assert re.findall(r"server (\S+) resolve", nginx) == ["mobilette:8000"]
    assert "--port=8000" in dockerfile
    assert f"client_max_body_size {Limits().mebibytes}m;" in nginx
    assert f"client_body_timeout {Limits().seconds:g}s;" in nginx
    assert "location ^~ /metrics {" in nginx  # with whatever follows, such as %0a
    copied = {
        name for line in re.findall("^COPY (.+)", dockerfile, re.M) for name in line.split()[:-1]
    }
    ignored = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(ignored)
    assert all((DEPLOY.parent / name).exists() for name in copied)
    installed = set(re.findall(r"^    ([a-z -]+?)(?: \\)?$", dockerfile, re.M))
    extra = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    needed = {name.split(">=")[0] for name in extra["optional-dependencies"]["serve"]}
    assert needed <= {name for line in installed for name in line.split()}
