"""The first hour, word by word: its commands and its Python are run as they are printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from mobilette.artifact.web_runtime import PACKAGE, VERSION, find_package
from mobilette.engines.load import load
from mobilette.engines.onnxruntime_web import find_node
from mobilette.errors import InputError
from tests.browser import chromium, free_port, opened
from tests.docs.commands import ROOT

PAGE = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
INSTALLED = PAGE.index("## 2.")
SERVER = "python -m http.server 8000"

try:
    find_node()
    find_package(PACKAGE, VERSION, artifact=Path(__file__))
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)


def commands(text: str) -> list[str]:
    """Return the commands of a page: lines indented by four spaces, outside of fences."""
    return re.findall(r"^ {4}(\S.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)


def test_what_is_installed_is_what_make_installs() -> None:
    install = commands(PAGE[:INSTALLED])
    readme = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(install[:2]) <= set(readme)
    assert install[2].endswith(f"--prefix .venv/node {PACKAGE}@{VERSION}")
    assert f"{PACKAGE}@{VERSION}" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_the_first_hour(tmp_path: Path) -> None:
    for name in ("python", "mobilette"):
        words = [sys.executable, *(["-m", "mobilette"] if name == "mobilette" else [])]
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
    }
    here = tmp_path / "empty folder"
    here.mkdir()
    for name, code in re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.S):
        (here / name).write_text(code)
    *before, server = commands(PAGE[INSTALLED:])
    assert len(before) == 7
    for command in before:
        done = subprocess.run(
            command, shell=True, cwd=here, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert "verify: passed" in done.stdout
    assert (here / "runs/shapes/report.html").is_file()
    assert server.startswith(SERVER)  # but for the port
    port = free_port()
    with subprocess.Popen(
        [*shlex.split(SERVER.replace("8000", str(port))), *shlex.split(server)[4:]],
        cwd=here,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            look(f"http://127.0.0.1:{port}/", here)
        finally:
            process.terminate()


def look(address: str, here: Path) -> None:
    """See the page as on a phone: it answers as `predict` does."""
    end = time.monotonic() + 60
    while True:
        try:
            urlopen(address).close()
            break
        except URLError:
            assert time.monotonic() < end
            time.sleep(0.1)
    image = here / "shapes/circle/0.png"
    expected = load(here / "runs/shapes").predict([image])[0]
    phone = {"width": 390, "height": 844}
    with chromium() as browser, opened(browser, viewport=phone, has_touch=True) as page:
        page.goto(address)
        page.locator("#status", has_text="Ready.").wait_for(timeout=60_000)
        page.set_input_files("#file", str(image))
        page.locator("#answer li").first.wait_for(timeout=60_000)
        assert page.inner_text("#label") == expected.label
        assert page.inner_text("#badge").startswith("Answers as the trained network: yes")
        page.goto("about:blank")
