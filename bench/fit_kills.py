"""A fit that is killed again and again: does it end with a verified artifact, nothing done twice?

    python bench/fit_kills.py [--data digits] [--budget "size<=50KB"] [--time 2m] [--kills 20]
        [--storage URL] [--out build/fit_kills]

`mobilette fit` is killed (SIGKILL) after a random time and resumed, ``--kills`` times, then left
alone. Printed are the trainings that were finished, how many of them more than once (none may be),
the trainings in hand when it was killed, the verdict, and the time it took beside ``--time``: the
clock stops between a kill and its restart, and what was not saved yet is lost.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from mobilette.workflows.fit_record import CLOCK, LINES


def main(
    data: str = "digits",
    budget: str = "size<=50KB",
    limit: Annotated[str, typer.Option("--time")] = "2m",
    kills: int = 20,
    storage: str | None = None,
    out: Path = Path("build/fit_kills"),
    seed: int = 0,
) -> None:
    """Kill and resume a fit; status 1 if a training was done twice, or it did not pass."""
    choose = random.Random(seed)
    shutil.rmtree(out, ignore_errors=True)
    begin = ["fit", data, "--budget", budget, "--time", limit, "--out", str(out), "--force"]
    begin += ["--storage", storage] if storage else []
    begun = time.monotonic()
    for number in range(kills + 1):
        there = (out / "fit.json").exists() and number > 0
        arguments = ["fit", "--resume", str(out)] if there else begin
        command = [sys.executable, "-m", "mobilette", *arguments, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            # Starting takes seconds: some kills come before the first training, some in the last.
            answer, _ = process.communicate(
                timeout=choose.uniform(2.0, 20.0) if number < kills else None
            )
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            print(f"killed {number + 1} times", file=sys.stderr, flush=True)
    result = json.loads(answer)
    lines = [json.loads(line) for line in (out / LINES).read_text(encoding="utf-8").splitlines()]
    trained = Counter((x["key"], x["round"]) for x in lines if x["what"] == "trained")
    twice = {place: count for place, count in trained.items() if count > 1}
    spent = json.loads((out / CLOCK).read_text(encoding="utf-8"))["seconds"]
    print(f"kills: {number}; trainings finished: {len(trained)}, of these twice: {len(twice)}")
    print(f"verified: {result['verified']}, passed: {result['passed']}, top-1 {result['top1']:.1%}")
    print(
        f"seconds by the fit's clock: {spent:.0f} of {limit}; in all {time.monotonic() - begun:.0f}"
    )
    raise SystemExit(bool(twice) or number < kills or not result["passed"])


if __name__ == "__main__":
    typer.run(main)
