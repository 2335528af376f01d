"""Artifacts: written, and read with their hashes checked."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from mobilette.arch.features import features_layer
from mobilette.artifact.contract import Contract, Measured
from mobilette.artifact.golden import Golden, read_golden
from mobilette.errors import InputError
from mobilette.files import (
    LARGEST_RECORD,
    read_bytes,
    read_json,
    write_bytes,
    write_text,
)
from mobilette.folders import restore
from mobilette.model.classes import ClassLabel, classes_text, parse_classes
from mobilette.records import parse

if TYPE_CHECKING:
    from mobilette.model.model import Model

CONTRACT = "contract.json"
GOLDEN = "golden.npz"
LABELS = "labels.txt"
README = "README.md"
ONNX_TARGETS = ("onnx", "web")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact directory whose files match its contract."""

    path: Path
    contract: Contract

    @property
    def golden(self) -> Golden:
        """The golden vectors; `InputError` if they are damaged or do not fit the network."""
        golden = read_golden(self.path / GOLDEN)
        arch = self.contract.arch
        expected = (arch.shape, (len(self.contract.classes),))
        if (golden.inputs.shape[1:], golden.logits.shape[1:]) != expected:
            raise InputError(f"{self.path / GOLDEN}: its inputs and logits do not fit the network")
        if self.contract.features:
            shape = features_layer(arch).shape[:1]
            if golden.features is None or golden.features.shape[1:] != shape:
                raise InputError(
                    f"{self.path / GOLDEN}: {shape[0]} features per input are expected"
                )
        return golden

    @cached_property
    def model(self) -> Model:
        """The model of its run; `InputError` if that is gone or changed."""
        from mobilette.model.directory import read_model

        if (reason := self.why_no_model()) is not None:
            raise InputError(f"{self.path}: {reason}")
        return read_model(self.source)

    @property
    def source(self) -> Path:
        """The directory of the run that it was made from."""
        return Path(os.path.normpath(self.path / self.contract.source.run))

    def why_no_model(self) -> str | None:
        """Return why its run's model cannot be read, or ``None``."""
        from mobilette.model.directory import WEIGHTS, is_model

        source = self.contract.source
        if not source.run:
            return "made from a model that was in no run, or published without it"
        weights = self.source / WEIGHTS
        if not (is_model(self.source) and weights.is_file()):
            return f"the run {self.source} does not exist"
        if _sha256(read_bytes(weights)) != source.weights_sha256:
            return f"{weights}: not the weights that the artifact was made from"
        return None

    def read_model(self) -> bytes:
        """Return the checked model file; `InputError` for an ONNX file with external data."""
        content = self.read(self.contract.model)
        if self.contract.target in ONNX_TARGETS:
            check_whole(content, where=str(self.path / self.contract.model))
        return content

    def read(self, name: str) -> bytes:
        """Return the file ``name``, checked against its hash."""
        return _read_checked(self.path, name, self.contract)


