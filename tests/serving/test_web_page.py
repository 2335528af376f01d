"""A web artifact's own page, served with its engine and with headers that let it use threads."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from mobilette.artifact.directory import CONTRACT, GOLDEN, LABELS, Artifact
from mobilette.artifact.web_runtime import RUNTIME
from mobilette.engines.onnxruntime_web import find_runtime
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.workflows.export import export
from tests.serving.servers import running
from tests.serving.test_process import posix, until

try:
    find_runtime()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def web(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="web", out=tmp_path_factory.mktemp("web"))


def test_its_files_are_served_and_no_others(web: Artifact, red: bytes) -> None:
    with running(web.path) as server:
        names = {web.contract.model, *web.contract.parts, LABELS, GOLDEN}
        for name in names - {RUNTIME}:  # that one tells where the engine is
            assert server.get(f"/{name}").content == (web.path / name).read_bytes()
        public = server.get(f"/{CONTRACT}")
        assert public.text == web.contract.published().to_text()
        assert public.json()["source"]["run"] == "" != web.contract.source.run
        page = server.get("/")
        assert page.text == (web.path / "index.html").read_text(encoding="utf-8")
        assert page.headers["Content-Type"].startswith("text/html")
        assert "javascript" in server.get("/mobilette.js").headers["Content-Type"]
        for name in ("README.md", "mobilette.js/..%2fREADME.md", "%2e%2e/onnx/model.onnx"):
            assert server.get(f"/{name}").status_code == 404
        answer = server.post(content=red, headers={"Content-Type": "image/png"}).json()
        assert answer["answers"][0]["label"] == "red"


def test_with_a_token_the_model_is_not_given_away(web: Artifact) -> None:
    with running(web.path, token="secret") as server:
        assert 'id="token"' in server.get("/").text
        assert server.get(f"/{web.contract.model}").status_code == 404


@posix
def test_a_reload_brings_other_files(web: Artifact, artifact_copy: Path) -> None:
    """A web artifact in the place of another: its files are there without a new start."""
    with running(artifact_copy) as server:
        assert server.get("/mobilette.js").status_code == 404
        own = server.get("/").text
        shutil.rmtree(artifact_copy)
        shutil.copytree(web.path, artifact_copy)
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: "reloaded" in server.said())
        for path, name in (("/", "index.html"), ("/mobilette.js",) * 2, ("/golden.js",) * 2):
            text = (web.path / name.removeprefix("/")).read_text(encoding="utf-8")
            assert server.get(path).text == text != own
        assert server.client.head("/mobilette.js").status_code == 200
        assert server.post("/mobilette.js").status_code == 404
