"""Artifacts that somebody changed who knows how their hashes are made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from mobilette.artifact.contract import Contract
from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.records import parse


def read_contract(folder: Path) -> Contract:
    return parse(Contract, json.loads((folder / "contract.json").read_text()), where="contract")


def forge(folder: Path, files: Mapping[str, bytes] | None = None, **changes: object) -> Artifact:
    """Change files and contract of the artifact in ``folder``, and make every hash fit again."""
    contract = replace(read_contract(folder), **changes)  # type: ignore[arg-type]
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    names = (contract.model, *contract.parts, "labels.txt", "golden.npz", "README.md")
    hashes = {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}
    contract = replace(contract, files=hashes, sha256="")
    contract = replace(contract, sha256=contract.own_sha256())
    (folder / "contract.json").write_text(json.dumps(contract.to_json()))
    return open_artifact(folder)
