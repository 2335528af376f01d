"""Files that lie: everything has to end in an `InputError`, and none in a crash of the process."""

from __future__ import annotations

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
from mobilette.exporters import tflite_file
from mobilette.run.directory import Run
from mobilette.workflows.export import export
from tests.artifact.forging import forge

pytest.importorskip("ai_edge_litert")
pytest.importorskip("litert_torch")
pytest.importorskip("tflite_micro")


@pytest.fixture(scope="module")
def mcu(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="mcu", out=tmp_path_factory.mktemp("mcu"))


@pytest.fixture
def copied(mcu: Artifact, tmp_path: Path) -> Path:
    """Return a copy as one of target litert, the same model; it has its contract inside."""
    folder = Path(shutil.copytree(mcu.path, tmp_path / "litert-int8"))
    relabelled(folder, mcu.read_model())
    return folder


def relabelled(folder: Path, model: bytes) -> Artifact:
    artifact = forge(folder, target="litert", parts=())
    changed = tflite_file.read(model)
    changed.metadata = []
    tflite_file.add_contract(changed, artifact.contract)
    return forge(folder, {"model.tflite": tflite_file.packed(changed)})


def test_batches_are_answered_image_by_image(copied: Path) -> None:
    predictor = load(copied, threads=1)
    inputs = np.tile(np.arange(40, dtype=np.uint8)[:, None, None, None], (1, 3, 16, 16))
    logits = predictor.logits(inputs)
    assert logits.shape == (40, 3)
    assert (logits == np.concatenate([predictor.logits(x[None]) for x in inputs])).all()


@pytest.mark.parametrize("size", [0, 3, 7, 8, 100, 5_000, -1])
def test_a_file_that_was_cut_short(copied: Path, size: int) -> None:
    content = (copied / "model.tflite").read_bytes()
    artifact = forge(copied, {"model.tflite": content[:size]})
    with pytest.raises(InputError, match=r"model\.tflite"):
        open_engine(artifact)


def test_another_kind_of_file(copied: Path) -> None:
    artifact = forge(copied, {"model.tflite": b"\x08\0\0\0ONNX" + bytes(1000)})
    with pytest.raises(InputError, match="not a TensorFlow Lite file"):
        open_engine(artifact)


def test_a_contract_that_is_another_one_inside_or_none(copied: Path) -> None:
    content = (copied / "model.tflite").read_bytes()
    artifact = forge(copied, {"model.tflite": content.replace(b'"blue"', b'"bleu"')})
    with pytest.raises(InputError, match="differs from contract.json in classes"):
        open_engine(artifact)
    model = tflite_file.read(content)
    model.metadata = []
    artifact = forge(copied, {"model.tflite": tflite_file.packed(model)})
    with pytest.raises(InputError, match="no contract inside"):
        open_engine(artifact)


def test_ends_that_the_contract_does_not_have(copied: Path) -> None:
    model = tflite_file.read((copied / "model.tflite").read_bytes())
    (graph,) = model.subgraphs
    graph.tensors[graph.inputs[0]].shape = [1, 16, 16, 1]
    artifact = forge(copied, {"model.tflite": tflite_file.packed(model)})
    with pytest.raises(InputError, match="input and output are"):
        open_engine(artifact)


FUZZ = """
import sys
import numpy as np
from mobilette.artifact.tflite import check_tflite
from mobilette.artifact.tflite import ask_litert, litert_interpreter
from mobilette.errors import InputError

content = open(sys.argv[1], "rb").read()
random = np.random.default_rng(int(sys.argv[2]))
refused = failed = answered = 0
for attempt in range(int(sys.argv[3])):
    damaged = bytearray(content)
    for _ in range(random.integers(1, 4)):
        place = random.integers(0, len(content))
        damaged[place] = random.integers(0, 256)
    print(attempt, file=sys.stderr, flush=True)
    try:
        record = check_tflite(bytes(damaged))
        shape = record.tensors[record.inputs[0]].shape
        for reference in (False, True):
            interpreter = litert_interpreter(bytes(damaged), threads=1, reference=reference)
            ask_litert(interpreter, np.zeros(shape, np.uint8))
        answered += 1
    except InputError:
        refused += 1
    except (RuntimeError, ValueError):
        failed += 1
print(refused, failed, answered)
"""


def test_damaged_bytes_do_not_crash_the_process(copied: Path) -> None:
    model = tflite_file.read((copied / "model.tflite").read_bytes())
    for buffer in model.buffers:  # without weights, most bytes are of the structure
        if buffer.data is not None and len(buffer.data) > 64:
            buffer.data = np.zeros(len(buffer.data), np.uint8)
    path = copied / "damaged.tflite"
    path.write_bytes(tflite_file.packed(model))
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(path), "0", "300"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-300:]
    refused, _, answered = map(int, done.stdout.split())
    assert refused
    assert answered
