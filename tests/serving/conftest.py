"""Servers that several tests share, of artifacts made once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from mobilette import create_model
from mobilette.artifact.directory import Artifact
from mobilette.workflows.export import export
from tests.serving.servers import Running, running

# Of the extra; `make engines` brings it.
collect_ignore_glob = [] if find_spec("fastapi") else ["test_*.py"]

WILD = ("<img src=x onerror=alert(1)>", "\x1b[2J red", "=1+1")


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Return an artifact of random weights, whose classes have difficult names."""
    network = create_model("resnet8", num_classes=len(WILD), resolution=32)
    return export(network, classes=WILD, out=tmp_path_factory.mktemp("wild"))


@pytest.fixture(scope="session")
def server(exported: Artifact, wild: Artifact) -> Iterator[Running]:
    """Return a server of two artifacts, with low limits."""
    limits = ("--max-megabytes=1", "--max-megapixels=4", "--max-files=4")
    with running(f"colours={exported.path}", f"wild={wild.path}", *limits) as found:
        yield found


@pytest.fixture
def red(images: Path) -> bytes:
    return (images / "red" / "0.png").read_bytes()
