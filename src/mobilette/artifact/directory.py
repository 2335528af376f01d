"""Writing an artifact, and reading one that nobody has changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.artifact.contract import Contract, Measured
from mobilette.artifact.golden import Golden, read_golden
from mobilette.errors import InputError
from mobilette.files import read_bytes, read_record, write_bytes, write_json, write_text
from mobilette.run.classes import classes_text, parse_classes

CONTRACT = "contract.json"
GOLDEN = "golden.npz"
LABELS = "labels.txt"
README = "README.md"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact directory whose files are those that its contract names."""

    path: Path
    contract: Contract

    @property
    def golden(self) -> Golden:
        """The golden vectors.

        Raises:
            InputError: they are damaged, or not for this network.
        """
        golden = read_golden(self.path / GOLDEN)
        arch = self.contract.arch
        planes = (arch.in_channels, arch.resolution, arch.resolution)
        expected = (planes, (len(self.contract.classes),))
        if (golden.inputs.shape[1:], golden.logits.shape[1:]) != expected:
            raise InputError(f"{self.path / GOLDEN}: inputs and logits of another network")
        return golden

    def read_model(self) -> bytes:
        """Return the model file, checked against its hash in the same pass."""
        return self.read(self.contract.model)

    def read(self, name: str) -> bytes:
        """Return the content of the file ``name``, checked against its hash in the same pass."""
        return _read_checked(self.path, name, self.contract)


def write_artifact(
    folder: Path,
    *,
    contract: Contract,
    files: Mapping[str, bytes],
    golden: Golden,
    readme: str,
    measured: Measured,
) -> Contract:
    """Write the files of an artifact into the empty ``folder`` and return the final contract.

    ``files`` are the model and its parts, as the contract names them.
    """
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, content)
    write_text(folder / LABELS, classes_text(contract.classes))
    write_bytes(folder / GOLDEN, golden.to_bytes())
    write_text(folder / README, readme)
    names = _names(contract)
    final = replace(
        contract,
        measured=measured,
        files={name: _sha256(read_bytes(folder / name)) for name in names},
    )
    final = replace(final, sha256=final.own_sha256())
    write_json(folder / CONTRACT, final.to_json())
    return final


def is_artifact(path: Path) -> bool:
    """Whether ``path`` looks like an artifact directory."""
    return (path / CONTRACT).is_file()


def open_artifact(path: str | Path) -> Artifact:
    """Return the artifact in the directory ``path``, all hashes checked.

    Raises:
        InputError: it is no artifact, or a file was changed, cut short or removed.
    """
    path = Path(path)
    if path.is_file() and is_artifact(path.parent):
        raise InputError(f"{path}: give the artifact's directory, {path.parent}")
    if not is_artifact(path):
        what = "no such folder" if not path.exists() else f"no {CONTRACT} in it"
        raise InputError(f"{path}: not an artifact ({what}); 'mobilette export' makes one")
    contract = read_record(path / CONTRACT, Contract)
    if contract.sha256 != contract.own_sha256():
        raise InputError(f"{path / CONTRACT}: changed since the export (its hash does not match)")
    expected = _names(contract)
    if set(contract.files or {}) != set(expected):
        raise InputError(f"{path / CONTRACT}: hashes of {', '.join(expected)} are expected")
    for name in expected:
        content = _read_checked(path, name, contract)
        if name == LABELS:
            labels = parse_classes(content.decode(errors="replace"), where=str(path / name))
            if labels != contract.classes:
                raise InputError(f"{path / name}: other classes than in {CONTRACT}")
    return Artifact(path=path, contract=contract)


def _names(contract: Contract) -> tuple[str, ...]:
    """Return the names of all files but the contract."""
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
