"""Core ML: a float32 ML program, written by coremltools; only Apple devices execute it.

Not the older single-file neural network: a device chooses its precision, so golden vectors would
not decide.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.exporters import verify_on_mac
from mobilette.exporters.program import export_program, traced
from mobilette.exporters.target import Calibration, Progress, Target, Written
from mobilette.extras import needs
from mobilette.folders import scratch
from mobilette.model.model import Model
from mobilette.silence import silence

PACKAGE, SCRIPT = "model.mlpackage", "verify_on_mac.py"
MODEL = f"{PACKAGE}/Data/com.apple.CoreML/model.mlmodel"
PARTS = (
    f"{PACKAGE}/Data/com.apple.CoreML/weights/weight.bin",
    f"{PACKAGE}/Manifest.json",
    SCRIPT,
)
INPUT, OUTPUT = "pixels", "logits"


def write_coreml(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write the package, and the script that checks it on a Mac.

    It takes one image with 8 bits per channel; the contract is in its user-defined metadata.
    """
    with needs("coreml", "export to coreml"), silence():
        import coremltools as ct
    features = bool(contract.features)
    script = traced(export_program(model, dtype=torch.float32, features=features))
    outputs = [contract.output, contract.features] if features else [contract.output]
    colour = ct.colorlayout.GRAYSCALE if contract.input.colour == "grey" else ct.colorlayout.RGB
    with silence(), scratch() as folder:
        package = ct.convert(
            script,
            inputs=[ct.ImageType(name=INPUT, shape=(1, *contract.arch.shape), color_layout=colour)],
            outputs=[ct.TensorType(name=name) for name in outputs],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS15,
            skip_model_load=True,
        )
        package.short_description = f"{contract.arch.name}, {len(contract.classes)} classes"
        package.user_defined_metadata[METADATA_KEY] = canonical(contract.embedded())
        package.save(str(folder / PACKAGE))
        files = {name: (folder / name).read_bytes() for name in (MODEL, *PARTS[:2])}
    return Written(files={**files, SCRIPT: Path(verify_on_mac.__file__).read_bytes()})


COREML = Target(
    name="coreml",
    precisions=("fp32",),
    packages=("coremltools",),
    extra="coreml",
    model=MODEL,
    parts=PARTS,
    layout="NHWC",
    input=INPUT,
    output=OUTPUT,
    verifiable=False,
    batched=False,
    writer=write_coreml,
    imports="import coremltools",
    code="""\
model = coremltools.models.MLModel("model.mlpackage")
image = Image.fromarray(pixels[0].transpose(1, 2, 0).squeeze())
logits = model.predict({{"{input}": image}})["{output}"][0]""",
)
