"""A user whom the system does not know, without a home directory: as in `docker run -u 1234`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MAIN = "from mobilette.cli.main import main; main()"
UNKNOWN = 61234  # in no list of users
BECOME = ("setpriv", f"--reuid={UNKNOWN}", f"--regid={UNKNOWN}", "--clear-groups")
OPTIONS = ("--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16", "--epochs=1")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root can become another user, with setpriv",
)


def nobody(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user without name and home."""
    return become(sys.executable, "-c", MAIN, *map(str, arguments), cwd=cwd, **environment)


def become(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [*BECOME, *command],
        env=kept | {"MOBILETTE_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def place(images: Path) -> Iterator[Path]:
    """Make a folder that the user may write, with images in it; skip where there is none."""
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to others
        folder = Path(made)
        shutil.copytree(images, folder / "images")
        for path in (folder, *folder.rglob("*")):  # whatever the umask here
            os.chown(path, UNKNOWN, UNKNOWN)
        for reason, tried in (
            ("run this Python", nobody("--version", cwd=folder)),
            ("reach the temporary folder", become("ls", str(folder / "images"), cwd=folder)),
        ):
            if tried.returncode:
                pytest.skip(f"another user cannot {reason}: {tried.stderr.strip()[-200:]}")
        yield folder


def test_without_home_it_goes_on_without_the_cache_and_says_so(place: Path) -> None:
    done = nobody("train", "images", "--out=run", "--workers=2", *OPTIONS, cwd=place)
    assert done.returncode == 0, done.stderr
    said = "decoded images are not cached: no home directory; MOBILETTE_CACHE can"
    assert done.stderr.count(said) == 1
    for verb in (
        ("evaluate", "run", "images"),
        ("export", "run", "--out=exports", "--to=onnx,openvino"),
        ("weights", "list", "--json"),
        ("weights", "list"),
    ):
        done = nobody(*verb, cwd=place)
        assert done.returncode == 0, (verb, done.stderr)
        assert "Traceback" not in done.stderr
    found = json.loads(nobody("doctor", "--json", cwd=place).stdout)
    assert found["pictures"] == {"folder": None, "sets": 0, "bytes": 0}
    assert "no: no home directory" in found["fused_norms"]
    weights = "--from=timm/mobilenetv2_100.ra_in1k"
    for wanted in (("doctor", "--clean"), ("train", "images", weights, "--out=other")):
        done = nobody(*wanted, cwd=place)
        assert done.returncode == 2
        assert "no home directory" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": "/proc"},
        {"MOBILETTE_CACHE": "~/cache"},
    ],
    ids=str,
)
def test_a_cache_that_cannot_be_written_is_said(environment: dict[str, str], place: Path) -> None:
    done = nobody("train", "images", "--out=run", "--workers=0", *OPTIONS, cwd=place, **environment)
    assert done.returncode == 0, done.stderr
    assert "decoded images are not cached: " in done.stderr
    assert "Traceback" not in done.stderr
