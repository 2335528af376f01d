"""``mobilette export`` and ``quantize``: a run to artifacts, or to weights for other libraries."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import (
    Force,
    IncludeTrained,
    Json,
    MaxDrop,
    MaxUnusable,
    Out,
    Promise,
    Seed,
    SplitOption,
    Workers,
)
from mobilette.errors import InputError, one_of, shown
from mobilette.progress import Reporter

if TYPE_CHECKING:
    from mobilette.artifact.contract import Precision
    from mobilette.artifact.directory import Artifact
    from mobilette.workflows.quantize import Quantised


Targets = Annotated[
    str,
    typer.Option("--to", help="Targets, with commas: onnx, openvino and others, or state_dict."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="Precision: fp32, fp16, bf16, int8, or several [the target's usual one].",
    ),
]
Int8 = Annotated[
    bool, typer.Option("--int8", help="The same as --precision int8: calibrated, not trained.")
]
CalibrationData = Annotated[
    str | None, typer.Option("--data", help="Images to calibrate int8 with [the run's own].")
]
Names = Annotated[
    str,
    typer.Option("--names", help="Names in a state_dict: torchvision, timm, keras or mobilette."),
]

Features = Annotated[
    bool,
    typer.Option(
        "--features", help="Also output the features that the classifier reads, for embed."
    ),
]

Bundle = Annotated[
    bool,
    typer.Option("--bundle", help="Copy npm's onnxruntime-web into a web artifact."),
]


def export(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    to: Targets = "onnx",
    precision: PrecisionOption = None,
    int8: Int8 = False,
    data: CalibrationData = None,
    names: Names = "torchvision",
    out: Out = None,
    features: Features = False,
    bundle: Bundle = False,
    promise: Promise = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Write the artifacts of a run, a folder for each target.

    Each precision has a folder of its own. Status 1 if a promise cannot be kept.
    """
    from mobilette.cli.output import print_json, progress_bar, remarks
    from mobilette.data.reading import Reading
    from mobilette.exporters.export import open_trained_run
    from mobilette.exporters.state_dict import NAMES, STATE_DICT, export_state_dict
    from mobilette.run.subject import resolve
    from mobilette.workflows.export import export_each

    if int8 and precision is not None:
        raise InputError("--int8 and --precision: give one of them")
    targets, wanted = _wanted(to, "int8" if int8 else precision)
    one_of(names, NAMES, "--names")
    if promise is not None and STATE_DICT in targets:
        raise InputError(f"--to {STATE_DICT} writes weights, which give no answers for --promise")
    if features and STATE_DICT in targets:
        raise InputError(f"--to {STATE_DICT} writes weights, which have no outputs for --features")
    if bundle and STATE_DICT in targets:
        raise InputError(f"--to {STATE_DICT} writes weights, which have no page for --bundle")
    rows, said, kept = [], remarks(), True
    with progress_bar("exporting") as progress:
        for exported in export_each(
            resolve(open_trained_run(run)),
            wanted,
            data=data,
            out=out,
            force=force,
            reading=Reading(workers=workers, max_unusable=max_unusable),
            reporter=Reporter(
                reading=partial(progress, "reading images"), remark=lambda line: said.print(line)
            ),
            progress=progress,
            features=features,
            bundle=bundle,
            promise=promise,
        ):
            artifact, kept = exported.artifact, kept and exported.promise_kept
            contract = artifact.contract
            model, hint = artifact.path / contract.model, _next_step(run, artifact)
            size = contract.measured.size_bytes if contract.measured else 0
            row = _written(model, contract.target, contract.precision, size, hint, said=not as_json)
            rows.append(row | {"answering": asdict(contract.answering)})
    if STATE_DICT in targets:
        model = export_state_dict(run, names=names, out=out, force=force)
        size, hint = model.stat().st_size, f"see {model.parent / 'README.md'}"
        rows.append(_written(model, STATE_DICT, "fp32", size, hint, said=not as_json))
    if as_json:
        print_json({"artifacts": rows})
    return 0 if kept else 1


def _wanted(to: str, precision: str | None) -> tuple[list[str], list[tuple[str, Precision]]]:
    """Return the targets, and each artifact's target and precision."""
    from mobilette.exporters.export import TARGETS, check_precision
    from mobilette.exporters.state_dict import STATE_DICT

    known = (*TARGETS, STATE_DICT)
    targets = [one_of(each.strip(), known, f"--to {shown(to)}: target") for each in to.split(",")]
    targets = list(dict.fromkeys(targets))
    asked = precision.split(",") if precision else [None]
    return targets, [
        (target, check_precision(target, each))
        for target in targets
        if target != STATE_DICT
        for each in dict.fromkeys(asked)
    ]