def write_artifact(
    folder: Path,
    *,
    contract: Contract,
    files: Mapping[str, bytes],
    golden: Golden,
    readme: str,
    measured: Measured,
) -> None:
    """Write an artifact into the empty ``folder``; ``files`` are the contract's model and parts."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, content)
    write_text(folder / LABELS, classes_text(contract.classes))
    write_bytes(folder / GOLDEN, golden.to_bytes())
    write_text(folder / README, readme)
    _write_contract(folder, replace(contract, measured=measured))


def copy_artifact(artifact: Artifact, folder: Path, *, contract: Contract, readme: str) -> None:
    """Copy an artifact into the empty ``folder``, with another ``contract`` for the same model."""
    for name in _names(artifact.contract):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, artifact.read(name))
    write_text(folder / README, readme)
    _write_contract(folder, contract)


def _write_contract(folder: Path, contract: Contract) -> None:
    files = {name: _sha256(read_bytes(folder / name)) for name in _names(contract)}
    final = replace(contract, files=files)
    write_text(folder / CONTRACT, replace(final, sha256=final.own_sha256()).to_text())


def is_artifact(path: Path) -> bool:
    """Whether ``path`` looks like an artifact directory."""
    return (path / CONTRACT).is_file()


def find_artifacts(folder: Path) -> tuple[Path, ...]:
    """Return the artifact directories in ``folder``, sorted by name, without hidden ones."""
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return ()
    return tuple(path for path in inside if is_artifact(path))


def open_artifact(path: str | Path) -> Artifact:
    """Return the artifact in the directory ``path``; `InputError` unless all hashes match."""
    path = Path(path)
    restore(path)
    if path.is_file() and is_artifact(path.parent):
        raise InputError(f"{path}: give the artifact's directory, {path.parent}")
    if not is_artifact(path):
        what = "no such folder" if not path.exists() else f"no {CONTRACT} in it"
        raise InputError(f"{path}: not an artifact ({what}); 'mobilette export' makes one")
    _check_inside(path, CONTRACT)
    contract = read_contract(path / CONTRACT)
    if contract.sha256 != contract.own_sha256():
        raise InputError(f"{path / CONTRACT}: changed since the export (its hash does not match)")
    expected = _names(contract)
    if set(contract.files or {}) != set(expected):
        raise InputError(f"{path / CONTRACT}: hashes of {', '.join(expected)} are expected")
    for name in expected:
        _check_inside(path, name)
        if name == LABELS:
            _check_labels(path / name, contract)
        _read_checked(path, name, contract)
    return Artifact(path=path, contract=contract)


def read_contract(path: Path) -> Contract:
    """Return the contract in the file ``path``, its hash not checked; `InputError` if damaged."""
    content = read_json(path)
    check_schema(content, where=str(path))
    return parse(Contract, content, where=str(path))


def _check_labels(path: Path, contract: Contract) -> None:
    text = read_bytes(path, limit=LARGEST_RECORD).decode(errors="replace")
    labels: tuple[ClassLabel, ...] = ()
    with suppress(InputError):
        labels = parse_classes(text, where=str(path))
    if labels == contract.classes:
        return
    if sorted(labels, key=repr) == sorted(contract.classes, key=repr):
        index = next(i for i, label in enumerate(labels) if label != contract.classes[i])
        raise InputError(
            f"{path}: the classes are in another order than in {CONTRACT}; line {index + 1} is "
            f"{labels[index].id!r} where {contract.classes[index].id!r} belongs"
        )
    raise InputError(f"{path}: changed since the export (other classes than in {CONTRACT})")


def _check_inside(folder: Path, name: str) -> None:
    """Refuse links that lead out of the artifact."""
    real = Path(os.path.realpath(folder / name))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise InputError(
            f"{folder / name}: a link to {real}, outside the artifact; copy the artifact together "
            "with the files that it links to (cp -rL)"
        )


def _names(contract: Contract) -> tuple[str, ...]:
    return (contract.model, *contract.parts, LABELS, GOLDEN, README)


def _read_checked(folder: Path, name: str, contract: Contract) -> bytes:
    content = read_bytes(folder / name)
    if _sha256(content) != (contract.files or {})[name]:
        size = contract.measured.size_bytes if contract.measured and not contract.parts else 0
        what = "changed since the export"
        if name == contract.model and len(content) < size:
            what = f"cut short, {len(content):,} of {size:,} bytes"
        raise InputError(f"{folder / name}: {what} (its hash is not the one in {CONTRACT})")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_VERSION = re.compile(r"[0-9][0-9a-z.+-]{0,31}")


def check_schema(content: object, *, where: str) -> None:
    """Raise `InputError`, naming the version to install, if a contract's schema is newer."""
    known = max(get_args(get_type_hints(Contract)["schema"]))
    schema = content.get("schema") if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not isinstance(schema, int) or schema <= known:
        return
    versions = content.get("versions")
    made_by = versions.get("mobilette") if isinstance(versions, Mapping) else None
    needed, option = "a newer version of Mobilette", "--upgrade mobilette"
    if isinstance(made_by, str) and _VERSION.fullmatch(made_by):
        needed, option = f"a newer version, Mobilette {made_by}", f"'mobilette>={made_by}'"
    raise InputError(
        f"{where}: made by {needed} (schema {schema}, this one reads up to {known}); "
        f"pip install {option}"
    )


def check_whole(model: bytes, *, where: str) -> None:
    """Raise `InputError` unless ``model`` is an ONNX file without external data."""
    import onnx
    from google.protobuf.message import DecodeError, Message

    try:
        parsed = onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise InputError(f"{where}: not a complete ONNX file") from error
    waiting: list[Any] = [parsed]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto) and (
            message.external_data or message.data_location == onnx.TensorProto.EXTERNAL
        ):
            places = {entry.key: entry.value for entry in message.external_data}
            raise InputError(
                f"{where}: the values of {message.name!r:.60} lie in another file, "
                f"{places.get('location', '')!r:.60}; an artifact's model holds all of its values"
            )
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)
