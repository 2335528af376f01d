"""``mobilette bench --table``: measures a latency table of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mobilette.errors import InputError
from mobilette.progress import Reporter


def make_table(
    engine: str,
    *,
    precision: str,
    threads: int,
    out: Path | None,
    force: bool,
    as_json: bool,
    refused: Sequence[str],
) -> int:
    """Measure the table, keep it in the cache and, with ``out``, write it there, too.

    Args:
        engine: ``onnx`` or ``litert``.
        precision: ``fp32`` or ``int8``.
        threads: of the engine.
        out: a new file; ``None`` for the cache alone.
        force: whether ``out`` may exist.
        as_json: print the table instead of what was done.
        refused: what was given, too, and means nothing here.

    Raises:
        InputError: anything is refused, ``out`` cannot be written, or the engine cannot be timed.
    """
    from mobilette.cli.output import print_json, remarks, say
    from mobilette.counting.latency import write_latency_table
    from mobilette.files import check_new_file
    from mobilette.verification.latency_table import build_latency_table, keep_latency_table

    if refused:
        raise InputError(f"--table measures an engine, not {refused[0]}; leave it out")
    if out is not None:
        if out.suffix.lower() != ".json":
            raise InputError(f"--out {out}: a latency table is a .json file")
        check_new_file(out, force=force)
    reporter = Reporter(remark=lambda line: remarks().print(line))
    table = build_latency_table(engine, precision=precision, threads=threads, reporter=reporter)
    kept = keep_latency_table(table)
    if out is not None:
        write_latency_table(table, out)
    if as_json:
        print_json(table.to_json())
    else:
        say(
            f"{len(table.layers)} layers of {table.engine} {table.engine_version} in "
            f"{table.precision}, {table.threads} thread{'s' * (table.threads > 1)}, on "
            f"{table.machine}"
        )
    remarks().print(f"written: {out or kept}")
    return 0
