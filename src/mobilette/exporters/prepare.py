"""A run becomes what every target is written from, and the contract that they all share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.artifact.contract import (
    CalibrationSource,
    Contract,
    InputContract,
    Precision,
    Source,
)
from mobilette.artifact.golden import Golden, golden_inputs
from mobilette.compression.float_layers import check_float_layers
from mobilette.compression.folding import fold_batch_norm
from mobilette.data.normalise import Normalise
from mobilette.exporters.target import (
    Calibration,
    Prepared,
    Progress,
    Quantisation,
    Target,
    no_progress,
)
from mobilette.extras import needs, version_of
from mobilette.model.model import Model
from mobilette.nn.network import Network, build_empty
from mobilette.run.inference import checkpoint_logits
from mobilette.run.subject import Subject, model_sha256


def prepare(
    model: Model, quantisation: Quantisation | None = None, *, progress: Progress = no_progress
) -> Prepared:
    """Return the network of ``model`` as it will be executed, and what it answered.

    Args:
        model: the model.
        quantisation: how it becomes int8; its network, where it has one, is what is executed.
        progress: told what is done now.

    Raises:
        InputError: the model has no classifier, or no layer of the name of one that is to stay
            in float.
    """
    checkpoint = model.network
    normalise = Normalise(model.preprocess)
    inputs = golden_inputs(model.arch.in_channels, model.arch.resolution)
    golden = Golden(inputs=inputs, logits=checkpoint_logits(checkpoint, normalise, inputs))
    quantisation = quantisation or Quantisation()
    network = quantisation.network
    if network is None:
        network = folded_network(model.arch, checkpoint.state_dict())
    check_float_layers(network.arch, quantisation.float_layers)
    return Prepared(
        model=model,
        network=network,
        normalise=normalise,
        golden=golden,
        quantisation=quantisation,
        progress=progress,
    )


def folded_network(arch: Arch, weights: Mapping[str, Tensor]) -> Network:
    """Return the network of ``arch`` with batch norms folded, in evaluation mode."""
    arch, weights = fold_batch_norm(arch, weights)
    folded = build_empty(arch)
    folded.load_state_dict(weights, assign=True)
    return folded.eval()


def package_versions(target: Target) -> dict[str, str]:
    """Return the versions of the packages that write artifacts of ``target``, by name.

    Raises:
        InputError: one is missing.
    """
    with needs(target.extra, f"export to {target.name}"):
        return {name: version_of(name) for name in ("mobilette", "torch", *target.packages)}


def make_contract(
    subject: Subject,
    target: Target,
    *,
    precision: Precision,
    calibration: Calibration | None,
    quantisation: Quantisation | None = None,
    final: Path,
) -> Contract:
    """Return the contract of an artifact that will lie in ``final``, before it is written.

    Raises:
        InputError: a package that the target needs is missing.
    """
    model, run = subject
    channels, side = model.arch.in_channels, model.arch.resolution
    shape = (side, side, channels) if target.layout == "NHWC" else (channels, side, side)
    quantisation, source = quantisation or Quantisation(), None
    if calibration is not None:
        source = CalibrationSource(
            data=calibration.source, images=len(calibration.pixels), ranges=quantisation.ranges
        )
    return Contract(
        target=target.name,
        precision=precision,
        model=target.model,
        parts=target.parts,
        arch=model.arch,
        preprocess=model.preprocess,
        input=InputContract(
            name=target.input,
            layout=target.layout,
            dtype=target.dtype,
            shape=shape,
            colour="grey" if model.preprocess.colour == "grey" else "rgb",
        ),
        output=target.output,
        outputs="sigmoid" if model.multi_label else "softmax",
        classes=model.classes,
        calibration=source,
        float_layers=tuple(sorted(quantisation.float_layers)),
        verifiable=target.verifiable,
        versions=package_versions(target),
        source=Source(
            run=_relative(run.path, final) if run is not None else "",
            weights_sha256=model_sha256(model, run),
        ),
    )


def _relative(run: Path, artifact: Path) -> str:
    """Return the way from the artifact to the run, so that both can be moved together."""
    try:
        return Path(os.path.relpath(run.resolve(), artifact.resolve())).as_posix()
    except ValueError:  # another drive (Windows)
        return run.resolve().as_posix()
