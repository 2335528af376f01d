"""Regret of `fit`: against every family alone, and against what `models --budget` lists first.

    python bench/fit_regret.py SET BUDGET [--time 60s] [--seeds 0,1] [--starts RUNS] [--to onnx]
        [--only FAMILIES] [--out build/fit_regret]

Everything gets the same time and the same machine, in turns: `fit`; each family's network at its
largest width that fits at the images' own resolution, from its best start (the widest of
``--starts`` of its family, else random or published weights), trained, exported and verified within
the time; and the network that `models --budget` lists first, from such a start. Each is judged on
images that nothing was chosen by: the set's own ``val``, laid out as ``test``.

Results are lines of ``OUT/results.jsonl``; what is there is not run again. Prints a table with the
regret: the best family in hindsight minus `fit`, in points.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mobilette.arch.catalogue import list_models
from mobilette.counting.budget import parse_budget
from mobilette.counting.candidates import Shortfall
from mobilette.data.images import suggest_resolution
from mobilette.data.sources import find_images
from mobilette.model.model import Model
from mobilette.search.scenes import wanted
from mobilette.search.space import Contender, Setting, within
from mobilette.training.recipe import parse_duration

# Of the time, what export and verification of a network that was trained alone may take.
PROOF = 0.1
LISTED = "models --budget"


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


def mobilette(*arguments: str) -> Any:
    """Run a command; return its JSON, or ``None`` if the request was refused."""
    command = [sys.executable, "-m", "mobilette", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout) if done.returncode < 2 else None


def alone(
    budget: str, data: Path, to: str, starts: dict[str, Model], only: list[str]
) -> Iterator[Contender]:
    """Yield each family's widest network that fits at the images' own resolution."""
    images, want = find_images(str(data)), wanted(budget, scene=None, to=to, precision=None)
    own = suggest_resolution(images)
    setting = Setting(own=own, images=1, seconds=1.0, madds_per_second=1e9)
    found = within(
        [term for term in parse_budget(budget) if term.device is None],
        starts,
        names=list_models(),
        setting=setting,
        target=to,
        precision=want.precision,
        num_classes=len(images.classes),
        tables={},
    )
    if isinstance(found, Shortfall):
        raise SystemExit(f"nothing fits {budget}")
    best: dict[str, Contender] = {}
    for each in found:
        if each.width_mult is None or each.resolution != own or (only and each.family not in only):
            continue
        rank = (each.start in starts, each.madds)
        known = best.get(each.family)
        if known is None or rank > (known.start in starts, known.madds):
            best[each.family] = each
    yield from best.values()


def serves(model: Model, name: str, width_mult: float) -> bool:
    """Whether a network of the catalogue can start from ``model``."""
    return model.arch.name == name and (model.origin.width_mult or 1.0) >= width_mult


def train_alone(
    each: Contender, data: Path, to: str, want: str, seconds: float, out: Path, seed: int
) -> Any:
    """Train one network for the time, export it and measure the artifact on ``test``."""
    options = ["--time", f"{(1 - PROOF) * seconds:g}s", "--from", each.start]
    options += ["--model", each.name, "--width-mult", f"{each.width_mult:g}", "--seed", str(seed)]
    run = mobilette(
        "train",
        str(data),
        *options,
        "--resolution",
        str(each.resolution),
        "--out",
        str(out),
        "--force",
    )
    if run is None:
        return None
    exports = out.parent / f"{out.name}-exports"
    made = mobilette(
        "export", str(out), "--to", to, "--precision", want, "--out", str(exports), "--force"
    )
    if made is None:
        return None
    return mobilette("evaluate", made["artifacts"][0]["path"], str(data), "--split", "test")


def main(
    data: Path,
    budget: str,
    limit: Annotated[str, typer.Option("--time")] = "60s",
    seeds: str = "0,1",
    starts: str = "",
    to: str = "onnx",
    only: str = "",
    out: Path = Path("build/fit_regret"),
) -> None:
    """Run what is not in the results yet, and print the table of this set and budget."""
    out.mkdir(parents=True, exist_ok=True)
    laid, seconds = laid_out(data, out), parse_duration(limit)
    results = out / "results.jsonl"
    known = [json.loads(x) for x in results.read_text().splitlines()] if results.exists() else []
    models = {path: Model.load(path) for path in starts.split(",") if path}
    want = wanted(budget, scene=None, to=to, precision=None)
    contenders = list(alone(budget, laid, to, models, [x for x in only.split(",") if x]))
    classes = str(len(find_images(str(laid)).classes))
    listing = ["--precision", want.precision, "--num-classes", classes, "--limit", "1"]
    first = mobilette("models", "--budget", budget, *listing)

    def record(who: str, seed: int, found: Any) -> None:
        line = {"set": data.name, "budget": budget, "time": limit, "who": who, "seed": seed}
        line["top1"] = None if found is None else found["top1"]
        known.append(line)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, file=sys.stderr, flush=True)

    def is_done(who: str, seed: int) -> bool:
        key = (data.name, budget, limit, who, seed)
        return key in {(x["set"], x["budget"], x["time"], x["who"], x["seed"]) for x in known}

    for seed in map(int, seeds.split(",")):
        place = out / f"{data.name}-{seed}"
        if not is_done("fit", seed):
            options = ["--budget", budget, "--time", limit, "--to", to, "--seed", str(seed)]
            options += [x for path in models for x in ("--starts", path)]
            made = mobilette("fit", str(laid), *options, "--out", str(place / "fit"), "--force")
            path = None if made is None else made["artifact"]
            record(
                "fit",
                seed,
                None if path is None else mobilette("evaluate", path, str(laid), "--split", "test"),
            )
        for each in contenders:
            if not is_done(each.family, seed):
                folder = place / each.key
                record(
                    each.family,
                    seed,
                    train_alone(each, laid, to, want.precision, seconds, folder, seed),
                )
        if first and not is_done(LISTED, seed):
            row = {key: first[0][key] for key in ("name", "width_mult", "resolution")}
            start = next(
                (path for path, x in models.items() if serves(x, row["name"], row["width_mult"])),
                "auto",
            )
            chosen = replace(contenders[0], start=start, **row)
            folder = place / "listed"
            record(
                LISTED, seed, train_alone(chosen, laid, to, want.precision, seconds, folder, seed)
            )
    show([x for x in known if (x["set"], x["budget"], x["time"]) == (data.name, budget, limit)])


def show(lines: list[dict[str, Any]]) -> None:
    """Print the accuracies by seed, and the regret."""
    seeds = sorted({line["seed"] for line in lines})
    by = {(line["who"], line["seed"]): line["top1"] or 0.0 for line in lines}
    print(f"\n| | {' | '.join(f'seed {seed}' for seed in seeds)} |")
    print(f"|---|{'--:|' * len(seeds)}")
    for who in dict.fromkeys(line["who"] for line in lines):
        cells = " | ".join(f"{by.get((who, seed), 0.0):.1%}" for seed in seeds)
        print(f"| {who} | {cells} |")
    for seed in seeds:
        others = ("fit", LISTED)
        families = [x for (who, s), x in by.items() if s == seed and who not in others]
        ours = by.get(("fit", seed), 0.0)
        listed = by.get((LISTED, seed), 0.0)
        print(
            f"seed {seed}: regret {100 * (max(families, default=0.0) - ours):.1f} points; "
            f"{100 * (ours - listed):+.1f} points against models --budget"
        )


if __name__ == "__main__":
    typer.run(main)
