"""``mobilette prune``: cuts channels of a run."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mobilette.cli.options import (
    BatchSize,
    Device,
    Epochs,
    Force,
    IncludeTrained,
    Json,
    LearningRate,
    MaxUnusable,
    Out,
    Seed,
    Threads,
    Time,
    Workers,
    ranged,
)
from mobilette.limits import PRUNED_PART, PRUNING_STEPS, SHORT_STEPS

if TYPE_CHECKING:
    from mobilette.run.directory import Run
    from mobilette.workflows.prune_budget import BudgetMet
    from mobilette.workflows.prune_record import Pruning


Source = Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")]
Data = Annotated[str, typer.Argument(help="Images of its classes, or a named set.")]
Keep = Annotated[
    float | None, ranged("--keep", PRUNED_PART, "Fraction of the mult-adds to keep, such as 0.7.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", help="Instead of --keep: limits, such as 'latency<=1ms@onnx, size<=1MB'."
    ),
]
ImportanceOption = Annotated[
    Literal["taylor", "norm"],
    typer.Option(
        "--importance", help="Rank channels by their effect on the loss or by their norm."
    ),
]
Steps = Annotated[
    int | None,
    ranged(
        "--steps",
        PRUNING_STEPS,
        "Rounds of cutting and fine-tuning [1]; with --budget, of cutting [up to 12].",
    ),
]
ShortSteps = Annotated[
    int | None,
    ranged(
        "--short-steps",
        SHORT_STEPS,
        "With --budget: steps of training before a cut is judged [20].",
    ),
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Recipe of the fine-tuning [sliced].")
]


def prune(
    run: Source,
    data: Data,
    keep: Keep = None,
    budget: Budget = None,
    importance: ImportanceOption = "taylor",
    steps: Steps = None,
    short_steps: ShortSteps = None,
    recipe: RecipeOption = None,
    epochs: Epochs = None,
    time: Time = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    seed: Seed = None,
    out: Out = None,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    include_trained: IncludeTrained = False,
    as_json: Json = False,
) -> int:
    """Cut the least important channels of a run and fine-tune it.

    The result is another run, narrower. The exit status is 1 if it needs more than --budget.
    """
    from mobilette.training.process import let_threads_sleep

    let_threads_sleep()
    from mobilette.cli.output import remarks
    from mobilette.cli.training_output import TrainingProgress
    from mobilette.reporting.pruning import write_image
    from mobilette.training.process import keep_freed_memory, set_threads
    from mobilette.workflows.prune import prune as prune_run
    from mobilette.workflows.prune_budget import read_budget
    from mobilette.workflows.prune_record import read_pruning

    keep_freed_memory()
    set_threads(threads)
    try:
        with TrainingProgress() as progress:
            pruned = prune_run(
                run,
                data,
                keep=keep,
                budget=budget,
                importance=importance,
                steps=steps,
                short_steps=short_steps,
                recipe=recipe,
                epochs=epochs,
                time=time,
                batch_size=batch_size,
                lr=lr,
                seed=seed,
                out=out,
                force=force,
                device=device,
                workers=workers,
                max_unusable=max_unusable,
                include_trained=include_trained,
                callbacks=[progress],
                reporter=progress.reporter,
            )
    except KeyboardInterrupt as stop:
        remarks().print(f"mobilette: {stop if stop.args else 'stopped'}")
        return 130
    pruning = read_pruning(pruned.path)
    write_image(pruning, pruned.path)
    met = read_budget(pruned.path) if budget is not None else None
    _print_result(pruned, pruning, met, as_json=as_json)
    return 0 if met is None or met.met else 1


def _print_result(run: Run, pruning: Pruning, met: BudgetMet | None, *, as_json: bool) -> None:
    from mobilette.cli.output import print_json, remarks, say_trained

    last = pruning.steps[-1]
    if as_json:
        budgeted = {} if met is None else {"met": met.met, "terms": _terms(met)}
        print_json(
            {
                "run": str(run.path),
                "keep": last.madds / pruning.madds,
                "madds": last.madds,
                "params": last.params,
                "accuracy_before": pruning.accuracy,
                "trained_left_out": pruning.trained_left_out,
                "includes_trained": pruning.includes_trained,
                "steps": [asdict(step) for step in pruning.steps],
                **budgeted,
            }
        )
        return
    _print_table(pruning)
    out = remarks()
    for term in met.terms if met is not None else ():
        how = "measured" if term.measured else "counted or predicted"
        out.print(f"{'PASS' if term.met else 'FAIL'} {term.text}: {term.said}, {how}")
    if said := say_trained(pruning.trained_left_out, included=pruning.includes_trained):
        out.print(f"measured on images held out{said}")
    out.print(
        f"{run.path}: {last.madds / pruning.madds:.1%} of the mult-adds, "
        f"{_points(last.tuned - pruning.accuracy)} points",
    )
    out.print(f"next: mobilette export {shlex.quote(str(run.path))} --to onnx")


def _terms(met: BudgetMet) -> list[dict[str, object]]:
    return [{**asdict(term), "met": term.met} for term in met.terms]


def _print_table(pruning: Pruning) -> None:
    from mobilette.cli.output import human_count, table

    whole = (human_count(pruning.madds), "100.0%", human_count(pruning.params))
    rows = [("unpruned", *whole, "", f"{pruning.accuracy:.2%}", "")]
    rows += [
        (
            str(number),
            human_count(step.madds),
            f"{step.madds / pruning.madds:.1%}",
            human_count(step.params),
            f"{step.cut:.2%}",
            f"{step.tuned:.2%}",
            _points(step.tuned - pruning.accuracy),
        )
        for number, step in enumerate(pruning.steps, 1)
    ]
    titles = ("step", "mult-adds", "of all", "params", "after the cut", "fine-tuned", "points")
    print(table(titles, rows, gap=2))


def _points(difference: float) -> str:
    return f"{round(100 * difference, 2) + 0.0:+.2f}"  # the sum turns -0 into 0
