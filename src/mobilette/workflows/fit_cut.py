"""A network that is over the budget of a fit is cut to it by NetAdapt, and joins the refinement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.counting.budget import Constraint
from mobilette.counting.cost import cost
from mobilette.data.division import Division
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.model.directory import is_model
from mobilette.model.model import Model
from mobilette.progress import SILENT
from mobilette.run.directory import Run, open_run
from mobilette.run.trained import trained_on
from mobilette.search.artifact_sizes import ARENA, beside_weights
from mobilette.search.contender import Contender
from mobilette.search.netadapt import adapt
from mobilette.search.netadapt_record import Adaptation, iterations_to
from mobilette.search.practice import Practice
from mobilette.search.proposals import CostOf
from mobilette.search.race import CUT, Place
from mobilette.search.scenes import Wanted
from mobilette.search.space import amount_of, amounts, contender_of
from mobilette.search.study import Study
from mobilette.training.environment import choose_device
from mobilette.training.recipe import SLICED, load_recipe
from mobilette.workflows.fit_plan import latency_tables
from mobilette.workflows.fit_proofs import Proofs
from mobilette.workflows.fit_record import RUNS, STARTS
from mobilette.workflows.fit_teacher import Teachers
from mobilette.workflows.fit_trial import accuracy
from mobilette.workflows.prune_budget import MOST_ITERATIONS
from mobilette.workflows.prune_images import HeldImages, with_classes_of

# Steps of a short training, and proposals that are trained in an iteration.
STEPS, MOST = 10, 8
WORK = "netadapt"
_ZERO = 1e-9  # what can be divided by


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """Finds a network that is over the budget, and cuts it.

    Attributes:
        study: of the race, where one process takes the cut.
        proofs: know what artifacts were measured at.
        teachers: know the networks met.
    """

    study: Study
    proofs: Proofs
    teachers: Teachers

    def subject(self, leader: Run) -> str:
        """Return the run to be cut: the most accurate network met that is over the budget.

        It is more accurate than ``leader``, which fits; empty if there is none.
        """
        least = accuracy(leader)
        ahead = [
            each
            for each in self.teachers.met(leader)
            if each.accuracy > least and self._excess(each.run)(each.run.arch) > 1
        ]
        best = max(ahead, key=lambda each: each.accuracy, default=None)
        return "" if best is None else str(best.run.path.resolve())

    def places(self, over: str) -> tuple[Place, ...]:
        """Return the work there is for the run ``over``, if any, in the study of the race."""
        return (Place(key=_key(over), number=CUT),) if over else ()

    def contenders(self, over: str) -> tuple[Contender, ...]:
        """Return what the run ``over`` was cut to, once it is."""
        start = self.proofs.trial.folder / STARTS / _key(over)
        if not over or not is_model(start):
            return ()
        arch, precision = open_run(start).arch, self.proofs.asked.wanted.precision
        return (
            contender_of(arch, key=_key(over), start=str(start.resolve()), precision=precision),
        )

    def run(self, place: Place, over: str, *, within: float) -> None:
        """Cut the run ``over``, in about ``within`` seconds, and record it."""
        run, journal = open_run(over), self.proofs.journal
        try:
            model, record = self._cut(run, within, self.proofs.trial.folder / WORK / place.key)
        except InputError as error:
            journal.add("failed", key=place.key, round=CUT, reason=str(error))
            self.study.finish(place, None)
            return
        # Its images are those that the run was trained on.
        origin = replace(run.model.origin, width_mult=None)
        start = self.proofs.trial.folder / STARTS / place.key
        replace(model, origin=origin).save(start, force=start.exists())
        journal.add(
            "cut",
            key=place.key,
            of=over,
            iterations=len(record.iterations),
            madds=cost(model.arch).madds,
            spent=self.proofs.clock.spent,
        )
        self.study.finish(place, record.last.score)

    def _cut(self, run: Run, within: float, folder: Path) -> tuple[Model, Adaptation]:
        asked, sitting = self.proofs.asked, self.proofs.trial.sitting
        begun, excess, device = sitting.now(), self._excess(run), choose_device(asked.device)

        def left() -> float:
            self.proofs.clock()
            return within - (sitting.now() - begun)

        with HeldImages(
            with_classes_of(run.model, find_images(asked.data, groups=asked.groups)),
            run.model,
            device=device,
            reading=Reading(workers=asked.workers, max_unusable=asked.max_unusable),
            reporter=sitting.reporter,
            before=trained_on(run),
            division=Division(holdout=asked.holdout, groups=asked.groups),
            now=sitting.now,
        ) as images:
            practice = Practice(
                images.dataset,
                preprocess=run.preprocess,
                recipe=load_recipe(SLICED, overrides={"seed": asked.seed}),
                device=device,
            )
            before = left()
            practice.trained(run.model, STEPS)
            iteration = max(MOST * (before - left()), 1e-9)
            if iteration > left():
                raise InputError(
                    f"{run.path}: cutting takes at least {iteration:.0f} s, too long for this fit"
                )
            model, record = adapt(
                run.model,
                excess,
                budget=1.0,
                practice=practice,
                folder=folder,
                iterations=min(
                    int(left() / iteration) or 1,
                    iterations_to(1.0, excess(run.arch)),
                    MOST_ITERATIONS,
                ),
                steps=STEPS,
                most=MOST,
                reporter=sitting.reporter,
                now=sitting.now,
                left=left,
            )
        if excess(model.arch) > 1:
            raise InputError(f"{run.path}: no group of its channels can be cut any further")
        return model, record

    def _excess(self, run: Run) -> CostOf:
        """Return what gives a cut network's largest ratio of need to limit: at most 1 fits.

        Where an artifact of ``run`` was measured, predictions are corrected by that; else by
        estimates of what files and arenas have beside weights and activations.
        """
        want = self.proofs.asked.wanted
        tables = latency_tables(want, left=0.0, reporter=SILENT)
        measured = self.proofs.measured(run.path.name) if run.path.parent.name == RUNS else {}
        needs = amounts(run.arch, want.precision)
        factors: dict[Constraint, float] = {}
        for term in want.terms:
            if term.quantity == "top1" or (term.device is not None and term.device not in tables):
                continue
            predicted = max(amount_of(term, run.arch, needs, tables), _ZERO)
            found = measured.get(term.text)
            if found is None:
                found = predicted + _beside(term, run, want)
            factors[term] = found / predicted / max(term.limit, _ZERO)

        def excess(arch: Arch) -> float:
            needs = amounts(arch, want.precision)
            return max(
                (part * amount_of(term, arch, needs, tables) for term, part in factors.items()),
                default=0.0,
            )

        return excess


def _key(over: str) -> str:
    return f"{Path(over).name}-cut"


def _beside(term: Constraint, run: Run, wanted: Wanted) -> float:
    """Return the estimated bytes of a file or an arena beside what is counted."""
    if term.quantity == "size":
        beside = beside_weights(run.arch.name, wanted.target, wanted.precision)
        return beside(run.model.origin.width_mult or 1.0)
    if term.quantity == "ram" and wanted.target == "mcu":
        return (ARENA - 1) * amounts(run.arch, wanted.precision)["ram"]
    return 0.0
