"""What both ways to prune share: the checked request, the teacher, fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.data.digests import Trained
from mobilette.data.reading import Reading
from mobilette.model.model import Model, Origin
from mobilette.run.directory import Run
from mobilette.training.events import Sitting
from mobilette.training.plan import NetworkChoice
from mobilette.training.recipe import Recipe
from mobilette.workflows.train import run_train


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """What to prune, on which images and how to fine-tune.

    Attributes:
        model: the unpruned network.
        source: its run, if it has one.
        data: the images, as the user named them.
        recipe: of fine-tuning.
        limit: seconds for everything together; 0 is no limit.
        before: what the model was trained on.
    """

    model: Model
    source: Run | None
    data: str | Path
    recipe: Recipe
    limit: float
    device: str
    reading: Reading
    sitting: Sitting
    before: Trained

    def teacher(self, folder: Path, *, force: bool) -> Path:
        """Return the run of the unpruned model, saved beside ``folder`` unless there is one."""
        if self.source is not None:
            return self.source.path.resolve()
        return self.model.save(for_teacher(folder), force=force).resolve()

    def fine_tune(
        self, pruned: Model, teacher: Path, *, seconds: float, out: Path, force: bool
    ) -> Run:
        """Train ``pruned`` with the unpruned model as teacher and return the run ``out``.

        ``seconds`` is its wall-clock if the request is limited.
        """
        recipe = replace(self.recipe, teacher=self.recipe.teacher or str(teacher))
        if self.limit:
            recipe = replace(recipe, time_limit=seconds)
        origin = Origin(name=pruned.arch.name, form=pruned.origin.form, source=f"{teacher}, pruned")
        return run_train(
            self.data,
            NetworkChoice(),
            start=replace(pruned, origin=origin),
            recipe=recipe,
            overrides={},
            out=out,
            force=force,
            device=self.device,
            reading=self.reading,
            before=self.before,
            sitting=self.sitting,
        )


def for_teacher(folder: Path) -> Path:
    """Return where the unpruned model is saved if no run holds it."""
    return folder.with_name(f"{folder.name}-teacher")
