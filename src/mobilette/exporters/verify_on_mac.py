"""Check a Core ML artifact on a Mac: python verify_on_mac.py, in the artifact's folder.

It needs coremltools, numpy and Pillow, not Mobilette. It prints PASS or FAIL and exits with 0 or 1,
or with 2 where the system cannot execute Core ML models.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

# As a part of the largest logit; Mobilette's limit for other float32 engines.
TOLERANCE = 1e-3


def main() -> int:
    """Check hashes, contract and golden vectors; print the verdict and return the exit status."""
    folder = Path(__file__).resolve().parent
    contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
    failures = changed_files(folder, contract)
    if not failures and sys.platform != "darwin":
        print(f"the files are those of the export; {sys.platform} cannot execute Core ML models")
        return 2
    failures = failures or model_failures(folder, contract)
    for failure in failures:
        print(f"FAIL: {failure}")
    if not failures:
        print("PASS")
    return 1 if failures else 0


def changed_files(folder: Path, contract: dict[str, Any]) -> list[str]:
    """Return which files differ from the contract's hashes."""
    return [
        f"{name} is missing or was changed since the export"
        for name, expected in contract["files"].items()
        if not (folder / name).is_file()
        or hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected
    ]


def model_failures(folder: Path, contract: dict[str, Any]) -> list[str]:
    """Return what is wrong with the model's metadata or its answers to the golden vectors."""
    import coremltools

    path = folder / contract["model"].partition("/")[0]
    model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
    inside = json.loads(model.user_defined_metadata["mobilette.contract"])
    if differing := [key for key, value in inside.items() if contract.get(key) != value]:
        return [f"the contract inside the model differs in {', '.join(differing)}"]
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        content = dict(golden)
    answers = [predict(model, pixels, contract) for pixels in content["inputs"]]
    failures = []
    for what, least in (("logits", 1.0), ("features", 0.0)):
        name = contract["output"] if what == "logits" else contract.get("features")
        if not name:
            continue
        expected = content[what]
        difference = float(
            np.abs(np.stack([x[name].reshape(-1) for x in answers]) - expected).max()
        )
        allowed = TOLERANCE * max(least, float(np.abs(expected).max()))
        print(f"largest difference of {what}: {difference:.3g} (allowed: {allowed:.3g})")
        if not difference <= allowed:
            failures.append(f"the golden vectors' {what} differ by more than that")
    return failures


def predict(model: Any, pixels: Any, contract: dict[str, Any]) -> Any:
    """Return the model's outputs by name for ``pixels``, uint8 (C, H, W)."""
    from PIL import Image

    image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
    return model.predict({contract["input"]["name"]: image})


if __name__ == "__main__":
    sys.exit(main())
