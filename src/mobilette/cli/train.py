"""``mobilette train``: turns images into a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Promise,
    Resize,
    ResolutionOption,
    Seed,
    Threads,
    Time,
    Workers,
    ranged,
)
from mobilette.errors import InputError
from mobilette.limits import FOLDS, IN_CHANNELS, WIDTH_MULT

if TYPE_CHECKING:
    from mobilette.cli.training_output import TrainingProgress
    from mobilette.run.directory import Run
    from mobilette.workflows.folds_record import Folds

# What a resumed run accepts; everything else is recorded.
WITH_RESUME = {"data", "resume", "device", "threads", "workers", "tensorboard", "as_json"}
# Recipe keys: with --force, a resumed run changes them.
OF_THE_RECIPE = {"epochs", "batch_size", "lr", "time", "promise", "settings", "force"}

# What trains one network alone.
WITHOUT_FOLDS = {"holdout", "profile", "promise", "tensorboard", "without"}

Data = Annotated[
    str | None, typer.Argument(help="A folder of images, a list, digits, cifar10 or cifar100.")
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Name of the network [as in --from, or mobilenet_v2]."),
]
WidthMult = Annotated[
    float | None, ranged("--width-mult", WIDTH_MULT, "Width multiplier [as in --from, or 1.0].")
]
InChannels = Annotated[
    int | None,
    ranged(
        "--in-channels", IN_CHANNELS, "Channels: 3 for colour, 1 for grey [as in --from, or 3]."
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess", help="Preset: torch, tf, caffe, unit or raw [as in --from, or torch]."
    ),
]
ResizeOption = Annotated[
    Resize | None,
    typer.Option("--resize", help="How images are fitted to the input [as in --from, or crop]."),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Name or file of a recipe [quick; from weights: transfer]."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")
]
FromOption = Annotated[
    str,
    typer.Option("--from", help="Initial weights: auto, scratch, a run, a file or published ones."),
]
Without = Annotated[
    Path | None,
    typer.Option("--without", help="A filled-in audit.csv: images to leave out or relabel."),
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", help="A run or published weights to distil from.")
]
ResumeOption = Annotated[
    Path | None, typer.Option("--resume", help="The run to continue.", metavar="RUN")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:N or mps [auto].")
]
Holdout = Annotated[
    str | None,
    typer.Option("--holdout", help="Part of the images to hold out for a test, such as 20%."),
]
Groups = Annotated[
    str | None,
    typer.Option(
        "--groups",
        help="Keep groups on one side: by a column, 'folder' or a pattern of names.",
        metavar="COLUMN|REGEX|folder",
    ),
]
FoldsOption = Annotated[
    int | None, ranged("--folds", FOLDS, "Train this many folds, for a mean and its spread.")
]
Profile = Annotated[bool, typer.Option("--profile", help="Print where the time of a step went.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write TensorBoard events into the run.")
]


def train(
    context: typer.Context,
    data: Data = None,
    model: ModelName = None,
    width_mult: WidthMult = None,
    resolution: ResolutionOption = None,
    form: FormOption = None,
    in_channels: InChannels = None,
    preprocess: PreprocessOption = None,
    resize: ResizeOption = None,
    recipe: RecipeOption = None,
    epochs: Epochs = None,
    time: Time = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    seed: Seed = None,
    settings: SetOption = None,
    start: FromOption = "auto",
    teacher: Teacher = None,
    without: Without = None,
    promise: Promise = None,
    out: Out = None,
    resume: ResumeOption = None,
    device: DeviceOption = None,
    threads: Threads = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    holdout: Holdout = None,
    groups: Groups = None,
    folds: FoldsOption = None,
    profile: Profile = False,
    tensorboard: TensorBoard = False,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Train a network on images, or finish a run that was stopped.

    Exit status 1 if a promise cannot be kept.
    """
    _check_request(context, data, resume)
    from mobilette.training.process import let_threads_sleep

    let_threads_sleep()
    from mobilette.training.distributed import is_restarted
    from mobilette.training.process import keep_freed_memory, set_threads
    from mobilette.training.recipe import merge_keys, parse_setting
    from mobilette.workflows.folds import cross_validate, holds_folds, resume_folds
    from mobilette.workflows.resume import is_of_this_launch, recorded_threads
    from mobilette.workflows.resume import resume as resume_run
    from mobilette.workflows.train import train as train_run

    keys = dict(parse_setting(text) for text in settings or [])
    if teacher is not None:
        keys["teacher"] = _absolute(teacher)
    keys = merge_keys(keys, epochs=epochs, time=time, seed=seed, promise=promise)
    keys = merge_keys(keys, batch_size=batch_size, lr=lr)
    if is_restarted() and resume is None and out is not None and is_of_this_launch(out):
        resume, keys = out, {}  # torchrun restarts with the same arguments
    keep_freed_memory()
    set_threads(threads or (recorded_threads(resume) if resume else None))
    request: dict[str, Any] = {"model": model, "width_mult": width_mult, "resolution": resolution}
    request |= {"form": form, "in_channels": in_channels, "preprocess": preprocess}
    request |= {"resize": resize, "recipe": recipe, "start": start, "max_unusable": max_unusable}
    request |= {"out": out, "force": force, "device": device or "auto", "groups": groups}

    def work(progress: TrainingProgress) -> Run | Folds:
        told: dict[str, Any] = {"callbacks": [progress], "reporter": progress.reporter}
        if resume is not None and holds_folds(resume):
            return resume_folds(resume, **told)
        told |= {"overrides": keys, "workers": workers}
        if folds is not None:
            return cross_validate(str(data), folds=folds, time=time, **request, **told)
        told["tensorboard"] = tensorboard
        if resume is not None:
            return resume_run(resume, data=data, force=force, device=device, **told)
        told |= {"holdout": holdout, "without": without, "profile": profile}
        return train_run(str(data), **request, **told)

    return _show(work, as_json=as_json)


