"""Keras 3's own networks in its own format, through the command line; and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from mobilette.cli.main import run as run_command
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from tests.formats.keras_archive_models import NETWORKS, WRITTEN
from tests.formats.keras_process import made_by_keras

OURS = {
    "v1": "mobilenet_v1",
    "v2": "mobilenet_v2",
    "v3_small": "mobilenet_v3_small",
    "v3_large": "mobilenet_v3_large",
    "v3_small_minimalistic": "mobilenet_v3_small_minimalistic",
    "v3_large_minimalistic": "mobilenet_v3_large_minimalistic",
}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that Keras itself has built, saved and answered with, in a process of its own."""
    return made_by_keras("tests.formats.keras_archive_models", tmp_path_factory)


@pytest.mark.parametrize("name", NETWORKS)
def test_answers_as_keras_does(files: Path, name: str, tmp_path: Path) -> None:
    ours = OURS.get(name) or OURS[name[:2]]
    command = ["weights", "import", str(files / f"{name}.keras"), f"--as={ours}"]
    options = [f"--width-mult={NETWORKS[name][1]}", "--preprocess=raw", f"--out={tmp_path / 'run'}"]
    assert run_command([*command, *options]) == 0
    asked = np.load(files / f"{name}.npz")
    assert np.abs(asked["logits"][0] - asked["logits"][1]).max() > 0.01  # the images matter
    predictor = load(tmp_path / "run")
    logits = predictor.logits(asked["images"].astype(np.uint8).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(logits, asked["logits"], atol=1e-3)
    assert (predictor.preprocess.std == (127.5,) * 3) == name.startswith("v3")


REFUSED = {
    "efficientnet_v2": "layer 'stem_activation' has the unsupported activation 'silu'",
    "lambda": "layer 'lambda' is a Lambda: code, which is not executed",
    "registered": "layer 'blur' is a Blur, which is not supported",
    "function": "has the unsupported activation",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_in_one_line(
    files: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["weights", "import", str(files / f"{name}.keras"), "--as=mobilenet_v1"]
    assert run_command([*command, "--width-mult=0.25", "--preprocess=raw", f"--out={out}"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert REFUSED[name] in said.err
    assert said.err.count("\n") == 1
    assert not out.exists()
    assert not (files / WRITTEN).exists()  # what the lambda would write


def test_nothing_is_unpacked_from_an_archive(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "inner" / "model.keras"
    path.parent.mkdir()
    path.write_bytes((files / "v1_025.keras").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil", "x")
        archive.writestr("/evil", "x")
    imported = import_weights(path, model="mobilenet_v1", width_mult=0.25, preprocess="raw")
    assert imported.arch.num_classes == 7
    assert list(tmp_path.rglob("*")) == [path.parent, path]


def test_claimed_sizes_are_checked_before_anything_is_read(files: Path, tmp_path: Path) -> None:
    content = bytearray((files / "v1_025.keras").read_bytes())
    name = b"model.weights.h5"
    entry = content.rfind(name) - 46  # of the list at the end
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    path = tmp_path / "claims.keras"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.weights\.h5 unpacks to 4,294,967,294 bytes"):
        import_weights(path, model="mobilenet_v1", width_mult=0.25, preprocess="raw")
