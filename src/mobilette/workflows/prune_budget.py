"""Pruning to a budget of a device: NetAdapt, then fine-tuning, then measuring."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from mobilette.counting.budget import Constraint
from mobilette.counting.cost import cost
from mobilette.data.images import ImageSet
from mobilette.errors import InputError
from mobilette.files import read_record, write_json
from mobilette.folders import claimed
from mobilette.limits import FRACTION
from mobilette.model.model import Model
from mobilette.records import Ranged, check_ranges
from mobilette.run.directory import Run, is_run, open_run
from mobilette.search.limits_of_budget import Limits, amount_text
from mobilette.search.netadapt import adapt
from mobilette.search.netadapt_record import COST, RECORD, Adaptation, iterations_to
from mobilette.search.practice import Practice
from mobilette.training.environment import choose_device
from mobilette.training.time_plan import timed_reading
from mobilette.workflows.prune_images import HeldImages
from mobilette.workflows.prune_record import PruningStep, cut_step, tuned_step, write_pruning
from mobilette.workflows.prune_request import PruneRequest
from mobilette.workflows.prune_time import TUNING_SHARE

BUDGET = "budget.json"
SHORT_STEPS = 20
# Iterations by default: the authors' first step of 2.5% would need 40 to half of the latency.
MOST_ITERATIONS = 12
# How often the channels are cut again where the engine takes longer than predicted.
CORRECTIONS = 3
_LEAST = 0.001  # seconds; 0 would mean no limit


@dataclass(frozen=True, kw_only=True)
class TermMet(Ranged):
    """A term of a budget, and what the pruned network needs.

    Attributes:
        text: as the user wrote it.
        quantity: what is limited.
        limit: its largest amount: parameters, mult-adds, bytes or milliseconds.
        amount: what the network needs.
        before: what the unpruned one needs.
        measured: whether both were measured on the engine; else counted, or predicted by the
            device's table.
        said: the amount in words.
    """

    text: str
    quantity: str
    limit: Annotated[float, COST]
    amount: Annotated[float, COST]
    before: Annotated[float, COST]
    measured: bool
    said: str

    @property
    def met(self) -> bool:
        """Whether the network is within the limit."""
        return self.amount <= self.limit


@dataclass(frozen=True, kw_only=True)
class BudgetMet:
    """``budget.json``: what a run was pruned to.

    Attributes:
        budget: as the user wrote it.
        terms: with what the network needs.
        cut: top-1 (multi-label: mean average precision) on ``val`` before fine-tuning.
    """

    budget: str
    terms: tuple[TermMet, ...]
    cut: Annotated[float, FRACTION]
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.terms:
            raise InputError("terms: at least one is needed")

    @property
    def met(self) -> bool:
        """Whether every term is met."""
        return all(term.met for term in self.terms)


def read_budget(run: Path) -> BudgetMet:
    """Return what the run in the folder ``run`` was pruned to; `InputError` without a record."""
    return read_record(run / BUDGET, BudgetMet)


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """A network that fits, its record, and the unpruned network's accuracy on ``val``."""

    model: Model
    record: Adaptation
    step: PruningStep
    accuracy: float
    trained_left_out: int
    includes_trained: bool | None