def _show(work: Callable[[TrainingProgress], Run | Folds], *, as_json: bool) -> int:
    """Do ``work`` with its progress shown, print the result and return the status."""
    from mobilette.cli.output import remarks
    from mobilette.cli.training_output import TrainingProgress, print_folds, print_result
    from mobilette.reporting.outcome import outcome
    from mobilette.training.distributed import writes
    from mobilette.workflows.folds_record import Folds

    try:
        with TrainingProgress(shown=writes()) as progress:
            made = work(progress)
    except KeyboardInterrupt as stop:
        remarks().print(f"mobilette: {stop if stop.args else 'stopped'}")
        return 130
    if isinstance(made, Folds):
        print_folds(made, as_json=as_json)
        return 0
    if writes():
        print_result(made, as_json=as_json, trained=progress.epochs > 0, profiled=progress.profiled)
    return 0 if outcome(made).promise_kept else 1


def _check_request(context: typer.Context, data: str | None, resume: Path | None) -> None:
    if data is None and resume is None:
        raise InputError("'train' needs DATA (a folder of images, or digits), or --resume RUN")
    chosen = {name for name in context.params if _is_given(context, name)}
    if resume is not None and chosen - WITH_RESUME - OF_THE_RECIPE:
        names = ", ".join(sorted(chosen - WITH_RESUME - OF_THE_RECIPE))
        raise InputError(f"--resume finishes a run as it was begun; it takes no {names}")
    if "folds" in chosen and chosen & WITHOUT_FOLDS:
        names = ", ".join(sorted(chosen & WITHOUT_FOLDS))
        raise InputError(f"--folds holds out one part after the other; it takes no {names}")


def _absolute(teacher: str) -> str:
    """Return the absolute path of a run, for resuming from another folder; or a name unchanged."""
    return str(Path(teacher).resolve()) if Path(teacher).exists() else teacher


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
