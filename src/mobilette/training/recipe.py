"""`Recipe`: how a network is trained, apart from the network and the images."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

from mobilette.errors import InputError, nearest, shown
from mobilette.files import read_bytes
from mobilette.limits import BATCH_SIZE, EPOCHS, LEARNING_RATE, SECONDS, SEED, Range
from mobilette.places import named
from mobilette.records import check_ranges, parse
from mobilette.run.promise import parse_promise

LARGEST = 65_536  # bytes; every key written out is 1,000
DEFAULT = "quick"
TRANSFER = "transfer"
SLICED = "sliced"
FOLDED = "folded"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        batch_size: images per step, over all processes.
        accumulate: gradient accumulation: parts in which each process works through its share of a
            batch; batch norms see one part at a time. Out of memory, a run doubles it by itself.
        lr: peak learning rate.
        weight_decay: not applied to batch norms, biases and depthwise kernels (MobileNet papers).
        schedule: ``cosine``: linear warm-up, then a cosine to zero; ``one_cycle``: up from a 25th
            and down to zero along cosines, the momentum in the opposite direction; ``constant``:
            linear warm-up, then the peak rate, for a run that will be continued.
        warmup: fraction of the training in which the rate rises.
        crop: ``pad``: shifted by up to ``crop_padding`` of the resolution; ``resized``: a part of
            at least ``crop_scale`` of the image's area, resized; ``none``.
        flip: mirror half of the images; never done where it changes the class (`digits`).
        colour_jitter: strength of random brightness, contrast and saturation.
        randaugment: magnitude, 0 to 30, of two random operations per image; 0 is off.
        erasing: fraction of the images in which a random rectangle is erased.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of cutmix; 0 is off. With both, half of the images get each.
        start_resolution: initial resolution as a fraction of the full one; it grows in steps and is
            full for the last quarter (progressive resolution).
        sampling: ``balanced`` shows every class equally often.
        class_weights: ``balanced`` weights the loss of a class by how rare it is.
        teacher: a run or published weights to distil from; empty for none.
        distillation: weight of the teacher's answers in the loss; the labels get the rest.
        temperature: softens the answers of teacher and student.
        ema_decay: decay of the averaged weights per step; smaller in the first steps.
        precision: ``bf16`` and ``fp16`` are mixed precision (weights stay fp32); ``auto`` takes the
            fastest with hardware support.
        compile: ``auto`` compiles the network with `torch.compile` on GPUs.
        graphs: replay a step as one CUDA graph instead of launching its kernels one by one; GPUs
            only, compiled only with ``compile`` ``always``. Not tried on a GPU yet.
        frozen_epochs: initial epochs that train only the head (transfer).
        body_lr: learning rate of everything but the head, as a fraction of ``lr``.
        norm_statistics: ``batch`` normalises by the batch and measures the averages anew for each
            validation; ``kept`` keeps the mean and variance of the initial weights.
        patience: validations without a better result before training stops; 0 is never.
        validate_every: epochs between validations; under a time limit, enough to keep validation
            below a tenth of the time. The end of the frozen epochs is always validated.
        save_every: steps between saved states; 0 saves every half minute.
        loader: ``resident`` keeps the images in memory, ``streamed`` reads them as needed, ``auto``
            depends on whether they fit.
        promise: what is promised of the answers, such as ``error<=1%`` or ``known>=95%``, so that
            some are ``unknown``; empty for nothing.
        time_limit: seconds of wall-clock to fit the schedule into; 0 means ``epochs`` decides.
    """

    epochs: Annotated[int, EPOCHS] = 20
    batch_size: Annotated[int, BATCH_SIZE] = 64
    accumulate: Annotated[int, Range(1, 1_000_000)] = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, LEARNING_RATE] = 0.05
    momentum: Annotated[float, Range(0.0, 0.9999)] = 0.9
    weight_decay: Annotated[float, Range(0.0, 1.0)] = 5e-4
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup: Annotated[float, Range(0.0, 0.9)] = 0.15
    label_smoothing: Annotated[float, Range(0.0, 0.9)] = 0.1
    crop: Literal["none", "pad", "resized"] = "pad"
    crop_padding: Annotated[float, Range(0.0, 1.0)] = 0.125
    crop_scale: Annotated[float, Range(0.01, 1.0)] = 0.35
    flip: bool = True
    colour_jitter: Annotated[float, Range(0.0, 1.0)] = 0.0
    randaugment: Annotated[float, Range(0.0, 30.0)] = 0.0
    erasing: Annotated[float, Range(0.0, 1.0)] = 0.0
    mixup: Annotated[float, Range(0.0, 10.0)] = 0.0
    cutmix: Annotated[float, Range(0.0, 10.0)] = 0.0
    start_resolution: Annotated[float, Range(0.25, 1.0)] = 1.0
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    class_weights: Literal["none", "balanced"] = "none"
    teacher: str = ""
    distillation: Annotated[float, Range(0.0, 1.0)] = 0.5
    temperature: Annotated[float, Range(0.1, 100.0)] = 2.0
    ema_decay: Annotated[float, Range(0.0, 0.99999)] = 0.998
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "never", "always"] = "auto"
    graphs: bool = False
    frozen_epochs: Annotated[int, Range(0, 1_000_000)] = 0
    body_lr: Annotated[float, Range(0.0, 1.0)] = 1.0
    norm_statistics: Literal["batch", "kept"] = "batch"
    patience: Annotated[int, Range(0, 1_000_000)] = 0
    validate_every: Annotated[int, Range(1, 1_000_000)] = 1
    save_every: Annotated[int, Range(0, 1_000_000_000)] = 0
    loader: Literal["auto", "resident", "streamed"] = "auto"
    promise: str = ""
    time_limit: Annotated[float, SECONDS] = 0.0
    seed: Annotated[int, SEED] = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.lr == 0:
            raise InputError("lr 0 trains nothing; it must be above 0")
        if self.promise:
            parse_promise(self.promise)
        if self.accumulate > self.batch_size // 2:
            raise InputError(
                f"accumulate {self.accumulate} leaves fewer than 2 images in a part of a batch of "
                f"{self.batch_size}"
            )

    def to_toml(self) -> str:
        """Return the recipe as TOML, every key written out."""
        # JSON writes strings, numbers and booleans the same way as TOML.
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(self).items())

    def differences(self, other: Recipe) -> tuple[str, ...]:
        """Return ``key: mine -> theirs`` for every key that differs in ``other``."""
        mine, theirs = asdict(self), asdict(other)
        return tuple(
            f"{key}: {json.dumps(mine[key])} -> {json.dumps(theirs[key])}"
            for key in mine
            if mine[key] != theirs[key]
        )