@dataclass(frozen=True, kw_only=True)
class ToBudget:
    """Pruning to a budget, whose ``limits`` can be reached.

    ``iterations`` are those of NetAdapt, or as many as seem right; ``short_steps`` are the steps of
    each of its trainings.
    """

    request: PruneRequest
    budget: str
    limits: Limits
    iterations: int | None
    short_steps: int

    def into(self, folder: Path, found: ImageSet, *, force: bool) -> Run:
        """Cut channels, fine-tune what is left into ``folder`` and measure it.

        NetAdapt's iterations are beside it, in ``NAME-netadapt``, until the run is complete.
        """
        asked, work = self.request, folder.with_name(f"{folder.name}-netadapt")
        begun, now = asked.sitting.now(), asked.sitting.now
        before = self.limits.measured(asked.model)
        limits = self.limits.corrected(asked.model.arch, before)
        _check_needed(asked.model, limits)
        with claimed(work, remark=asked.sitting.reporter.remark):
            cut = self._cut(found, limits, work)
            teacher = asked.teacher(folder, force=force)

            def write(run: Run) -> None:
                write_pruning(
                    folder,
                    asked.model.arch,
                    source=teacher,
                    keep=cut.step.keep,
                    importance="taylor",
                    accuracy=cut.accuracy,
                    trained_left_out=cut.trained_left_out,
                    includes_trained=cut.includes_trained,
                    steps=[tuned_step(cut.step, run, now() - begun)],
                )
                write_json(folder / RECORD, asdict(cut.record))

            try:
                run = asked.fine_tune(
                    cut.model, teacher, seconds=self._left_for_tuning(), out=folder, force=force
                )
            except InputError:
                raise
            except BaseException:  # what was interrupted is a run that can be resumed
                if is_run(folder) and open_run(folder).arch == cut.model.arch:
                    write(open_run(folder))
                raise
            write(run)
            terms = self._terms(run.model, limits, before)
            met = BudgetMet(budget=self.budget, terms=terms, cut=cut.step.cut)
            write_json(folder / BUDGET, asdict(met))
            shutil.rmtree(work, ignore_errors=True)
        return open_run(folder)

    def _cut(self, found: ImageSet, limits: Limits, work: Path) -> _Cut:
        """Return the network that fits, before it is fine-tuned."""
        asked = self.request
        reporter, elapsed = asked.sitting.reporter, asked.sitting.elapsed
        reading = timed_reading(reporter.reading, limit=asked.limit, elapsed=elapsed)
        with HeldImages(
            found,
            asked.model,
            device=choose_device(asked.device),
            reading=asked.reading,
            reporter=replace(reporter, reading=reading),
            before=asked.before,
            now=asked.sitting.now,
        ) as images:
            accuracy = images.accuracy(asked.model)
            try:
                model, record = self._adapted(images, limits, work)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("stopped; the same command goes on") from None
            part = cost(model.arch).madds / cost(asked.model.arch).madds
            step = cut_step(model, keep=part, accuracy=images.accuracy(model))
            reporter.remark(
                f"{len(record.iterations)} iterations: {step.madds:,} mult-adds, {step.params:,} "
                f"parameters, accuracy {step.cut:.2%} after the cuts (unpruned {accuracy:.2%})"
            )
            return _Cut(
                model=model,
                record=record,
                step=step,
                accuracy=accuracy,
                trained_left_out=len(images.dataset.moved),
                includes_trained=images.includes_trained,
            )

    def _adapted(self, images: HeldImages, limits: Limits, work: Path) -> tuple[Model, Adaptation]:
        """Return the network that fits, also as measured, and how it was found."""
        asked = self.request
        practice = Practice(
            images.dataset,
            preprocess=asked.model.preprocess,
            recipe=asked.recipe,
            device=choose_device(asked.device),
        )
        start = limits.excess(asked.model.arch)
        iterations = self.iterations or min(iterations_to(1.0, start), MOST_ITERATIONS)
        for number in range(CORRECTIONS + 1):
            model, record = adapt(
                asked.model,
                limits.excess,
                budget=1.0,
                practice=practice,
                folder=work,
                iterations=iterations,
                steps=self.short_steps,
                reporter=asked.sitting.reporter,
                now=asked.sitting.now,
                left=self._left_for_cutting if asked.limit else None,
            )
            measured = limits.measured(model)
            missed = [term for term, ms in measured.items() if not term.is_met(ms)]
            if not missed or number == CORRECTIONS:
                return model, record
            limits = limits.corrected(model.arch, measured)
            for term in missed:
                asked.sitting.reporter.remark(
                    f"{term.text}: measured {amount_text(term, measured[term])}; cuts again"
                )
        raise AssertionError

    def _left_for_cutting(self) -> float:
        asked = self.request
        return (1 - TUNING_SHARE) * asked.limit - asked.sitting.elapsed()

    def _left_for_tuning(self) -> float:
        return max(self.request.limit - self.request.sitting.elapsed(), _LEAST)

    def _terms(
        self, model: Model, limits: Limits, before: Mapping[Constraint, float]
    ) -> tuple[TermMet, ...]:
        measured = limits.measured(model)
        met = []
        for term in limits.terms:
            amount = measured.get(term, limits.need(model.arch, term))
            unpruned = before.get(term, limits.need(self.request.model.arch, term))
            met.append(
                TermMet(
                    text=term.text,
                    quantity=term.quantity,
                    limit=term.limit,
                    amount=amount,
                    before=unpruned,
                    measured=term in measured,
                    said=amount_text(term, amount),
                )
            )
        return tuple(met)


def _check_needed(model: Model, limits: Limits) -> None:
    if limits.excess(model.arch) <= 1:
        needs = ", ".join(amount_text(t, limits.need(model.arch, t)) for t in limits.terms)
        raise InputError(
            f"{model.origin.source} is within the budget already: {needs}; nothing is to be cut"
        )
