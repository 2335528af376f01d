"""ncnn: a param file of layers and a weights file, written by pnnx."""

from __future__ import annotations

import copy
import subprocess

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional

from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.artifact.ncnn_layers import HALF, find_weights, read_layers
from mobilette.errors import InputError
from mobilette.exporters.program import export_program, traced, unsupported
from mobilette.exporters.target import Calibration, Progress, Target, Written
from mobilette.extras import needs
from mobilette.folders import scratch
from mobilette.model.model import Model
from mobilette.nn.layers import SubsampleAndPad
from mobilette.nn.network import Network

PARAM, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"


def write_ncnn(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write layers and weights for one image, float32 (C, H, W), 0 to 255.

    The contract is the data of an unused layer at the end.
    """
    with needs("ncnn", "export to ncnn"):
        import ncnn
        import pnnx
    network = _without_strided_slices(model.network)
    program = export_program(
        model, network=network, dtype=torch.float32, features=bool(contract.features)
    )
    param, weights = _convert(program, pnnx.EXEC_PATH)
    kinds = [line.split()[0] for line in param.splitlines()[2:]]
    if unknown := [kind for kind in kinds if ncnn.ncnn.layer_to_index(kind) < 0]:
        raise unsupported("ncnn", program, unknown)
    if contract.precision == "fp16":
        weights = _halved(param, weights)
    param, weights = _with_contract(param, weights, canonical(contract.embedded()))
    return Written(files={PARAM: param.encode(), WEIGHTS: weights})


NCNN = Target(
    name="ncnn",
    precisions=("fp32", "fp16"),
    packages=("ncnn", "pnnx"),
    extra="ncnn",
    model=PARAM,
    parts=(WEIGHTS,),
    dtype="float32",
    input="in0",
    output="out0",
    features="out1",
    batched=False,
    writer=write_ncnn,
    imports="import ncnn",
    code="""\
net = ncnn.Net()
half = "{precision}" == "fp16"
net.opt.use_fp16_packed, net.opt.use_fp16_storage, net.opt.use_fp16_arithmetic = half, half, False
net.load_param("{model}")
net.load_model("model.ncnn.bin")
extractor = net.create_extractor()
image = np.ascontiguousarray(pixels[0], np.float32)
extractor.input("{input}", ncnn.Mat(image))
logits = np.array(extractor.extract("{output}")[1])""",
)


class _Subsample(nn.Module):
    """`SubsampleAndPad` by pooling single positions, because ncnn's slices have no stride."""

    def __init__(self, original: SubsampleAndPad) -> None:
        super().__init__()
        self.stride, self.added = original.stride, original.new_channels // 2

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.max_pool2d(x, 1, self.stride)
        return functional.pad(pooled, (0, 0, 0, 0, self.added, self.added))


def _without_strided_slices(network: Network) -> Network:
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, SubsampleAndPad):
            network.set_submodule(name, _Subsample(module))
    return network


def _convert(program: ExportedProgram, pnnx: str) -> tuple[str, bytes]:
    with scratch() as folder:
        traced(program).save(str(folder / "model.pt"))
        shape = ",".join(map(str, program.example_inputs[0][0].shape))
        done = subprocess.run(
            [pnnx, "model.pt", f"inputshape=[{shape}]f32", "fp16=0"],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        try:
            return (folder / PARAM).read_text(), (folder / WEIGHTS).read_bytes()
        except OSError as error:
            said = (done.stderr or done.stdout).strip().rpartition("\n")[2]
            raise InputError(f"--to ncnn: pnnx failed ({done.returncode}: {said[:200]})") from error


def _halved(param: str, weights: bytes) -> bytes:
    """Return ``weights`` in 16 bits, except those of depthwise convolutions.

    These are few, and folded batch norms push some below the smallest normal 16-bit number;
    pnnx, which converts all weights, loses 7 to 17 dB.
    """
    halved = b""
    for part in find_weights(read_layers(param), weights):
        content, end = weights[part.start : part.end], 4 + 4 * part.count
        depthwise = part.layer.number(7) == part.layer.number(0)
        if part.count and not depthwise:
            half = np.frombuffer(content[4:end], np.float32).astype(np.float16).tobytes()
            content = HALF + half.ljust(len(half) + len(half) % 4, b"\0") + content[end:]
        halved += content
    return halved


def _with_contract(param: str, weights: bytes, contract: str) -> tuple[str, bytes]:
    """Add a layer whose data is ``contract``.

    ncnn's files have no room for metadata, but a MemoryData layer holds any 32-bit words, and a
    layer that nothing reads is never executed.
    """
    words = -(-len(contract.encode()) // 4)
    data = contract.encode().ljust(4 * words)
    magic, counts, *layers = param.splitlines()
    count, blobs = map(int, counts.split())
    layers.append(f"{'MemoryData':24} {METADATA_KEY:24} 0 1 {METADATA_KEY} 0={words}")
    lines = (magic, f"{count + 1} {blobs + 1}", *layers)
    return "\n".join(lines) + "\n", weights + data
