"""Refines the network that leads a race: networks one change away, which inherit its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
from mobilette.records import Ranged
from mobilette.run.directory import Run
from mobilette.search.mutations import Kind, Mutation, mutations
from mobilette.search.scenes import Wanted
from mobilette.search.space import Contender, amount_of, amounts

REFINEMENT, STARTS = "refinement.json", "starts"
REFINE_FROM = 600.0  # seconds of a fit; less is better spent on training
# Of the time, what the refinement may take, and how many changed networks are tried.
SHARE, MOST = 0.15, 4


@dataclass(frozen=True, kw_only=True)
class Refinement(Ranged):
    """The content of refinement.json.

    Attributes:
        leader: the key of the network that led the race.
        contenders: networks one change away from it.
        seconds: that each of them is trained, and the leader trained on.
    """

    leader: str
    contenders: tuple[Contender, ...]
    seconds: Annotated[float, SECONDS]


def plan_refinement(
    folder: Path,
    leader: Contender,
    run: Run,
    wanted: Wanted,
    tables: Mapping[Device, LatencyTable],
    *,
    limit: float,
    trained: float,
) -> Refinement:
    """Return the refinement of a fit, which the first process plans and writes.

    Of each kind of change, the network with the most mult-adds that fits is taken: the leader fits,
    so what is left of the budget is to be used. Each starts from the leader's weights.

    Args:
        folder: of the fit.
        leader: the network that led the race.
        run: its training.
        wanted: the budget.
        tables: predict latencies.
        limit: seconds of the whole fit.
        trained: seconds that the leader was trained.
    """
    path = folder / REFINEMENT
    with FileLock(path.with_name(f".{REFINEMENT}.lock")):
        if path.exists():
            return read_record(path, Refinement)
        chosen = _largest_of_each_kind(run, wanted, tables)
        contenders = tuple(
            each
            for mutation in chosen
            if (each := _contender(folder, leader, run, mutation, wanted)) is not None
        )
        seconds = min(trained / 2, SHARE * limit / (len(contenders) + 1))
        plan = Refinement(leader=leader.key, contenders=contenders, seconds=seconds)
        write_json(path, asdict(plan))
        return plan


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
    needs = amounts(mutation.arch, wanted.precision)
    return Contender(
        key=key,
        name=leader.name,
        width_mult=None,
        resolution=leader.resolution,
        start=str(start.resolve()),
        params=needs["params"],
        madds=needs["madds"],
        size_bytes=needs["size"],
        ram_bytes=needs["ram"],
    )
