from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilette.artifact.directory import Artifact
from mobilette.engines.load import load
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.artifact.forging import forge

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def openvino(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="openvino", out=tmp_path_factory.mktemp("exports"))


@pytest.fixture
def folder(openvino: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(openvino.path, tmp_path / "copy" / "openvino"))


def test_a_faithful_artifact_passes(openvino: Artifact, images: Path) -> None:
    verdict = verify(openvino.path, images)
    assert verdict.passed
    assert verdict.max_abs_diff < 1e-3
    assert verdict.top1_agreement == 1.0


def test_any_number_of_images_and_threads(openvino: Artifact) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 3, 16, 16), dtype=np.uint8)
    answers = [load(openvino.path, threads=threads).logits(pixels) for threads in (0, 1, 2)]
    assert answers[0].shape == (37, 3)
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=1e-5)
    one = load(openvino.path).logits(pixels[-1:])
    np.testing.assert_allclose(one[0], answers[0][-1], atol=1e-5)


_DROPPED_BY_A_THREAD = """
import os, signal, sys, threading
from pathlib import Path
import numpy as np
from mobilette.engines.load import load

predictors = [load(Path(sys.argv[1]))]
predictors[0].logits(np.zeros((1, 3, 16, 16), np.uint8))
dropping = threading.Thread(target=predictors.clear)
dropping.start()
dropping.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_signals_are_handled_when_another_thread_has_dropped_the_predictor(
    openvino: Artifact,
) -> None:
    """OpenVINO frees the stack of signal handlers with itself, in use or not."""
    done = subprocess.run(
        [sys.executable, "-c", _DROPPED_BY_A_THREAD, openvino.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def _xml(folder: Path) -> bytes:
    return (folder / "model.xml").read_bytes()


def test_files_cut_short_are_refused(folder: Path) -> None:
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.bin: changed since the export"):
        load(folder)


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_files_cut_short_with_hashes_that_fit_are_refused_too(
    name: str, kept: float, folder: Path
) -> None:
    content = (folder / name).read_bytes()
    length = int(kept * len(content)) if isinstance(kept, float) else kept
    forged = forge(folder, {name: content[:length]})
    with pytest.raises(InputError, match=r"model\.xml: (not an|damaged|a constant lies)"):
        open_engine(forged)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<?xml", b"PK\x03\x04"),
        (b"<net ", b'<!DOCTYPE net [<!ENTITY a "aaaa">]><net '),
        (b'offset="0"', b'offset="-8"'),
        (b'offset="0"', b'offset="99999999999"'),
        (b"</layers>", b""),
        (b'type="Convolution"', b'type="NoSuchThing"'),
        (b'to-layer="', b'to-layer="9'),
    ],
)
def test_a_hostile_network_is_refused(old: bytes, new: bytes, folder: Path) -> None:
    content = _xml(folder)
    assert old in content
    forged = forge(folder, {"model.xml": content.replace(old, new, 1)})
    with pytest.raises(InputError, match=r"model\.xml"):
        open_engine(forged)


def test_another_contract_inside_is_refused(folder: Path) -> None:
    content = _xml(folder).replace(b"&quot;rgb&quot;", b"&quot;bgr&quot;")
    assert content != _xml(folder)
    with pytest.raises(InputError, match=r"differs from contract\.json in"):
        open_engine(forge(folder, {"model.xml": content}))


def test_no_contract_inside_is_refused(folder: Path) -> None:
    content = _xml(folder).replace(b"<mobilette.contract", b"<somebody.else")
    content = content.replace(b"</mobilette.contract", b"</somebody.else")
    with pytest.raises(InputError, match="no contract inside the model"):
        open_engine(forge(folder, {"model.xml": content}))


def test_another_input_is_refused(folder: Path) -> None:
    content = _xml(folder).replace(b'shape="?,3,16,16"', b'shape="?,3,900000,900000"', 1)
    assert content != _xml(folder)
    with pytest.raises(InputError, match=r"model\.xml"):
        open_engine(forge(folder, {"model.xml": content}))