def _next_step(run: Path, artifact: Artifact) -> str:
    from mobilette.model.directory import is_imported
    from mobilette.run.directory import recorded_data

    if not artifact.contract.verifiable:
        return f"see {artifact.path / 'README.md'}; nothing here can execute it"
    images = "DATA" if is_imported(run) else recorded_data(run)
    return shlex.join(["mobilette", "verify", str(artifact.path), images])


def _written(
    model: Path, target: str, precision: str, size: int, hint: str, *, said: bool
) -> dict[str, object]:
    """Return the JSON values of a written file; print it if ``said``."""
    from mobilette.cli.output import human_bytes, remarks

    if said:
        remarks().print(f"{model}: {precision}, {human_bytes(size)}")
        remarks().print(f"next: {hint}")
    path = str(model.parent)
    return {"path": path, "target": target, "precision": precision, "size_bytes": size}


def quantize(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    data: Annotated[str, typer.Argument(help="Labelled images to measure the accuracy on.")],
    to: Annotated[
        str, typer.Option("--to", help="Target: onnx, openvino, litert or another.")
    ] = "onnx",
    max_drop: MaxDrop = 1.0,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            help="Images to calibrate and train with [the run's own].",
            metavar="DATA",
        ),
    ] = None,
    split: SplitOption = None,
    include_trained: IncludeTrained = False,
    promise: Promise = None,
    out: Out = None,
    seed: Seed = 0,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Write an int8 artifact that keeps the accuracy of a run.

    The cheapest way that does is used. Status 1 if none does, or a promise cannot be kept; the best
    one is written then.
    """
    from mobilette.cli.output import print_json, progress_bar, remarks
    from mobilette.workflows.quantize import quantize as climb

    said = remarks()
    with progress_bar("reading images") as progress:
        found = climb(
            run,
            data,
            to=to,
            max_drop=max_drop,
            calibrate=calibrate,
            split=split,
            include_trained=include_trained,
            promise=promise,
            out=out,
            force=force,
            workers=workers,
            max_unusable=max_unusable,
            seed=seed or 0,
            reporter=Reporter(
                reading=partial(progress, "reading images"), remark=lambda line: said.print(line)
            ),
            progress=progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print_quantised(found)
    return 0 if found.kept and found.promise_kept and found.verdict.passed else 1


def _print_quantised(found: Quantised) -> None:
    from mobilette.cli.output import console, human_bytes, say_trained, table

    out = console()
    rows = [
        (
            f"{rung.name}{' <-' if index == found.chosen else ''}",
            "-" if rung.top1 is None else f"{rung.top1:.2%}",
            "-" if rung.drop is None else f"{100 * rung.drop:.2f}",
            "-" if rung.size_bytes is None else human_bytes(rung.size_bytes),
            "-" if rung.latency_ms is None else f"{rung.latency_ms:.3g}",
            len(rung.float_layers),
            "yes" if rung.kept else "no",
        )
        for index, rung in enumerate(found.rungs)
    ]
    headings = ("rung", "top-1", "drop, points", "size", "ms", "in float", "kept")
    print(table(headings, rows, gap=2))
    chosen, verdict = found.rungs[found.chosen], found.verdict
    for rung in found.rungs:
        if rung.reason:
            out.print(f"{rung.name}: {rung.reason}")
    if chosen.float_layers:
        out.print(f"in float: {', '.join(chosen.float_layers)}")
    if verdict.accuracy_source is not None and verdict.accuracy_artifact is not None:
        trained = say_trained(verdict.trained_left_out, included=verdict.includes_trained)
        out.print(
            f"{found.artifact.path}: {verdict.accuracy_artifact:.2%} of {verdict.images:,} "
            f"images{trained}, the run {verdict.accuracy_source:.2%}; the same "
            f"answer to {verdict.top1_agreement:.2%}",
        )
    if found.latency_ms:
        listed = ", ".join(f"{name} {ms:.3g} ms" for name, ms in found.latency_ms.items())
        out.print(f"one image, one thread: {listed}")
    if found.advice:
        out.print(found.advice)
    for failure in verdict.failures:
        out.print(f"verify failed: {failure}")
    what = "kept" if found.kept else f"NOT kept; the best is rung {chosen.name}"
    out.print(f"quantize: accuracy {what}")
