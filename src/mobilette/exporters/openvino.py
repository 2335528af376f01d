"""OpenVINO: the ONNX model in its own format; int8 by NNCF."""

from __future__ import annotations

import io
from collections.abc import Set
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.compression.float_layers import in_float, is_part_of
from mobilette.compression.ranges import PERCENTILE, Ranges
from mobilette.data.normalise import Normalise
from mobilette.exporters.onnx import INPUT, OUTPUT, convert
from mobilette.exporters.program import quiet_log
from mobilette.exporters.target import Calibration, Progress, Target, Written
from mobilette.extras import hidden, needs
from mobilette.folders import scratch
from mobilette.model.model import Model

MODEL, WEIGHTS = "model.xml", "model.bin"
_TELEMETRY = "openvino_telemetry"


def write_openvino(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write the OpenVINO model, weights in fp32 or int8.

    Converted from ONNX, its operations keep the names of the `Arch`'s layers. bf16 is the fp32
    model: the contract's precision tells the engine what to compute in.
    """
    with hidden(_TELEMETRY), needs("openvino", "export to openvino"):
        import openvino
    source = convert(model.network, Normalise(model.preprocess), features=contract.features)
    # Not Core.read_model, which leaves constants unfolded: NNCF corrects only constant biases.
    made = openvino.convert_model(io.BytesIO(source.SerializeToString()))
    if calibration is not None:
        floats = in_float(model.arch, frozenset(contract.float_layers))
        made = _quantize(made, calibration.pixels, ranges=contract.ranges, floats=floats)
    made.set_rt_info(canonical(contract.embedded()), [METADATA_KEY])
    with scratch() as folder:
        path = folder / MODEL
        openvino.save_model(made, path, compress_to_fp16=False)
        files = {name: (path.parent / name).read_bytes() for name in (MODEL, WEIGHTS)}
    return Written(files=files)


OPENVINO = Target(
    name="openvino",
    precisions=("fp32", "bf16", "int8"),
    packages=("openvino",),
    extra="openvino",
    model=MODEL,
    parts=(WEIGHTS,),
    input=INPUT,
    output=OUTPUT,
    writer=write_openvino,
    imports="import openvino",
    code="""\
model = openvino.Core().compile_model("{model}", "CPU", {{"INFERENCE_PRECISION_HINT": "{floats}"}})
logits = model({{"{input}": pixels}})["{output}"][0]""",
)


def _quantize(model: Any, pixels: NDArray[np.uint8], *, ranges: Ranges, floats: Set[str]) -> Any:
    """Return ``model`` in int8, calibrated with ``pixels`` (N, C, H, W); ``floats`` stay in float.

    The preset gives activations a zero point: hard-swish and linear bottlenecks are asymmetric
    around zero. Ranges cover all images, because the library's default, the mean of each image's
    range, cuts off rare values (docs/log.md). ``mse`` searches a histogram of all values;
    ``percentile`` averages each image's percentiles.
    """
    # stdout belongs to the caller
    quiet = redirect_stdout(io.StringIO())
    with hidden(_TELEMETRY), needs("openvino", "int8 for openvino"), quiet_log("nncf"), quiet:
        import nncf
        from nncf.quantization import range_estimator

        known = range_estimator.RangeEstimatorParametersSet
        cut = range_estimator.StatisticsCollectorParameters(
            statistics_type=range_estimator.StatisticsType.QUANTILE,
            aggregator_type=range_estimator.AggregatorType.MEAN,
            quantile_outlier_prob=(1 - PERCENTILE / 100) / 2,
        )
        rules = {
            "plain": known.MINMAX,
            "minmax": known.MINMAX,
            "percentile": range_estimator.RangeEstimatorParameters(min=cut, max=cut),
            "mse": known.HISTOGRAM,
        }
        return nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in pixels]),
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=rules[ranges]
            ),
            ignored_scope=nncf.IgnoredScope(names=_operations(model, floats)) if floats else None,
            subset_size=len(pixels),
        )


def _operations(model: Any, layers: Set[str]) -> list[str]:
    names = (
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() not in ("Constant", "Parameter", "Result")
    )
    return [name for name in names if is_part_of(name.partition("/")[0], layers)]
