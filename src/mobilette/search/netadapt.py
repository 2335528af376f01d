"""NetAdapt: a trained network cut step by step, each cut chosen by what it costs and what it loses.

Yang et al. 2018, "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications",
arXiv 1804.03230, Algorithm 1. In each iteration every group of tied channels proposes the smallest
cut with which the network meets the iteration's target; each proposal is trained for a few steps;
the best is kept. The best has the largest gain in accuracy per cost saved, Δaccuracy / |Δlatency|
(Howard et al. 2019, arXiv 1905.02244, section 5.2; Yang et al. take the highest accuracy). The
targets come closer by `DECAY` in each iteration, as in the authors' code (master.py:
``reduction_ratio_decay`` 0.96, with a first step of 2.5% of the latency).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.compression.channel_scores import Scores
from mobilette.compression.pruning import cut_to, lost_score
from mobilette.counting.cost import cost as count
from mobilette.errors import InputError
from mobilette.files import is_file, read_record, write_json
from mobilette.folders import make_directory
from mobilette.limits import SCORE, SHORT_STEPS
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.search.netadapt_record import (
    RECORD,
    Adaptation,
    By,
    Iteration,
    iterations_to,
    targets_to,
)
from mobilette.search.practice import Judgement, Practice
from mobilette.search.proposals import CostOf, Proposal, narrowest, propose


def best_cut(
    model: Model,
    cost: CostOf,
    *,
    target: float,
    practice: Practice,
    before: Judgement,
    steps: int,
    begun: int = 0,
    most: int = 0,
    by: By = "loss",
    now: Callable[[], float] = time.perf_counter,
) -> tuple[Model, Iteration] | None:
    """Return the best network with one more group cut, after its short training.

    Args:
        model: the network so far.
        cost: what is saved.
        target: the cost to be met.
        practice: trains and judges.
        before: what ``model`` answers to the images kept apart.
        steps: of each short training; 0 measures batch norms only.
        begun: steps of short trainings before, which decides what images come.
        most: so many of the proposals are trained, those that lose the least score of channels per
            cost saved; 0 for all.
        by: ``loss`` or ``score`` tells which is best. The score is the paper's accuracy; on a few
            hundred images many proposals have the same.
        now: a clock, in seconds.

    Returns:
        The network and what is recorded; ``None`` if nothing can be cut.
    """
    started, dear = now(), cost(model.arch)
    scores = practice.scores(model)
    proposals = propose(model.arch, cost, target=target)
    chosen = _cheapest(model, scores, proposals, dear, most)
    best: tuple[float, Model, Judgement, Proposal] | None = None
    for proposal in chosen:
        candidate = practice.trained(cut_to(model, scores, proposal.arch), steps, begun=begun)
        judged = practice.judged(candidate)
        gained = judged.score - before.score if by == "score" else before.loss - judged.loss
        ratio = gained / (dear - proposal.cost)
        if best is None or ratio > best[0]:
            best = ratio, candidate, judged, proposal
    if best is None:
        return None
    _, candidate, judged, proposal = best
    counted = count(proposal.arch)
    return candidate, Iteration(
        target=target,
        cost=proposal.cost,
        score=judged.score,
        loss=min(judged.loss, SCORE.highest),
        layers=proposal.layers,
        before=proposal.before,
        after=proposal.after,
        madds=counted.madds,
        params=counted.params,
        proposals=len(proposals),
        trained=len(chosen),
        seconds=now() - started,
    )


def _cheapest(
    model: Model, scores: Scores, proposals: list[Proposal], dear: float, most: int
) -> list[Proposal]:
    """Return the ``most`` proposals that lose the least score per cost saved."""
    if not most or len(proposals) <= most:
        return proposals

    def per_cost(proposal: Proposal) -> float:
        return lost_score(model.arch, scores, proposal.arch) / (dear - proposal.cost)

    return sorted(proposals, key=per_cost)[:most]


def adapt(
    model: Model,
    cost: CostOf,
    *,
    budget: float,
    practice: Practice,
    folder: Path,
    iterations: int | None = None,
    steps: int = 20,
    most: int = 0,
    by: By = "loss",
    reporter: Reporter = SILENT,
    now: Callable[[], float] = time.perf_counter,
    left: Callable[[], float] | None = None,
) -> tuple[Model, Adaptation]:
    """Cut ``model`` until it costs at most ``budget``, or nothing more can be cut.

    Every iteration leaves ``netadapt.json`` and its network, ``0001`` and so on, in ``folder``;
    what a killed process has begun is found there and continued.

    Args:
        model: a trained network.
        cost: what the budget limits; the same function if this goes on.
        budget: the cost to be reached.
        practice: trains and judges.
        folder: made if it is missing.
        iterations: to the budget; by default so many that the first saves 2.5%.
        steps: of each short training.
        most: proposals that are trained in an iteration, as for `best_cut`; 0 for all.
        by: ``loss`` or ``score``, as for `best_cut`.
        reporter: receives a remark for each iteration.
        now: a clock, in seconds.
        left: returns the seconds left for this; iterations become fewer where they do not fit, and
            when none are left, only the proposal that loses the least score of channels is trained.

    Returns:
        The newest network and the record. It costs more than ``budget`` only if no group can be cut
        any further.

    Raises:
        InputError: the budget is below the narrowest network, or ``folder`` is of another request.
    """
    SHORT_STEPS.check("steps", steps)
    done = _begun(model, folder, budget=budget, steps=steps, most=most, by=by)
    if done is None:
        check_reachable(model.arch, cost, budget)
        # A network knows the images that it was trained on, also those kept apart. What a short
        # training of the others does to that is no fault of a cut.
        start, judged = cost(model.arch), practice.judged(practice.trained(model, steps))
        number = iterations or iterations_to(budget, start)
        done = Adaptation(
            arch=model.arch.hash,
            budget=budget,
            cost=start,
            score=judged.score,
            loss=min(judged.loss, SCORE.highest),
            targets=targets_to(budget, start, number) if start > budget else (),
            steps=steps,
            most=most,
            by=by,
        )
        make_directory(folder)
        write_json(folder / RECORD, asdict(done))
    elif done.iterations:
        model = Model.load(_place(folder, len(done.iterations)))
        reporter.remark(f"{folder}: goes on after iteration {len(done.iterations)}")
    while cost(model.arch) > budget:
        late = left is not None and bool(done.iterations) and left() <= 0
        found = best_cut(
            model,
            cost,
            target=_next_target(done, cost(model.arch), left),
            practice=practice,
            before=done.last,
            steps=steps,
            begun=steps * len(done.iterations),
            most=1 if late else most,
            by=by,
            now=now,
        )
        if found is None:
            break
        model, iteration = found
        done = replace(done, iterations=(*done.iterations, iteration))
        number = len(done.iterations)
        model.save(_place(folder, number), force=True)
        write_json(folder / RECORD, asdict(done))  # last: a network without it is made again
        reporter.remark(
            f"iteration {number}: {', '.join(iteration.layers)} {iteration.before} -> "
            f"{iteration.after} channels, {iteration.cost / done.cost:.1%} of the cost, "
            f"accuracy {iteration.score:.2%} of images kept apart ({iteration.seconds:.0f} s)"
        )
    return model, done


def _next_target(done: Adaptation, cost_now: float, left: Callable[[], float] | None) -> float:
    if left is not None and done.iterations:
        each = sum(iteration.seconds for iteration in done.iterations) / len(done.iterations)
        fit = max(int(left() / max(each, 1e-9)), 1)
        if fit < sum(target < cost_now for target in done.targets):
            return targets_to(done.budget, cost_now, fit)[0]
    return next((each for each in done.targets if each < cost_now), done.budget)


def check_reachable(arch: Arch, cost: CostOf, budget: float) -> None:
    """Raise `InputError` if even the narrowest network costs more than ``budget``."""
    least = cost(narrowest(arch))
    if least > budget:
        raise InputError(
            f"{arch.name} cannot be cut to a cost of {budget:.4g}; {least:.4g} is the smallest"
        )


def _begun(
    model: Model, folder: Path, *, budget: float, steps: int, most: int, by: By
) -> Adaptation | None:
    if not is_file(folder / RECORD):
        return None
    done = read_record(folder / RECORD, Adaptation)
    asked = (model.arch.hash, budget, steps, most, by)
    if (done.arch, done.budget, done.steps, done.most, done.by) != asked:
        raise InputError(
            f"{folder}: holds what was begun for another network, budget or number of steps; "
            "remove it, or give another --out"
        )
    return done


def _place(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}"
