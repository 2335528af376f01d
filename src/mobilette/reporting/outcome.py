"""The result of a training: its accuracy, the confidence interval and warnings."""

from __future__ import annotations

from dataclasses import dataclass

from mobilette.errors import InputError
from mobilette.files import read_json
from mobilette.model.directory import DATASET
from mobilette.run.directory import RECIPE, Run
from mobilette.run.metrics import wilson_interval
from mobilette.run.promise import Asked, parse_promise
from mobilette.run.tested import Tested, read_tested
from mobilette.training.recipe import load_recipe

UNEVEN = 2.0  # images of the largest class per image of the smallest


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a run.

    Attributes:
        best: the line of metrics.csv for the best weights, by column.
        last: its last line.
        images: number of held-out images.
        largest: the largest class of the held-out images and its fraction; ``None`` for multi-label
            runs.
        tested: the best weights on ``test``, if there is one.
        uneven: the classes with the most and the fewest training images, and their counts, if they
            differ much and the recipe does not compensate.
        promise_kept: whether the model promises what the recipe asks for, if anything.
    """

    best: dict[str, float]
    last: dict[str, float]
    images: int
    largest: tuple[str, float] | None
    uneven: tuple[tuple[str, int], tuple[str, int]] | None
    promise_kept: bool = True
    tested: Tested | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the best weights' top-1, as fractions.

        It ignores that these images also selected the weights.
        """
        return wilson_interval(self.best["top1"], self.images)

    def warnings(self) -> list[str]:
        """Return warnings about the result, one line each."""
        lines = []
        if self.largest is not None and self.interval[0] <= self.largest[1]:
            name, share = self.largest
            # metrics.csv has six digits of it
            perhaps = "" if self.best["top1"] <= share + 1e-6 else "perhaps "
            lines.append(
                f"warning: {perhaps}no better than always answering {name}, the largest class: "
                f"{share:.1%} of the images held out"
            )
        if self.uneven is not None:
            (most, many), (fewest, few) = self.uneven
            lines.append(
                f"the classes are uneven ({most} has {many:,} images to train on, {fewest} "
                f"{few:,}): --set class_weights=balanced makes the rare ones count as much"
            )
        return lines


def outcome(run: Run) -> Outcome:
    """Return the result of the finished ``run``.

    Raises:
        InputError: its table of metrics, dataset.json or recipe.toml is missing or damaged.
    """
    best, last = run.best(), run.history()[-1]
    (images, held_out), (_, trained) = _counts(run, "val"), _counts(run, "train")
    largest = max(held_out, key=lambda name: held_out[name])
    recipe = load_recipe(run.path / RECIPE)
    evened = run.multi_label or "balanced" in (recipe.class_weights, recipe.sampling)
    most, fewest = (pick(trained, key=lambda name: trained[name]) for pick in (max, min))
    asked = parse_promise(recipe.promise) if recipe.promise else Asked()
    uneven = not evened and trained[most] >= UNEVEN * trained[fewest]
    best = best or last
    return Outcome(
        best=best,
        last=last,
        images=images,
        largest=None if run.multi_label else (largest, held_out[largest] / images),
        tested=read_tested(run),
        uneven=((most, trained[most]), (fewest, trained[fewest])) if uneven else None,
        promise_kept=asked.error is None or run.answering.promise is not None,
    )


def _counts(run: Run, split: str) -> tuple[int, dict[str, int]]:
    """Return the number of images in ``split``, in all and per class, from dataset.json."""
    recorded = read_json(run.path / DATASET)
    try:
        counts = recorded["splits"][split]  # type: ignore[index]
        per_class = {str(name): int(count) for name, count in counts["per_class"].items()}
        return int(counts["pictures"]), per_class
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{run.path / DATASET}: does not count the images of {split}") from error
