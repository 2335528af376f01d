"""`fit`: images and a budget in, the most accurate network that fits out, verified."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from mobilette.arch.catalogue import list_models
from mobilette.arguments import checked
from mobilette.artifact.contract import Precision
from mobilette.data.division import as_holdout
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, check_precision
from mobilette.exporters.target import package_versions
from mobilette.files import read_record, write_json
from mobilette.folders import check_new, claimed, claimed_free, new_directory
from mobilette.limits import DROP
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import recorded_path
from mobilette.search.study import STUDY, Study, check_storage, open_study
from mobilette.training.distributed import is_launched
from mobilette.training.environment import choose_device
from mobilette.training.events import Listener, Sitting
from mobilette.training.recipe import parse_duration
from mobilette.training.start import EXPECTED, names_weights
from mobilette.verification.gate import MAX_DROP
from mobilette.workflows.fit_cut import Cutting
from mobilette.workflows.fit_plan import (
    check_same_images,
    lacks_table,
    latency_tables,
    plan_race,
    planned,
)
from mobilette.workflows.fit_process import FitProcess
from mobilette.workflows.fit_proofs import Proofs
from mobilette.workflows.fit_race import Race
from mobilette.workflows.fit_record import (
    FIT,
    PLAN,
    Clock,
    FitRequest,
    Fitted,
    Journal,
    absolute,
    read_plan,
    with_absolute_tables,
)
from mobilette.workflows.fit_record import Listener as LineListener
from mobilette.workflows.fit_refine import Refining
from mobilette.workflows.fit_teacher import Teachers
from mobilette.workflows.fit_trial import Trial

_SHORTEST = 20.0  # seconds of a fit


@checked
def fit(
    data: str | Path,
    *,
    budget: str | None = None,
    scene: str | None = None,
    time: float | str = "20m",
    to: str | None = None,
    precision: Precision | None = None,
    starts: Sequence[str | Path] = (),
    teacher: str | Path | None = None,
    models: str | None = None,
    max_drop: float = MAX_DROP,
    holdout: float | str | None = None,
    groups: str | None = None,
    seed: int = 0,
    storage: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    workers: int | None = None,
    max_unusable: float = 0.1,
    callbacks: Iterable[Listener] = (),
    on_line: LineListener | None = None,
    reporter: Reporter = SILENT,
) -> Fitted:
    """Find, train, export and verify the most accurate network that fits a budget.

    Networks of every family, width and resolution within the budget are ordered by a prior; those
    in front race on the images, in trainings that are continued as long as they are among the
    better half; the winner is trained to the end of the time, exported, verified and measured.

    Args:
        data: images, as for `mobilette.train`.
        budget: terms such as ``"size<=500KB, latency<=2ms@onnx, top1>=90%"`` (docs/fit.md).
        scene: ``server``, ``phone``, ``browser`` or ``mcu``: budgets with a name.
        time: wall-clock for everything: seconds, or text such as ``"20m"``.
        to: the target; by default that of the latency or the scene, else ``onnx``.
        precision: by default the scene's; ``int8`` where size or RAM are limited; else ``fp32``.
        starts: runs to start networks of their family from, as wide or narrower.
        teacher: a run or published weights to distil from in the last training; by default the
            most accurate network that was trained on the way, or of ``starts`` with the same
            classes, if it is clearly ahead.
        models: a pattern of the networks to try, such as ``mobilenet*``.
        max_drop: percentage points of accuracy that int8 may lose.
        holdout: part of the images for a test at the end, as for `mobilette.train`.
        groups: what keeps images on one side, as for `mobilette.train`.
        seed: random seed of the trainings.
        storage: URL of the database that holds the race; by default a file in ``out``.
        out: the folder; by default a new one under ``fits/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: decoding processes; by default one per core.
        max_unusable: fraction of the images that may be unusable.
        callbacks: called with every event of the trainings.
        on_line: called with each line of fit.jsonl.
        reporter: receives the progress of reading, and remarks.

    Raises:
        InputError: a value or the images cannot be used, nothing fits the budget (the nearest
            network is named), or the time is too short.
    """
    if is_launched():
        raise InputError("fit starts its trainings itself; start it without torchrun")
    seconds = parse_duration(time) if isinstance(time, str) else float(time)
    if seconds < _SHORTEST:
        raise InputError(
            f"--time {seconds:g}s is too short to train and prove; {_SHORTEST:g}s is the least"
        )
    DROP.check("--max-drop", max_drop)
    names = list_models(models or "*")
    if models is None:  # without batch norm they do not learn at the rate of the others
        names = [name for name in names if f"{name}_bn" not in names]
    if not names:
        raise InputError(f"--models {models!r}: no network matches")
    asked = FitRequest(
        data=recorded_path(data),
        budget=None if budget is None else with_absolute_tables(budget),
        scene=scene,
        to=to,
        precision=precision,
        seconds=seconds,
        starts=tuple(map(absolute, starts)),
        teacher=None if teacher is None else absolute(teacher),
        names=tuple(names),
        max_drop=max_drop,
        seed=seed,
        storage=storage,
        device=device,
        workers=workers,
        max_unusable=max_unusable,
        holdout=as_holdout(holdout),
        groups=groups,
        study=f"{STUDY} {secrets.token_hex(8)}",
    )
    sitting = Sitting(callbacks=tuple(callbacks), reporter=reporter)
    return run_fit(asked, out=out, force=force, sitting=sitting, on_line=on_line)


def run_fit(
    asked: FitRequest,
    *,
    out: str | Path | None,
    force: bool = False,
    sitting: Sitting,
    on_line: LineListener | None = None,
) -> Fitted:
    """Do what `fit` does, with the listeners and clock of ``sitting``."""
    sitting = sitting.begin()
    want = asked.wanted
    check_precision(want.target, want.precision)
    package_versions(TARGETS[want.target])
    choose_device(asked.device)
    if asked.teacher is not None and not names_weights(asked.teacher):
        raise InputError(f"--teacher {asked.teacher!r}: {EXPECTED}")
    check_storage(asked.storage)
    if out is not None:
        check_new(Path(out), holds=FIT, force=force)
    makes_table = lacks_table(want, left=asked.seconds)
    tables = latency_tables(want, left=0.0, reporter=SILENT if makes_table else sitting.reporter)
    left = asked.seconds - sitting.elapsed()
    plan = plan_race(asked, tables, left=left, reporter=sitting.reporter)
    with ExitStack() as stack:
        with ExitStack() as claims:
            if out is None:
                free = Path("fits") / Path(asked.data).resolve().name
                folder = claims.enter_context(claimed_free(free))
            else:
                folder = Path(out)
                claims.enter_context(claimed(folder, remark=sitting.reporter.remark))
            source = Path(asked.data)
            with new_directory(folder, force=force, holds=FIT, source=source) as unfinished:
                write_json(unfinished / FIT, asdict(asked))
                if not makes_table:  # else it is planned with the table
                    write_json(unfinished / PLAN, asdict(plan))
            clock = Clock(folder, asked.seconds, sitting)
            try:
                _plan(folder, asked, clock, sitting, on_line)
            except InputError:
                shutil.rmtree(folder)
                raise
            study = stack.enter_context(open_study(folder, asked.storage, asked.study))
        return _go_on(folder, asked, study, clock, sitting, on_line)


@checked
def resume_fit(
    path: str | Path,
    *,
    callbacks: Iterable[Listener] = (),
    on_line: LineListener | None = None,
    reporter: Reporter = SILENT,
) -> Fitted:
    """Go on with a fit that was stopped, or help one that another process is at.

    Raises:
        InputError: ``path`` is no folder of a fit, or the images have changed.
    """
    path = Path(path)
    if not (path / FIT).is_file():
        raise InputError(f"{path}: no fit ({FIT} is missing)")
    asked = read_record(path / FIT, FitRequest)
    sitting = Sitting(callbacks=tuple(callbacks), reporter=reporter)
    return go_on(path, asked, sitting=sitting, on_line=on_line)


def go_on(
    path: Path, asked: FitRequest, *, sitting: Sitting, on_line: LineListener | None = None
) -> Fitted:
    """Do what `resume_fit` does, with the listeners and clock of ``sitting``."""
    if (path / PLAN).exists():
        check_same_images(asked, read_plan(path))
    sitting = sitting.begin()
    clock = Clock(path, asked.seconds, sitting)
    _plan(path, asked, clock, sitting, on_line)
    with open_study(path, asked.storage, asked.study) as study:
        return _go_on(path, asked, study, clock, sitting, on_line)


def _plan(
    folder: Path,
    asked: FitRequest,
    clock: Clock,
    sitting: Sitting,
    on_line: LineListener | None,
) -> None:
    """Plan the fit unless it is; whoever is stopped meanwhile knows the folder to go on with."""
    clock.save()
    journal = Journal(folder, on_line or (lambda line: None))
    journal.tell("planning", folder=str(folder))
    plan = planned(folder, asked, clock, reporter=sitting.reporter)
    journal.tell("begun", folder=str(folder), fitting=plan.fitting, measure=plan.measure)


def _go_on(
    folder: Path,
    asked: FitRequest,
    study: Study,
    clock: Clock,
    sitting: Sitting,
    on_line: LineListener | None,
) -> Fitted:
    trial = Trial(
        asked=asked,
        folder=folder,
        # All that train at one resolution share the images that the first has read.
        sitting=replace(sitting, callbacks=(*sitting.callbacks, clock), setup_is_free=True),
    )
    journal = Journal(folder, on_line or (lambda line: None))
    proofs = Proofs(asked=asked, clock=clock, journal=journal, trial=trial)
    teachers = Teachers(asked=asked, journal=journal, trial=trial)
    race = Race(asked=asked, clock=clock, journal=journal, study=study, trial=trial, proofs=proofs)
    work = FitProcess(
        asked=asked,
        clock=clock,
        journal=journal,
        study=study,
        trial=trial,
        proofs=proofs,
        race=race,
        refining=Refining(
            race=race, cutting=Cutting(study=study, proofs=proofs, teachers=teachers)
        ),
        teachers=teachers,
    )
    try:
        return work.run()
    finally:
        clock.save()
