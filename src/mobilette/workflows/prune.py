"""`prune`: a model and images in, a run of a narrower network out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

from mobilette.arguments import checked
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.exporters.export import open_trained_run
from mobilette.folders import check_new, claimed, claimed_free
from mobilette.limits import PRUNED_PART, PRUNING_STEPS, SHORT_STEPS
from mobilette.model.directory import ARCH
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run, check_apart
from mobilette.run.subject import folder_name, resolve
from mobilette.run.trained import trained_on
from mobilette.search.limits_of_budget import limits_of
from mobilette.training.distributed import is_launched
from mobilette.training.environment import choose_device
from mobilette.training.events import Listener, Sitting
from mobilette.training.recipe import SLICED, Recipe, load_recipe, merge_keys
from mobilette.workflows.prune_budget import SHORT_STEPS as DEFAULT_SHORT_STEPS
from mobilette.workflows.prune_budget import ToBudget
from mobilette.workflows.prune_images import with_classes_of
from mobilette.workflows.prune_keep import ToPart, seconds_to_cut
from mobilette.workflows.prune_record import Importance
from mobilette.workflows.prune_request import PruneRequest, for_teacher
from mobilette.workflows.prune_time import PruningTime


@checked
def prune(
    run: Run | Model | str | Path,
    data: str | Path,
    *,
    keep: float | None = None,
    budget: str | None = None,
    importance: Importance = "taylor",
    steps: int | None = None,
    short_steps: int | None = None,
    recipe: str | Path | Recipe | None = None,
    epochs: int | None = None,
    time: float | str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    overrides: Mapping[str, object] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    workers: int | None = None,
    max_unusable: float = 0.1,
    include_trained: bool = False,
    callbacks: Iterable[Listener] = (),
    reporter: Reporter = SILENT,
) -> Run:
    """Cut the least important channels of a network, fine-tune it and return the new run.

    With ``keep``, each step scores the channels on training images, cuts them
    (`mobilette.compression.prune_channels`), measures batch norms again and trains the network with
    the unpruned one as teacher. ``pruned.json`` in the new run records every step.

    With ``budget``, NetAdapt (`mobilette.search.netadapt`) cuts one group of channels after the
    other until the network fits; then it is trained likewise and measured. ``budget.json`` says
    what it needs. A call that was killed goes on where it was.

    Args:
        run: a trained or imported run, its directory, or a `Model`; it is not changed. A `Model`
            that no run holds is saved beside the new run, as ``NAME-teacher``.
        data: images of its classes, as for `mobilette.train`.
        keep: fraction of the mult-adds to keep, between 0 and 1.
        budget: instead of ``keep``: what the network may need, such as ``"latency<=1ms@onnx"`` or
            ``"madds<=20M, size<=500KB"``; in fp32.
        importance: ``taylor``, the first-order change of the loss, or, with ``keep``, ``norm``,
            from the weights alone.
        steps: how often to cut and fine-tune, by the same factor each time; with ``budget``, the
            iterations of NetAdapt, by default at most 12.
        short_steps: with ``budget``, the steps of training of each proposal; 20 by default.
        recipe: for the fine-tuning after each step; by default ``sliced``.
        epochs: passes over the images in each step.
        time: wall-clock for all steps together: seconds, or text such as ``"10m"``. Fine-tuning
            gets at least half, in equal parts; with ``budget`` what cutting to it leaves, where
            that takes longer. By default the recipe decides.
        batch_size: images per step of fine-tuning.
        lr: peak learning rate of fine-tuning.
        seed: random seed of fine-tuning.
        overrides: other recipe keys to replace in each step.
        out: the run directory; by default a new one under ``runs/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: decoding processes; by default one per core.
        max_unusable: fraction of the images that may be unusable.
        include_trained: whether images that ``run`` was trained on may be held out.
        callbacks: called with every event of fine-tuning, as for `mobilette.train`.
        reporter: receives the progress of reading, and remarks.

    Raises:
        InputError: a value, the model, the images or the output directory cannot be used, the
            network cannot be cut so far (the message names the smallest), or the time is too
            short (`TooShortError`).
    """
    return run_prune(
        run,
        data,
        keep=keep,
        budget=budget,
        importance=importance,
        steps=steps,
        short_steps=short_steps,
        recipe=load_recipe(
            recipe or SLICED,
            overrides=merge_keys(
                overrides, epochs=epochs, time=time, batch_size=batch_size, lr=lr, seed=seed
            ),
        ),
        limits_all=time is not None,
        out=out,
        force=force,
        device=device,
        reading=Reading(
            workers=workers, max_unusable=max_unusable, include_trained=include_trained
        ),
        sitting=Sitting(callbacks=tuple(callbacks), reporter=reporter),
    )


def run_prune(
    run: Run | Model | str | Path,
    data: str | Path,
    *,
    keep: float | None = None,
    budget: str | None = None,
    importance: Importance = "taylor",
    steps: int | None = None,
    short_steps: int | None = None,
    recipe: Recipe,
    limits_all: bool,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    reading: Reading,
    sitting: Sitting,
) -> Run:
    """Do what `prune` does, with the listeners and clock of ``sitting``.

    ``limits_all``: the recipe's time limit is for all steps together, not for each.
    """
    sitting = sitting.begin()
    if (keep is None) == (budget is None):
        raise InputError("prune: give either --keep, a part of the mult-adds, or --budget")
    if keep is not None:
        PRUNED_PART.check("keep", keep)
        if short_steps is not None:
            raise InputError("--short-steps goes with --budget, not with --keep")
    elif importance != "taylor":
        raise InputError("--importance norm goes with --keep; a budget's cuts are by taylor")
    if steps is not None:
        PRUNING_STEPS.check("steps", steps)
    if short_steps is not None:
        SHORT_STEPS.check("short_steps", short_steps)
    choose_device(device)
    if is_launched():
        raise InputError("pruning runs in one process; start it without torchrun")
    model, source = resolve(open_trained_run(run) if isinstance(run, str | PathLike) else run)
    if out is not None:
        check_new(Path(out), holds=ARCH, force=force)
        if source is None:
            check_new(for_teacher(Path(out)), holds=ARCH, force=force)
        else:
            check_apart(Path(out), source.path, "which is pruned and teaches")
    request = PruneRequest(
        model=model,
        source=source,
        data=data,
        recipe=recipe,
        limit=recipe.time_limit if limits_all else 0.0,
        device=device,
        reading=reading,
        sitting=sitting,
        before=trained_on(source or model),
    )
    images = with_classes_of(model, find_images(data))  # before a latency table is measured
    pruning: ToPart | ToBudget
    if budget is not None:
        limits = limits_of(budget, model.arch, reporter=sitting.reporter)
        limits.check_reachable(model.arch)
        pruning = ToBudget(
            request=request,
            budget=budget,
            limits=limits,
            iterations=steps,
            short_steps=DEFAULT_SHORT_STEPS if short_steps is None else short_steps,
        )
    else:
        assert keep is not None
        pruning = ToPart(
            request=request,
            keep=keep,
            importance=importance,
            steps=steps or 1,
            time=PruningTime(request.limit, steps=steps or 1, sitting=sitting),
            cutting=seconds_to_cut(model, keep, sitting),
        )
    remark = sitting.reporter.remark
    for line in (*images.remarks, *request.before.remarks()):
        remark(line)
    with ExitStack() as claim:
        if out is None:
            free = Path("runs") / f"{folder_name(source or model)}-pruned"
            out = claim.enter_context(claimed_free(free))
        else:
            claim.enter_context(claimed(Path(out), remark=remark))
        return pruning.into(Path(out), images, force=force)
