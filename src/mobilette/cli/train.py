"""``mobilette train``: images to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import (
    BatchSize,
    Epochs,
    Force,
    FormOption,
    Json,
    LearningRate,
    MaxUnusable,
    Out,
    ResizeChoice,
    Resolution,
    Seed,
    Threads,
    Time,
    Workers,
    ranged,
)
from mobilette.errors import InputError
from mobilette.limits import IN_CHANNELS, WIDTH_MULT
from mobilette.progress import Reporter

# What a resumed run takes; everything else it has recorded.
WITH_RESUME = {"data", "resume", "device", "threads", "workers", "tensorboard", "as_json"}
# Keys of the recipe: with --force, a resumed run goes on with other ones.
OF_THE_RECIPE = {"epochs", "batch_size", "lr", "time", "settings", "force"}


def train(
    context: typer.Context,
    data: Annotated[
        str | None, typer.Argument(help="A folder of images, or digits, cifar10, cifar100.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Name of the network [that of --from, or mobilenet_v2]."),
    ] = None,
    width_mult: Annotated[
        float | None,
        ranged("--width-mult", WIDTH_MULT, "Width multiplier [that of --from, or 1.0]."),
    ] = None,
    resolution: Resolution = None,
    form: FormOption = None,
    in_channels: Annotated[
        int | None,
        ranged("--in-channels", IN_CHANNELS, "Colour (3) or grey (1) [as --from has, or 3]."),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess", help="Preset: torch, tf, caffe, unit or raw [as --from has, or torch]."
        ),
    ] = None,
    resize: Annotated[
        ResizeChoice | None,
        typer.Option("--resize", help="How an image becomes square [as --from has, or crop]."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="A recipe's name or file [quick; from weights: transfer, sliced].",
        ),
    ] = None,
    epochs: Epochs = None,
    time: Time = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    seed: Seed = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of the recipe.")
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", help="Initial weights: auto, scratch, a run, or published ones."),
    ] = "auto",
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="A run, or published weights, to learn from as well."),
    ] = None,
    out: Out = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="The run to finish.", metavar="RUN")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:N or mps [auto].")
    ] = None,
    threads: Threads = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say at the end where a step's time went.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events into the run, too.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Train a network on images, or finish a run that was stopped."""
    if data is None and resume is None:
        raise InputError("'train' needs DATA (a folder of images, or digits), or --resume RUN")
    chosen = {name for name in context.params if _is_given(context, name)}
    if resume is not None and chosen - WITH_RESUME - OF_THE_RECIPE:
        names = ", ".join(sorted(chosen - WITH_RESUME - OF_THE_RECIPE))
        raise InputError(f"--resume finishes a run as it was begun; it takes no {names}")
    from mobilette.training.process import let_threads_sleep

    let_threads_sleep()
    from mobilette.cli.output import remarks
    from mobilette.cli.training_progress import TrainingProgress
    from mobilette.cli.training_result import print_result
    from mobilette.training.distributed import is_restarted, writes
    from mobilette.training.process import keep_freed_memory, set_threads
    from mobilette.training.recipe import merge_keys, parse_setting
    from mobilette.workflows.resume import is_of_this_launch, recorded_threads
    from mobilette.workflows.resume import resume as resume_run
    from mobilette.workflows.train import train as train_run

    overrides = dict(parse_setting(text) for text in settings or [])
    if teacher is not None:
        overrides["teacher"] = _absolute(teacher)
    overrides = merge_keys(
        overrides, epochs=epochs, time=time, batch_size=batch_size, lr=lr, seed=seed
    )
    if is_restarted() and resume is None and out is not None and is_of_this_launch(out):
        resume, overrides = out, {}  # torchrun begins again with the same words
    keep_freed_memory()
    set_threads(threads or (recorded_threads(resume) if resume else None))
    try:
        with TrainingProgress(shown=writes()) as progress:
            if resume is not None:
                run = resume_run(
                    resume,
                    data=data,
                    overrides=overrides,
                    force=force,
                    device=device,
                    workers=workers,
                    tensorboard=tensorboard,
                    callbacks=[progress],
                    reporter=Reporter(reading=progress.load, remark=progress.remark),
                )
            else:
                run = train_run(
                    str(data),
                    model=model,
                    width_mult=width_mult,
                    resolution=resolution,
                    form=form.value if form else None,
                    in_channels=in_channels,
                    preprocess=preprocess,
                    resize=resize.value if resize else None,
                    recipe=recipe,
                    overrides=overrides,
                    start=start,
                    out=out,
                    force=force,
                    device=device or "auto",
                    workers=workers,
                    max_unusable=max_unusable,
                    tensorboard=tensorboard,
                    profile=profile,
                    callbacks=[progress],
                    reporter=Reporter(
                        reading=progress.load, download=progress.download, remark=progress.remark
                    ),
                )
    except KeyboardInterrupt as stop:
        remarks().print(f"mobilette: {stop if stop.args else 'stopped'}")
        return 130
    if writes():
        print_result(run, as_json=as_json, trained=progress.epochs > 0, profiled=progress.profiled)
    return 0


def _absolute(teacher: str) -> str:
    """Return a run as a later sitting, started elsewhere, will find it; other names as they are."""
    return str(Path(teacher).resolve()) if Path(teacher).exists() else teacher


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
