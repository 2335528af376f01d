"""``mobilette verify``: does an artifact answer as its network did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Json, MaxUnusable, SplitOption, Workers


def verify(
    artifact: Annotated[Path, typer.Argument(help="The artifact directory.")],
    data: Annotated[str | None, typer.Argument(help="A folder of pictures, or a set.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--from", help="The run [the one the contract names].", metavar="RUN"),
    ] = None,
    split: SplitOption = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    as_json: Json = False,
) -> int:
    """Compare an artifact with its checkpoint; status 1 if it does not answer the same."""
    from mobilette.cli.output import console, print_json, reading_bar
    from mobilette.verification.verify import verify as judge

    with reading_bar() as report:
        verdict = judge(
            artifact,
            data,
            checkpoint=checkpoint,
            split=split,
            workers=workers,
            max_unusable=max_unusable,
            report_load=report,
        )
    if as_json:
        print_json(verdict.to_json())
        return 0 if verdict.passed else 1
    out = console()
    out.print(f"maximum absolute difference  {verdict.max_abs_diff:.3g}")
    out.print(f"top-1 agreement              {verdict.top1_agreement:.2%}")
    if verdict.accuracy_source is not None:
        out.print(f"accuracy of the checkpoint   {verdict.accuracy_source:.2%}")
    if verdict.accuracy_artifact is not None:
        out.print(f"accuracy of the artifact     {verdict.accuracy_artifact:.2%}")
        out.print(f"pictures                     {verdict.images:,}")
    for note in verdict.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    for failure in verdict.failures:
        out.print(f"failed: {failure}", markup=False, soft_wrap=True)
    out.print("verify: passed" if verdict.passed else "verify: FAILED")
    return 0 if verdict.passed else 1
