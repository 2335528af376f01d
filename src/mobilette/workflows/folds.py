"""`cross_validate`: a training per fold, each measured on images that nothing was chosen by."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from mobilette.arch.scale import Form, Resolution
from mobilette.arguments import checked
from mobilette.data.images import ImageSet
from mobilette.data.preprocess import Resize
from mobilette.data.reading import Reading
from mobilette.errors import InputError
from mobilette.files import read_record, write_json
from mobilette.folders import check_new, claimed, claimed_free, new_directory
from mobilette.limits import FOLDS
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import RECIPE, check_apart, is_run, recorded_path
from mobilette.run.tested import read_tested
from mobilette.training.distributed import is_launched
from mobilette.training.events import Listener, Sitting
from mobilette.training.recipe import Recipe, merge_keys
from mobilette.training.time_plan import TooShortError
from mobilette.workflows.folds_record import PREDICTIONS, Asked, Folds, write_predictions
from mobilette.workflows.resume import run_resume
from mobilette.workflows.train import run_train

FOLDS_FILE = "folds.json"


@checked
def cross_validate(
    data: str | Path,
    *,
    folds: int,
    model: str | None = None,
    width_mult: float | None = None,
    resolution: Resolution | None = None,
    form: Form | None = None,
    in_channels: int | None = None,
    preprocess: str | None = None,
    resize: Resize | None = None,
    recipe: str | Path | Recipe | None = None,
    epochs: int | None = None,
    time: float | str | None = None,
    overrides: Mapping[str, object] | None = None,
    start: str | Path = "auto",
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    workers: int | None = None,
    max_unusable: float = 0.1,
    groups: str | None = None,
    callbacks: Iterable[Listener] = (),
    reporter: Reporter = SILENT,
) -> Folds:
    """Train once per fold of a set, and measure each run on the fold that it has not seen.

    The fold is the run's ``test``, a fifth of the others its ``val``. ``train`` and ``val`` of a
    divided set are put together, its ``test`` is left aside.

    Args:
        data: a folder of images, a list, shards or a named set (docs/training.md).
        folds: how many.
        model: as for `mobilette.train`, like the other options of network and recipe.
        width_mult: the width multiplier.
        resolution: a side or (height, width) in pixels.
        form: ``small`` or ``full``.
        in_channels: 3, or 1 for grey.
        preprocess: preset of mean and std.
        resize: ``crop``, ``squash`` or ``pad``.
        recipe: a name, a TOML file or a `Recipe`.
        epochs: passes over the images, for each fold.
        time: wall-clock of all folds together, of which each has an equal part.
        overrides: other recipe keys to replace, for example ``{"lr": 0.1}``.
        start: initial weights, by name or path; they must not know the images.
        out: the folder for the runs, ``fold-1`` and so on; by default a new one under ``runs/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: decoding processes; by default one per core.
        max_unusable: fraction of the images that may be unusable.
        groups: what keeps images in one fold, as for `mobilette.train`.
        callbacks: called with every event of each training.
        reporter: receives the progress of reading, and remarks.

    Raises:
        InputError: as for `mobilette.train`, or a class has fewer images, or groups, than needed.
    """
    FOLDS.check("--folds", folds)
    keys = merge_keys(overrides, epochs=epochs, time=time)
    asked = Asked(
        data=recorded_path(data),
        folds=folds,
        groups=groups,
        start=str(Path(start).resolve()) if Path(start).exists() else str(start),
        model=model,
        width_mult=width_mult,
        resolution=resolution,
        form=form,
        in_channels=in_channels,
        preprocess=preprocess,
        resize=resize,
        device=device,
        workers=workers,
        max_unusable=max_unusable,
    )
    sitting = Sitting(callbacks=tuple(callbacks), reporter=reporter)
    return _begin(asked, recipe, keys, out=out, force=force, sitting=sitting)


def _begin(
    asked: Asked,
    recipe: str | Path | Recipe | None,
    overrides: Mapping[str, object],
    *,
    out: str | Path | None,
    force: bool,
    sitting: Sitting,
) -> Folds:
    if is_launched():
        raise InputError("folds are trained in one process; start it without torchrun")
    _check_classes(asked.images(), asked)
    limit = overrides.get("time_limit")
    if isinstance(limit, int | float):
        overrides = {**overrides, "time_limit": limit / asked.folds}
    with ExitStack() as claims:
        if out is None:
            name = f"{Path(asked.data).name}-folds"
            folder = claims.enter_context(claimed_free(Path("runs") / name))
        else:
            folder = Path(out)
            check_new(folder, holds=FOLDS_FILE, force=force)
            claims.enter_context(claimed(folder, remark=sitting.reporter.remark))
        if Path(asked.start).is_dir():
            check_apart(folder, Path(asked.start), "which training starts from")
        source = Path(asked.data)
        with new_directory(folder, holds=FOLDS_FILE, force=force, source=source) as unfinished:
            write_json(unfinished / FOLDS_FILE, asdict(asked))
        try:
            return _train_all(folder, asked, recipe, overrides, sitting)
        except BaseException:
            if not is_run(folder / "fold-1"):  # refused: nothing was begun
                shutil.rmtree(folder, ignore_errors=True)
            raise


@checked
def resume_folds(
    path: str | Path,
    *,
    callbacks: Iterable[Listener] = (),
    reporter: Reporter = SILENT,
) -> Folds:
    """Finish folds that were stopped: those that are finished stay, the one begun is resumed.

    Raises:
        InputError: ``path`` is no folder of folds, its first one was not begun, or the images have
            changed.
    """
    path = Path(path)
    asked = read_record(path / FOLDS_FILE, Asked)
    if not is_run(path / "fold-1"):
        raise InputError(f"{path}: no fold was begun; train again with --force")
    with claimed(path, remark=reporter.remark):
        sitting = Sitting(callbacks=tuple(callbacks), reporter=reporter)
        return _train_all(path, asked, path / "fold-1" / RECIPE, {}, sitting)


def holds_folds(path: Path) -> bool:
    """Whether ``path`` looks like a folder that `cross_validate` has made."""
    return (path / FOLDS_FILE).is_file()


def _check_classes(images: ImageSet, asked: Asked) -> None:
    """Raise `InputError` if a class is too small for the folds."""
    if images.multi_label:
        return
    counts = Counter(image.label for image in images.splits["all"])
    groups = {(image.label, image.group or image.name) for image in images.splits["all"]}
    wholes = Counter(label for label, _ in groups)
    for label, name in enumerate(images.classes):
        if counts[label] < max(asked.folds, 3):
            raise InputError(
                f"{images.name}: the class {name!r} has {counts[label]} images, too few for "
                f"{asked.folds} folds; {max(asked.folds, 3)} are needed"
            )
        if wholes[label] < 3:
            raise InputError(
                f"{images.name}: the images of the class {name!r} are in {wholes[label]} groups; "
                "three are needed, one to train on, one for val and one for test"
            )


def _train_all(
    path: Path,
    asked: Asked,
    recipe: str | Path | Recipe | None,
    overrides: Mapping[str, object],
    sitting: Sitting,
) -> Folds:
    runs = []
    for number in range(1, asked.folds + 1):
        sitting.reporter.remark(f"fold {number} of {asked.folds}")
        place = path / f"fold-{number}"
        if is_run(place):
            run = run_resume(
                place, data=asked.data, overrides={}, workers=asked.workers, sitting=sitting
            )
            runs.append(run)
            continue
        try:
            run = run_train(
                asked.data,
                asked.choice,
                start=asked.start,
                recipe=recipe,
                overrides=overrides,
                out=place,
                device=asked.device,
                reading=Reading(workers=asked.workers, max_unusable=asked.max_unusable),
                division=asked.division(number),
                sitting=sitting,
            )
        except TooShortError as error:
            needed = error.needed * asked.folds
            raise TooShortError(
                f"{error}, for each of {asked.folds} folds, which share --time", needed=needed
            ) from None
        runs.append(run)
    write_predictions(path, asked, runs)
    tested = [found for run in runs if (found := read_tested(run)) is not None]
    if len(tested) < len(runs):
        raise InputError(f"{path}: a fold has no usable image to measure its run on")
    return Folds(path=path, runs=tuple(runs), tested=tuple(tested), predictions=path / PREDICTIONS)
