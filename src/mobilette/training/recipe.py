"""`Recipe`: everything about a training run that is neither the network nor the pictures."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from mobilette.errors import InputError, nearest
from mobilette.files import LARGEST_RECORD, read_bytes
from mobilette.records import parse

DEFAULT = "quick"
TRANSFER = "transfer"
SLICED = "sliced"
LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        lr: peak learning rate, reached after the warm-up; cosine to zero from there.
        weight_decay: not applied to batch norms, biases and depthwise kernels (MobileNet papers).
        warmup: part of the training during which the rate rises linearly from zero.
        flip: mirror half of the pictures; never done where it changes the class (`digits`).
        crop_padding: reflected border of the random crop, as a part of the resolution.
        ema_decay: of the averaged weights, per step; shorter averages at the start.
        precision: ``bf16`` is mixed (weights stay fp32); ``auto`` takes it where the device has
            units for it.
        frozen_epochs: epochs at the start in which only the head is trained (transfer).
        body_lr: learning rate of everything but the head, as a part of ``lr``.
        norm_statistics: ``batch`` normalises by the batch and measures the averages anew for each
            validation; ``kept`` leaves mean and variance as the initial weights have them.
        time_limit: seconds of wall-clock the schedule is fitted to; 0 means ``epochs`` decides.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.15
    label_smoothing: float = 0.1
    flip: bool = True
    crop_padding: float = 0.125
    ema_decay: float = 0.998
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    frozen_epochs: int = 0
    body_lr: float = 1.0
    norm_statistics: Literal["batch", "kept"] = "batch"
    time_limit: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("epochs", 1, 1_000_000),
            ("batch_size", 2, 1_000_000),  # batch norm needs two pictures
            ("lr", 0.0, 1_000.0),
            ("momentum", 0.0, 0.9999),
            ("weight_decay", 0.0, 1.0),
            ("warmup", 0.0, 0.9),
            ("label_smoothing", 0.0, 0.9),
            ("crop_padding", 0.0, 1.0),
            ("ema_decay", 0.0, 0.99999),
            ("frozen_epochs", 0, 1_000_000),
            ("body_lr", 0.0, 1.0),
            ("time_limit", 0.0, 1e9),
            ("seed", 0, LARGEST_SEED),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise InputError(f"{name} {value} is not between {lowest} and {highest}")
        if self.lr == 0:
            raise InputError("lr 0 trains nothing; it must be above 0")

    def to_toml(self) -> str:
        """Return the recipe as TOML, every key written out."""
        # JSON's spelling of text, numbers and truth values is also TOML's.
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(self).items())


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(Path(file.name).stem for file in _folder().iterdir())


def load_recipe(
    recipe: str | Path = DEFAULT, *, overrides: Mapping[str, object] | None = None
) -> Recipe:
    """Return a recipe by name or from a TOML file, with some keys replaced.

    Raises:
        InputError: no such recipe, not TOML, an unknown key or a value out of range.
    """
    if str(recipe) in list_recipes():
        where = str(recipe)
        content = _folder().joinpath(f"{recipe}.toml").read_bytes()
    elif str(recipe).endswith(".toml"):
        where = str(recipe)
        content = read_bytes(Path(recipe), limit=LARGEST_RECORD)
    else:
        raise InputError(
            f"no recipe is called {str(recipe)!r}{nearest(str(recipe), list_recipes())}; there are "
            f"{', '.join(list_recipes())}, and files ending in .toml"
        )
    try:
        table = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid TOML ({error})") from error
    return override(parse(Recipe, table, where=where), overrides or {})


def _folder() -> Traversable:
    return resources.files("mobilette").joinpath("recipes")


def override(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
    """Return ``recipe`` with the keys in ``values`` replaced; checked as a file would be."""
    return parse(Recipe, asdict(recipe) | dict(values), where="recipe")


def parse_setting(text: str) -> tuple[str, object]:
    """Return (key, value) of a ``KEY=VALUE`` from the command line.

    Raises:
        InputError: no ``=``, an unknown key, or a value of the wrong type.
    """
    key, sign, value = text.partition("=")
    known = {field.name: field.type for field in fields(Recipe)}
    if not sign or key not in known:
        raise InputError(
            f"--set {text!r}: KEY=VALUE with one of the recipe's keys is expected"
            f"{nearest(key, known)}"
        )
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key, value
