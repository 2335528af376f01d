"""Regret of `fit`: against every family alone, and against what `models --budget` lists first.

    python bench/fit_regret.py SET BUDGET [--time 60s] [--seeds 0,1] [--starts RUNS] [--to onnx]
        [--only FAMILIES] [--as fit-2 --fit-only] [--out build/fit_regret]

Everything gets the same time and the same machine, in turns: `fit`; each family's network at its
largest width that fits at the images' own resolution, from its best start (the widest of
``--starts`` of its family, else random or published weights), trained, exported and verified within
the time; and the network that `models --budget` lists first, from such a start. Each is judged on
images that nothing was chosen by: the set's own ``val``, laid out as ``test``. A file that is
larger than the budget allows counts as nothing.

All begin without cached images. Results are lines of ``OUT/results.jsonl``; what is there is not
run again; ``--as`` names another version of `fit`. Prints a table with the regret: the best family
in hindsight minus `fit`, in points.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from mobilette.arch.catalogue import list_models
from mobilette.counting.budget import parse_budget
from mobilette.counting.candidates import Shortfall
from mobilette.data.images import suggest_resolution
from mobilette.data.sources import find_images
from mobilette.model.model import Model
from mobilette.search.contender import Contender
from mobilette.search.prior import Setting
from mobilette.search.scenes import wanted
from mobilette.search.space import within
from mobilette.training.recipe import parse_duration

# Of the time, what export and verification of a network that was trained alone may take.
PROOF = 0.1
FIT, LISTED = "fit", "models --budget"


def laid_out(data: Path, root: Path) -> Path:
    """Copy a set: its ``val`` is ``test``, every sixth image to train on ``val``.

    Of a flat set three eighths are ``test`` and an eighth is ``val``.
    """
    place = root / data.name
    if place.exists():
        return place
    temporary, is_flat = root / f".{data.name}", not (data / "train").is_dir()
    shutil.rmtree(temporary, ignore_errors=True)
    for split in (".",) if is_flat else ("train", "val"):
        for folder in sorted(x for x in (data / split).iterdir() if x.is_dir()):
            for number, path in enumerate(sorted(folder.iterdir())):
                flat = {0: "val", 1: "test", 2: "test", 3: "test"}.get(number % 8, "train")
                divided = "val" if number % 6 == 0 else "train"
                to = {".": flat, "train": divided, "val": "test"}[split]
                target = temporary / to / folder.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    temporary.rename(place)
    return place


def mobilette(*arguments: str, cache: Path) -> Any:
    """Run a command; return its JSON, or ``None`` if the request was refused."""
    command = [sys.executable, "-m", "mobilette", *arguments, "--json"]
    env = os.environ | {"MOBILETTE_CACHE": str(cache.resolve())}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=env)
    return json.loads(done.stdout) if done.stdout and done.returncode < 2 else None


def alone(cell: Cell, only: list[str]) -> Iterator[Contender]:
    """Yield each family's widest network that fits at the images' own resolution."""
    images = find_images(str(cell.data))
    own = suggest_resolution(images)
    found = within(
        [term for term in parse_budget(cell.budget) if term.device is None],
        cell.starts,
        names=list_models(),
        setting=Setting(own=own, images=1, seconds=1.0, first=1.0, madds_per_second=1e9),
        target=cell.to,
        precision="int8" if cell.precision == "int8" else "fp32",
        num_classes=len(images.classes),
        tables={},
    )
    if isinstance(found, Shortfall):
        raise SystemExit(f"nothing fits {cell.budget}")
    best: dict[str, Contender] = {}
    for each in found:
        if each.width_mult is None or each.resolution != own or (only and each.family not in only):
            continue
        rank = (each.start in cell.starts, each.madds)
        known = best.get(each.family)
        if known is None or rank > (known.start in cell.starts, known.madds):
            best[each.family] = each
    yield from best.values()


def serves(model: Model, name: str, width_mult: float) -> bool:
    """Whether a network of the catalogue can start from ``model``."""
    return model.arch.name == name and (model.origin.width_mult or 1.0) >= width_mult


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A set and a budget, and where its runs and results are."""

    data: Path
    name: str
    budget: str
    to: str
    precision: str
    limit: str
    starts: dict[str, Model]
    out: Path

    @property
    def cache(self) -> Path:
        """The cache of all runs, for compiled kernels; images are not shared."""
        return self.out / "cache"

    def results(self) -> list[dict[str, Any]]:
        """Return the lines of this cell."""
        path = self.out / "results.jsonl"
        lines = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
        own = (self.name, self.budget, self.limit)
        return [x for x in lines if (x["set"], x["budget"], x["time"]) == own]

    def measure(self, who: str, seed: int, make: Callable[[Path], str | None]) -> None:
        """Record what ``who`` makes in a folder of its own, unless it is known."""
        if (who, seed) in {(x["who"], x["seed"]) for x in self.results()}:
            return
        shutil.rmtree(self.cache / "pictures", ignore_errors=True)
        begun = time.perf_counter()
        artifact = make(self.out / f"{self.name}-{seed}-{who.replace(' ', '_')}")
        seconds, found = time.perf_counter() - begun, None
        if artifact is not None:
            judge = ("evaluate", artifact, str(self.data), "--split", "test")
            found = mobilette(*judge, cache=self.cache)
        line: dict[str, Any] = {"set": self.name, "budget": self.budget, "time": self.limit}
        line |= {"who": who, "seed": seed, "seconds": round(seconds, 1)}
        line |= {"top1": None if found is None else found["top1"]}
        with (self.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, file=sys.stderr, flush=True)

    def fit(self, folder: Path, *, seed: int) -> str | None:
        """Run `mobilette fit`; return its artifact."""
        options = ["--budget", self.budget, "--time", self.limit, "--to", self.to]
        options += [x for path in self.starts for x in ("--starts", path)]
        options += ["--seed", str(seed), "--out", str(folder), "--force"]
        made = mobilette("fit", str(self.data), *options, cache=self.cache)
        return None if made is None else made["artifact"]

    def train(self, folder: Path, *, each: Contender, seed: int) -> str | None:
        """Train one network for the time and export it; return the artifact."""
        seconds = (1 - PROOF) * parse_duration(self.limit)
        options = ["--model", each.name, "--width-mult", f"{each.width_mult:g}"]
        options += ["--resolution", str(each.resolution), "--from", each.start]
        options += ["--time", f"{seconds:g}s", "--seed", str(seed), "--out", str(folder), "--force"]
        if mobilette("train", str(self.data), *options, cache=self.cache) is None:
            return None
        exports = folder.parent / f"{folder.name}-exports"
        options = ["--to", self.to, "--precision", self.precision, "--out", str(exports), "--force"]
        made = mobilette("export", str(folder), *options, cache=self.cache)
        if made is None or not self.allows(made["artifacts"][0]["size_bytes"]):
            return None
        path: str = made["artifacts"][0]["path"]
        return path

    def allows(self, size_bytes: int) -> bool:
        """Whether a file is as small as the budget asks; what is counted, all fit by then."""
        terms = [term for term in parse_budget(self.budget) if term.quantity == "size"]
        return all(term.is_met(size_bytes) for term in terms)