def list_recipes() -> list[str]:
    """Return the names of the built-in recipes."""
    return sorted(Path(file.name).stem for file in _folder().iterdir())


def load_recipe(
    recipe: str | Path | Recipe = DEFAULT, *, overrides: Mapping[str, object] | None = None
) -> Recipe:
    """Return a recipe, by name or from a TOML file, with some keys replaced.

    Raises:
        InputError: no such recipe, not TOML, an unknown key or a value out of range.
    """
    if isinstance(recipe, Recipe):
        return override(recipe, overrides or {})
    if str(recipe) in list_recipes():
        where = str(recipe)
        content = _folder().joinpath(f"{recipe}.toml").read_bytes()
    elif str(recipe).endswith(".toml"):
        where = str(recipe)
        content = read_bytes(Path(recipe), limit=LARGEST)
    else:
        raise InputError(
            f"no recipe is called {str(recipe)!r}{nearest(str(recipe), list_recipes())}; give "
            f"{', '.join(list_recipes())} or a file ending in .toml"
        )
    try:
        table = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid TOML ({error})") from error
    return override(parse(Recipe, table, where=where), overrides or {})


def named_recipe(path: Path) -> str:
    """Return the recipe in a file, as TOML, with its teacher's place cut to its name.

    Raises:
        InputError: as for `load_recipe`.
    """
    recipe = load_recipe(path)
    return replace(recipe, teacher=named(recipe.teacher)).to_toml()


def _folder() -> Traversable:
    return resources.files("mobilette").joinpath("recipes")


def override(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
    """Return ``recipe`` with the keys in ``values`` replaced, checked like a file.

    ``epochs`` without ``time_limit`` removes the time limit: only one of them decides.
    """
    if "epochs" in values:
        values = {"time_limit": 0.0, **values}
    return parse(Recipe, asdict(recipe) | dict(values), where="recipe")


def parse_setting(text: str) -> tuple[str, object]:
    """Return (key, value) of a ``KEY=VALUE`` from the command line.

    Raises:
        InputError: there is no ``=``, or the key is unknown.
    """
    key, sign, value = text.partition("=")
    known = {field.name: field.type for field in fields(Recipe)}
    if not sign or key not in known:
        raise InputError(
            f"--set {text!r}: KEY=VALUE with one of the recipe's keys is expected"
            f"{nearest(key, known)}"
        )
    try:
        table = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return key, value
    return key, table["value"] if len(table) == 1 else value


def merge_keys(
    overrides: Mapping[str, object] | None,
    *,
    epochs: int | None = None,
    time: float | str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    promise: str | None = None,
) -> dict[str, object]:
    """Return ``overrides`` with the recipe keys that have their own options.

    ``time`` is ``time_limit`` in seconds, or text for `parse_duration`.

    Raises:
        InputError: a key is given twice with different values, or both ``epochs`` and ``time`` are.
    """
    if epochs is not None and time is not None:
        raise InputError("--time and --epochs: give one of them")
    seconds = parse_duration(time) if isinstance(time, str) else time
    if seconds is not None and not seconds > 0:  # NaN too
        raise InputError(f"time {shown(time)} is too short; seconds above 0 are expected")
    options = {
        "epochs": epochs,
        "time_limit": seconds,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "promise": promise,
    }
    keys = dict(overrides or {})
    for key, value in options.items():
        if value is None:
            continue
        if key in keys and keys[key] != value:
            raise InputError(
                f"{key} is given twice: {value} as an option, {shown(keys[key])} as a key of the "
                "recipe (overrides, --set); give one of them"
            )
        keys[key] = value
    return keys


def parse_duration(text: str) -> float:
    """Return the seconds in ``90s``, ``10m`` or ``1.5h``.

    Raises:
        InputError: it is none of these, has no unit, or is too long.
    """
    match = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([smh]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(f"--time {shown(text)} is not a duration; write 90s, 10m or 2h")
    count, unit = match.groups()
    if not unit:
        raise InputError(f"--time {shown(text)} has no unit; write {count}s, {count}m or {count}h")
    seconds = float(count) * {"s": 1, "m": 60, "h": 3600}[unit]
    if seconds > SECONDS.highest:
        longest = f"{SECONDS.highest // 3600:.0f}h"
        raise InputError(f"--time {shown(text)} is too long; {longest} is the longest")
    return seconds
