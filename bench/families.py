"""A minute of training for each network since MnasNet, then every target: verdict and latency.

    python bench/families.py DATA OUT [--resolution 128] [--time 60] [--only NAMES]
        [--steps train,verify,time] [--to TARGETS] [--rounds 3]

Each network trains from scratch in ``OUT/NAME``; one whose first steps and a validation do not fit
the time gets twice as much, marked *. `mobilette bench` then exports it to every target, or those
of ``--to``, and verifies each artifact on the held-out images (verify); and times the fp32
artifacts in turns with one thread (time). V2 and V3 are the measure. What OUT has is not made
again: steps can run apart, timing on a quiet machine. Prints two Markdown tables, of fp32 and of
int8.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

NETWORKS = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("mobilenet_v4_conv_small", "mobilenet_v4_conv_medium", "mnasnet_small", "mnasnet_a1"),
    *("mnasnet_b1", "fbnet_c", "single_path_nas", "efficientnet_lite0", "pp_lcnet", "ghostnet"),
    *("repvgg_a0", "mobileone_s0"),
)
STEPS = "train,verify,time"


def _mobilette(*arguments: str, out: Path) -> int:
    """Run a command, keep its JSON in ``out`` and return its exit status."""
    print("mobilette", *arguments, file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "mobilette", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode < 2:
        out.write_text(done.stdout, encoding="utf-8")
    return done.returncode


def train(data: str, folder: Path, *, resolution: int, seconds: int) -> None:
    """Train the network that ``folder`` is named after, for ``seconds`` or twice that."""
    folder.mkdir(parents=True, exist_ok=True)
    network = ("--model", folder.name, "--resolution", str(resolution), "--from", "scratch")
    for each in (seconds, 2 * seconds):
        options = ("--time", f"{each}s", "--out", str(folder / "run"), "--force")
        if _mobilette("train", data, *network, *options, out=folder / "train.json") == 0:
            return
    raise SystemExit(f"{folder.name} was not trained")


def measure(step: str, data: str, folder: Path, *, to: str, rounds: int) -> None:
    """Do a step of `mobilette bench` with a trained network."""
    exports = folder / "exports"
    if step == "verify":
        options = ("--to", to, "--precision", "fp32,int8", "--data", data, "--rounds", "1")
        arguments = [str(folder / "run"), *options, "--out", str(exports)]
    else:
        found = sorted(str(path.parent) for path in exports.glob("run/*/contract.json"))
        fp32 = [path for path in found if not path.endswith("-int8")]
        arguments = [*fp32, "--rounds", str(rounds), "--out", str(folder / "timed")]
    if _mobilette("bench", *arguments, "--force", out=folder / f"{step}.json") > 1:
        raise SystemExit(f"{folder.name}: {step} failed")


def _verdict(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return {True: "yes", False: "no", None: "not executed"}[row["verified"]]


def tables(folders: list[Path], *, seconds: int) -> str:
    """Return the results in ``folders`` as Markdown."""
    results = {
        (folder.name, step): json.loads((folder / f"{step}.json").read_text(encoding="utf-8"))
        for folder in folders
        for step in STEPS.split(",")
    }
    rows = {
        (name, step, row["target"], row["precision"]): row
        for (name, step), result in results.items()
        if step != "train"
        for row in result["rows"]
        if row["target"]
    }
    fp32 = sorted({target for *_, target, precision in rows if precision == "fp32"})
    int8 = sorted({target for *_, target, precision in rows if precision == "int8"})
    text = [f"| network | top-1 | epochs | images/s | {' | '.join(fp32)} |"]
    text.append("|---|--:|--:|--:|" + "--:|" * len(fp32))
    quantised = [f"| network | fp32 | {' | '.join(int8)} |", "|---|--:|" + "--:|" * len(int8)]
    for name in (folder.name for folder in folders):
        trained = results[name, "train"]
        mark = "" if trained["seconds"] < 1.2 * seconds else "*"
        cells = []
        for target in fp32:
            timed = rows.get((name, "time", target, "fp32"), {}).get("latency_ms")
            verdict = _verdict(rows.get((name, "verify", target, "fp32")))
            ms = "" if timed is None else f"{timed['median']:.1f}"
            cells.append(ms if ms and verdict == "yes" else f"{ms} {verdict}".strip())
        epochs = f"{trained['final']['epoch']:.1f}{mark}"
        speed = f"{trained['images_per_second']:.0f}"
        top1 = f"{100 * trained['top1']:.1f}%"
        text.append(f"| {name} | {top1} | {epochs} | {speed} | {' | '.join(cells)} |")
        cells = []
        for target in int8:
            row = rows.get((name, "verify", target, "int8"))
            shown = _verdict(row)
            if row is not None and row["top1"] is not None:
                shown = f"{100 * row['top1']:.1f}% {shown}"
            cells.append(shown)
        own = rows[name, "verify", "onnx", "fp32"]["top1"]
        quantised.append(f"| {name} | {100 * own:.1f}% | {' | '.join(cells)} |")
    return "\n".join([*text, "", *quantised])


def main(
    data: str,
    out: Path,
    *,
    resolution: Annotated[int, typer.Option()] = 128,
    seconds: Annotated[int, typer.Option("--time")] = 60,
    only: Annotated[str, typer.Option()] = ",".join(NETWORKS),
    steps: Annotated[str, typer.Option()] = STEPS,
    to: Annotated[str, typer.Option()] = "all",
    rounds: Annotated[int, typer.Option()] = 3,
) -> None:
    """Measure each network and print the tables."""
    folders = [out / name for name in only.split(",")]
    for step in steps.split(","):
        for folder in folders:
            if (folder / f"{step}.json").is_file():
                continue
            if step == "train":
                train(data, folder, resolution=resolution, seconds=seconds)
            else:
                measure(step, data, folder, to=to, rounds=rounds)
    print(f"{os.cpu_count()} cores")
    if all((folder / f"{step}.json").is_file() for folder in folders for step in STEPS.split(",")):
        print(tables(folders, seconds=seconds))


if __name__ == "__main__":
    typer.run(main)