def main(
    data: Path,
    budget: str,
    limit: Annotated[str, typer.Option("--time")] = "60s",
    seeds: str = "0,1",
    starts: str = "",
    to: str = "onnx",
    only: str = "",
    named: Annotated[str, typer.Option("--as", help="Name of this version of fit.")] = FIT,
    fit_only: bool = False,
    out: Path = Path("build/fit_regret"),
) -> None:
    """Run what is not in the results yet, and print the table of this set and budget."""
    out.mkdir(parents=True, exist_ok=True)
    cell = Cell(
        data=laid_out(data, out),
        name=data.name,
        budget=budget,
        to=to,
        precision=wanted(budget, scene=None, to=to, precision=None).precision,
        limit=limit,
        starts={path: Model.load(path) for path in starts.split(",") if path},
        out=out,
    )
    contenders = [] if fit_only else list(alone(cell, [x for x in only.split(",") if x]))
    listed = None if fit_only else what_is_listed(cell)
    for seed in map(int, seeds.split(",")):
        cell.measure(named, seed, partial(cell.fit, seed=seed))
        for each in contenders:
            cell.measure(each.family, seed, partial(cell.train, each=each, seed=seed))
        if listed is not None:
            cell.measure(LISTED, seed, partial(cell.train, each=listed, seed=seed))
    show(cell.results())


def what_is_listed(cell: Cell) -> Contender | None:
    """Return the first network that `mobilette models --budget` lists, with a start if it has."""
    classes = str(len(find_images(str(cell.data)).classes))
    options = ["--precision", cell.precision, "--num-classes", classes, "--limit", "1"]
    found = mobilette("models", "--budget", cell.budget, *options, cache=cell.cache)
    if not found:
        return None
    name, width = found[0]["name"], found[0]["width_mult"]
    return Contender(
        key="listed",
        name=name,
        width_mult=width,
        resolution=found[0]["resolution"],
        start=next((x for x, model in cell.starts.items() if serves(model, name, width)), "auto"),
        params=found[0]["params"],
        madds=found[0]["madds"],
        size_bytes=0,
        ram_bytes=0,
    )


def show(lines: list[dict[str, Any]]) -> None:
    """Print the accuracies by seed, and the regret."""
    seeds = sorted({line["seed"] for line in lines})
    by = {(line["who"], line["seed"]): line["top1"] or 0.0 for line in lines}
    print(f"\n| | {' | '.join(f'seed {seed}' for seed in seeds)} |")
    print(f"|---|{'--:|' * len(seeds)}")
    for who in dict.fromkeys(line["who"] for line in lines):
        cells = " | ".join(f"{by.get((who, seed), 0.0):.1%}" for seed in seeds)
        print(f"| {who} | {cells} |")
    fits = [who for who in dict.fromkeys(x["who"] for x in lines) if who.startswith(FIT)]
    for who, seed in product(fits, seeds):
        families = [x for (name, s), x in by.items() if s == seed and name not in (*fits, LISTED)]
        ours, listed = by.get((who, seed), 0.0), by.get((LISTED, seed), 0.0)
        print(
            f"{who}, seed {seed}: regret {100 * (max(families, default=0.0) - ours):.1f} points; "
            f"{100 * (ours - listed):+.1f} points against models --budget"
        )


if __name__ == "__main__":
    typer.run(main)
