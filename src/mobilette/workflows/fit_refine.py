"""Refines the network that leads a race: networks one change away, which inherit its weights."""

from __future__ import annotations

import time as system_time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from filelock import FileLock

from mobilette.compression.inheriting import inherit
from mobilette.counting.budget import Device
from mobilette.counting.latency import LatencyTable
from mobilette.errors import InputError
from mobilette.files import read_record, write_json
from mobilette.limits import SECONDS
from mobilette.model.directory import is_model
from mobilette.progress import SILENT
from mobilette.records import Ranged
from mobilette.run.directory import RECIPE, Run, open_run
from mobilette.search.contender import Contender
from mobilette.search.mutations import Kind, Mutation, mutations
from mobilette.search.race import REFINED, Place
from mobilette.search.scenes import Wanted
from mobilette.search.space import amount_of, amounts, contender_of
from mobilette.training.recipe import load_recipe
from mobilette.workflows.fit_cut import Cutting
from mobilette.workflows.fit_plan import latency_tables
from mobilette.workflows.fit_race import POLL, Race
from mobilette.workflows.fit_record import REFINEMENT, STARTS, RacePlan

REFINE_FROM = 600.0  # seconds of a fit; less is better spent on training
# Of the time, what the refinement may take, and how many changed networks are tried.
SHARE, MOST = 0.15, 4
_REFINED_BY = 0.75  # of the time: a refinement that is slower than planned ends here


@dataclass(frozen=True, kw_only=True)
class Refinement(Ranged):
    """The content of refinement.json.

    Attributes:
        leader: the key of the network that led the race.
        trained: seconds that it was trained in the race.
        contenders: networks one change away from it.
        seconds: that each of them is trained, and the leader trained on.
        over: the run of a network that is over the budget and is cut to it; empty if there is none.
    """

    leader: str
    trained: Annotated[float, SECONDS]
    contenders: tuple[Contender, ...]
    seconds: Annotated[float, SECONDS]
    over: str = ""


@dataclass(frozen=True, kw_only=True)
class Refining:
    """What a process does to refine the network that leads the ``race``."""

    race: Race
    cutting: Cutting

    def run(self, plan: RacePlan) -> tuple[Contender, ...]:
        """Train networks one change away from the leader, one cut to the budget, and it as long.

        Return them.
        """
        race, limit = self.race, self.race.asked.seconds
        leader = race.leader(plan) if limit >= REFINE_FROM else None
        if leader is None:
            return ()
        refinement = self._planned(leader)
        leader = next(each for each in plan.contenders if each.key == refinement.leader)
        recipe = load_recipe(race.trial.run_of(leader) / RECIPE, overrides={"frozen_epochs": 0})
        while race.clock.spent < _REFINED_BY * limit:
            racing = (leader, *refinement.contenders, *self.cutting.contenders(refinement.over))
            places = {Place(key=each.key, number=REFINED): each for each in racing}
            known = race.study.rewards()
            to_cut = self.cutting.places(refinement.over)
            left = [place for place in (*to_cut, *places) if place not in known]
            if not left:
                break
            place = race.study.take(left)
            if place is None:
                system_time.sleep(POLL)
                continue
            if place in to_cut:
                self.cutting.run(place, refinement.over, within=SHARE * limit)
                continue
            each = places[place]
            seconds = refinement.seconds + (refinement.trained if each is leader else 0.0)
            race.record(each, place, seconds, partial(race.trial.train, each, seconds, recipe))
        return (*refinement.contenders, *self.cutting.contenders(refinement.over))

    def _planned(self, leader: Contender) -> Refinement:
        """Return the refinement of a fit, which the first process plans and writes.

        Of each kind of change, the network with the most mult-adds that fits is taken: the leader
        fits, so what is left of the budget is to be used. Each starts from the leader's weights.
        """
        race, folder = self.race, self.race.trial.folder
        path = folder / REFINEMENT
        with FileLock(path.with_name(f".{REFINEMENT}.lock")):
            if path.exists():
                return read_record(path, Refinement)
            wanted, run = race.asked.wanted, open_run(race.trial.run_of(leader))
            tables = latency_tables(wanted, left=0.0, reporter=SILENT)
            contenders = tuple(
                each
                for mutation in _largest_of_each_kind(run, wanted, tables)
                if (each := _contender(folder, leader, run, mutation, wanted)) is not None
            )
            over, trained = self.cutting.subject(run), race.trial.elapsed(leader)
            count = len(contenders) + 1 + bool(over)
            refinement = Refinement(
                leader=leader.key,
                trained=trained,
                contenders=contenders,
                seconds=min(trained / 2, SHARE * race.asked.seconds / count),
                over=over,
            )
            write_json(path, asdict(refinement))
            return refinement


def _largest_of_each_kind(
    run: Run, wanted: Wanted, tables: Mapping[Device, LatencyTable]
) -> list[Mutation]:
    best: dict[Kind, tuple[int, Mutation]] = {}
    for mutation in mutations(run.arch):
        needs = amounts(mutation.arch, wanted.precision)
        fits = all(
            term.is_met(amount_of(term, mutation.arch, needs, tables))
            for term in wanted.terms
            if term.quantity != "top1" and (term.device is None or term.device in tables)
        )
        known = best.get(mutation.kind)
        if fits and (known is None or needs["madds"] > known[0]):
            best[mutation.kind] = (needs["madds"], mutation)
    ranked = sorted(best.values(), key=lambda pair: -pair[0])
    return [mutation for _, mutation in ranked[:MOST]]


def _contender(
    folder: Path, leader: Contender, run: Run, mutation: Mutation, wanted: Wanted
) -> Contender | None:
    """Return the changed network with its start written; ``None`` if it inherits nothing."""
    key = f"{leader.key}-with-{mutation.text.replace(' ', '_')}"
    start = folder / STARTS / key
    if not is_model(start):
        try:
            inherit(run.model, mutation.arch).save(start, force=start.exists())
        except InputError:
            return None
    own = contender_of(
        mutation.arch, key=key, start=str(start.resolve()), precision=wanted.precision
    )
    return replace(own, name=leader.name)
