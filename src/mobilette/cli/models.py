"""``mobilette models``: lists the networks, or those that fit a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mobilette.arch.catalogue import family_of, get_arch, list_models
from mobilette.arch.layers import layers
from mobilette.arch.scale import Resolution, resolution_text
from mobilette.cli.options import Json, parse_resolutions, ranged
from mobilette.counting.cost import layer_madds, layer_params
from mobilette.errors import InputError, nearest, shown
from mobilette.limits import CLASSES, ROWS

if TYPE_CHECKING:
    from mobilette.counting.budget import Constraint, Device
    from mobilette.counting.candidates import Candidate, Precision
    from mobilette.counting.latency import LatencyTable

SHOWN = 20


def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern with *.")] = "*",
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="List what fits: limits (<=, <) on params, madds, size (weights), ram "
            "(activations) and latency (by a table: 'mobilette bench --table'), such as "
            "'madds<=60M, size<=1MB, ram<=256KB, latency<=2ms@onnx, latency<=9ms@pi4.json'.",
        ),
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            "--resolution",
            help="With --budget: 160, 96x160, 96..224 (in steps of 32), 96..224:8 or a list "
            "[96..224].",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "int8"] | None,
        typer.Option("--precision", help="With --budget: precision [int8, or a table's]."),
    ] = None,
    num_classes: Annotated[
        int | None, ranged("--num-classes", CLASSES, "With --budget: number of classes [1000].")
    ] = None,
    limit: Annotated[
        int | None,
        ranged("--limit", ROWS, f"With --budget: rows [{SHOWN}; with --json all]."),
    ] = None,
    as_json: Json = False,
) -> int:
    """List the networks, or those that fit a budget.

    Without --budget they are counted at width 1.0, 224 pixels and 1,000 classes.
    """
    names = list_models(pattern)
    if not names:
        raise InputError(f"no network matches {shown(pattern)}{nearest(pattern, list_models())}")
    if budget is not None:
        return _list_candidates(
            names,
            budget,
            parse_resolutions(resolution or "96..224"),
            precision=precision,
            num_classes=num_classes or 1000,
            limit=limit,
            as_json=as_json,
        )
    given = {"--resolution": resolution, "--precision": precision, "--limit": limit}
    for option, value in (given | {"--num-classes": num_classes}).items():
        if value is not None:
            raise InputError(f"{option} needs --budget; 'mobilette cost' counts one network")
    _list_names(names, as_json)
    return 0


def _list_names(names: list[str], as_json: bool) -> None:
    rows = []
    for name in names:
        arch = get_arch(name)
        graph = layers(arch)
        rows.append(
            {
                "name": name,
                "family": family_of(name),
                "params": sum(map(layer_params, graph)),
                "madds": sum(map(layer_madds, graph)),
                "resolution": arch.resolution,
            }
        )
    if as_json:
        from mobilette.cli.output import print_json

        print_json(rows)
        return
    from mobilette.cli.output import table

    cells = (
        (
            row["name"],
            row["family"],
            *(f"{row[key]:,}" for key in ("params", "madds", "resolution")),
        )
        for row in rows
    )
    headings = ("name", "family", "parameters", "mult-adds", "resolution")
    print(table(headings, cells, left=(0, 1)))


def _list_candidates(
    names: list[str],
    budget: str,
    resolutions: list[Resolution],
    *,
    precision: Precision | None,
    num_classes: int,
    limit: int | None,
    as_json: bool,
) -> int:
    from mobilette.cli.output import print_json, remarks
    from mobilette.counting.budget import parse_budget
    from mobilette.counting.candidates import Shortfall, candidates
    from mobilette.counting.latency import interpolated
    from mobilette.counting.shortfall import why_nothing_fits

    limits = parse_budget(budget)
    tables = _latency_tables(limits, precision)
    used = precision or _precision_of(tables)
    found = candidates(
        names,
        limits,
        resolutions=resolutions,
        precision=used,
        num_classes=num_classes,
        tables=tables,
    )
    if isinstance(found, Shortfall):
        if as_json:
            print_json([])
        remarks().print(why_nothing_fits(found, budget, used))
        return 1
    if as_json:
        print_json([candidate.to_json() for candidate in found[:limit]])
    else:
        _print_candidates(found, limit or SHOWN, used, num_classes)
    shown = found[: limit if as_json else limit or SHOWN]
    for device, table in tables.items():
        if text := interpolated((each.arch(num_classes) for each in shown), table):
            remarks().print(f"latency on {device}: {text}")
    return 0


def _latency_tables(
    limits: Sequence[Constraint], precision: Precision | None
) -> dict[Device, LatencyTable]:
    """Return the tables of the budget's devices: the files named, and this machine's."""
    from mobilette.counting.latency import read_latency_table

    tables = {}
    for device in (limit.device for limit in limits if limit.device is not None):
        if device.table is not None:
            tables[device] = read_latency_table(device.table)
    known = precision or _precision_of(tables)
    for device in (limit.device for limit in limits if limit.device is not None):
        if device.engine is not None:
            from mobilette.verification.latency_table import cached_latency_table

            tables[device] = cached_latency_table(
                device.engine, precision=known, threads=device.threads
            )
    return tables


def _precision_of(tables: Mapping[Device, LatencyTable]) -> Precision:
    """Return the precision of a budget's tables, or int8."""
    return next((table.precision for table in tables.values()), "int8")


def _print_candidates(
    found: list[Candidate], limit: int, precision: Precision, num_classes: int
) -> None:
    from mobilette.cli.output import human_bytes, human_count, say, table

    rows: list[tuple[str, ...]] = []
    sources: list[str] = []
    for candidate in found[:limit]:
        top1 = source = "-"
        if known := candidate.accuracy:
            if known.source not in sources:
                sources.append(known.source)
            top1 = f"{'~' * known.interpolated}{100 * known.top1:.1f} %"
            source = f"[{sources.index(known.source) + 1}]"
        rows.append(
            (
                candidate.name,
                f"{candidate.width_mult:g}",
                resolution_text(candidate.resolution),
                top1,
                source,
                human_count(candidate.params),
                human_count(candidate.madds),
                human_bytes(candidate.counted("size", precision)),
                human_bytes(candidate.counted("ram", precision)),
                *(f"{ms:.3g} ms" for ms in candidate.latency_ms.values()),
            )
        )
    headings = ("name", "width", "pixels", "top-1", "source", "params", "mult-adds", "size", "peak")
    headings = (*headings, *(found[0].latency_ms if found else ()))
    print(table(headings, rows, gap=2))
    notes = [f"{len(found) - limit:,} more fit (--limit)"] if len(found) > limit else []
    notes.append(
        f"size of the weights and peak of the activations in {precision}, {num_classes:,} classes; "
        "top-1 as published on ImageNet in floating point, ~ interpolated between published points"
    )
    notes += [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    for note in notes:
        say(note)
