"""``mobilette verify``: does an artifact answer as its network did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import Json, MaxDrop, MaxUnusable, SplitOption, Workers
from mobilette.progress import Reporter

if TYPE_CHECKING:
    from mobilette.verification.gate import Verdict


def verify(
    artifact: Annotated[Path, typer.Argument(help="The artifact directory.")],
    data: Annotated[str | None, typer.Argument(help="A folder of images, or a set.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--from", help="The run [the one the contract names].", metavar="RUN"),
    ] = None,
    split: SplitOption = None,
    max_drop: MaxDrop = 1.0,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    as_json: Json = False,
) -> int:
    """Compare the answers of an artifact with its checkpoint's.

    Status 1 if they are not the same.
    """
    from mobilette.cli.output import console, print_json, reading_bar
    from mobilette.verification.verify import verify as judge

    with reading_bar() as report:
        verdict = judge(
            artifact,
            data,
            checkpoint=checkpoint,
            split=split,
            max_drop=max_drop,
            workers=workers,
            max_unusable=max_unusable,
            reporter=Reporter(reading=report),
        )
    if as_json:
        print_json(verdict.to_json())
        return 0 if verdict.passed else 1
    out = console()
    for name, value in _rows(verdict):
        out.print(f"{name:<30}{value}")
    for note in verdict.notes:
        out.print(f"note: {note}")
    for failure in verdict.failures:
        out.print(f"failed: {failure}")
    out.print("verify: passed" if verdict.passed else "verify: FAILED")
    return 0 if verdict.passed else 1


def _rows(verdict: Verdict) -> list[tuple[str, str]]:
    """Return what the table says: names and values."""
    rows = [
        ("artifact", f"{verdict.target}, {verdict.precision}, executed by {verdict.engine}"),
        ("maximum absolute difference", f"{verdict.max_abs_diff:.3g}"),
        ("signal to noise", f"{verdict.signal_to_noise_db:.1f} dB"),
        ("top-1 agreement", f"{verdict.top1_agreement:.2%}"),
    ]
    sides = (
        (
            "checkpoint",
            verdict.accuracy_source,
            verdict.interval_source,
            verdict.calibration_error_source,
        ),
        (
            "artifact",
            verdict.accuracy_artifact,
            verdict.interval_artifact,
            verdict.calibration_error_artifact,
        ),
    )
    for name, accuracy, interval, _ in sides:
        if accuracy is not None and interval is not None:
            low, high = interval
            value = f"{accuracy:.2%}  (95%: {low:.2%} to {high:.2%})"
            rows.append((f"accuracy of the {name}", value))
    for name, _, _, error in sides:
        if error is not None:
            rows.append((f"calibration error, {name}", f"{error:.4f}"))
    if verdict.accuracy_artifact is not None:
        prepared = f", {verdict.readme_images} of them prepared by the README's lines, too"
        rows.append(("images", f"{verdict.images:,}{prepared if verdict.readme_images else ''}"))
    return rows
