"""An artifact that anybody changed is refused, each change with its own message."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilette.artifact.contract import Contract
from mobilette.artifact.directory import open_artifact
from mobilette.artifact.golden import golden_inputs, read_golden
from mobilette.errors import InputError
from mobilette.records import parse


def test_an_untouched_artifact_opens(artifact_copy: Path) -> None:
    artifact = open_artifact(artifact_copy)
    assert artifact.contract.measured is not None
    assert artifact.contract.measured.size_bytes == len(artifact.read_model())
    assert artifact.golden.logits.shape == (8, 3)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "golden.npz", "README.md"])
def test_a_changed_file_is_refused_by_its_hash(artifact_copy: Path, name: str) -> None:
    path = artifact_copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: changed since the export"):
        open_artifact(artifact_copy)


def test_a_changed_label_order_is_refused(artifact_copy: Path) -> None:
    path = artifact_copy / "labels.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(
        InputError, match=r"labels\.txt: the classes are in another order .* line 1 is 'red' where"
    ):
        open_artifact(artifact_copy)


def test_half_a_model_file_is_said_to_be_half(artifact_copy: Path) -> None:
    path = artifact_copy / "model.onnx"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"model\.onnx: cut short, .* of {len(content):,} bytes"):
        open_artifact(artifact_copy)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "golden.npz", "README.md"])
def test_a_missing_file_is_named(artifact_copy: Path, name: str) -> None:
    (artifact_copy / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        open_artifact(artifact_copy)


def _edit(artifact: Path, change: dict[str, Any]) -> None:
    path = artifact / "contract.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "int8"},
        {"classes": [{"id": i, "name": i} for i in ("red", "green", "blue")]},
        {"source": {"run": "elsewhere", "weights_sha256": "0"}},
    ],
)
def test_a_changed_contract_is_refused_by_its_hash(
    artifact_copy: Path, change: dict[str, Any]
) -> None:
    _edit(artifact_copy, change)
    with pytest.raises(InputError, match=r"contract\.json: changed since the export"):
        open_artifact(artifact_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "schema is 0, not one of 1"),
        ({"schema": "2"}, "schema is '2', not one of 1"),
        (
            {"schema": 2, "versions": {"mobilette": "9.1"}},
            "by a newer version, Mobilette 9.1 .* 'mobilette>=9.1'",
        ),
        (
            {"schema": 2, "versions": {"mobilette": "\x1b[2J"}},
            "schema 2, this one reads up to 1.; pip install --upgrade mobilette",
        ),
        ({"schema": 2, "versions": []}, "made by a newer version of Mobilette"),
        ({"model": "../../etc/passwd"}, "would lie outside the artifact"),
        ({"files": {"/etc/passwd": "0"}}, "would lie outside the artifact"),
        ({"surplus": 1}, "unknown key 'surplus'"),
        ({"classes": []}, "0 classes for a network with 3"),
    ],
)
def test_a_contract_of_nonsense_is_refused(
    artifact_copy: Path, change: dict[str, Any], message: str
) -> None:
    _edit(artifact_copy, change)
    with pytest.raises(InputError, match=message):
        open_artifact(artifact_copy)


def test_a_consistent_forgery_of_the_labels_is_still_refused(artifact_copy: Path) -> None:
    """All hashes made to fit: the contract inside the model file still disagrees."""
    from dataclasses import replace
    from hashlib import sha256

    from mobilette.engines.load import load

    path = artifact_copy / "contract.json"
    contract = parse(Contract, json.loads(path.read_text()), where="contract")
    classes = tuple(reversed(contract.classes))
    labels = "".join(f"{label.id}\t{label.name}\n" for label in classes).encode()
    (artifact_copy / "labels.txt").write_bytes(labels)
    files = dict(contract.files or {}) | {"labels.txt": sha256(labels).hexdigest()}
    forged = replace(contract, classes=classes, files=files)
    forged = replace(forged, sha256=forged.own_sha256())
    path.write_text(json.dumps(forged.to_json()))
    open_artifact(artifact_copy)
    with pytest.raises(
        InputError, match=r"inside the model differs from contract\.json in classes"
    ):
        load(artifact_copy)


def test_what_is_no_artifact(tmp_path: Path, artifact_copy: Path) -> None:
    with pytest.raises(InputError, match="not an artifact .no contract.json"):
        open_artifact(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        open_artifact(tmp_path / "nothing")
    with pytest.raises(InputError, match="give the artifact's directory"):
        open_artifact(artifact_copy / "model.onnx")


def test_golden_inputs_are_the_same_every_time_and_differ_in_every_way() -> None:
    inputs = golden_inputs(3, 32)
    assert np.array_equal(inputs, golden_inputs(3, 32))
    assert inputs.dtype == np.uint8
    for other in (inputs[:, ::-1], inputs.transpose(0, 1, 3, 2), inputs[..., ::-1]):
        assert (np.abs(inputs.astype(int) - other).mean(axis=(1, 2, 3)) > 5).all()


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.witness,)


def test_a_pickle_among_the_golden_vectors_is_not_executed(tmp_path: Path) -> None:
    witness, path = tmp_path / "executed", tmp_path / "golden.npz"
    np.savez(path, inputs=np.array([_Hostile(witness)], object), logits=np.zeros((1, 2)))
    with pytest.raises(InputError, match="not a complete file of golden vectors"):
        read_golden(path)
    path.write_bytes(pickle.dumps(_Hostile(witness)))
    with pytest.raises(InputError, match="not a complete file of golden vectors"):
        read_golden(path)
    assert not witness.exists()


def test_golden_vectors_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("inputs.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(600):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="unpacks to more than"):
        read_golden(path)


def test_golden_vectors_of_the_wrong_kind(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, inputs=np.zeros((2, 3, 4, 4), np.float32), logits=np.zeros((2, 3), np.float32))
    (tmp_path / "golden.npz").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="uint8 inputs"):
        read_golden(tmp_path / "golden.npz")
