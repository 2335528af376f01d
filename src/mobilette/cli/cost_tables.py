"""The tables of ``mobilette cost``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence

from rich.table import Table

from mobilette.arch.arch import Arch
from mobilette.cli.output import console, human_bytes
from mobilette.counting.convolution import ConvolutionCost
from mobilette.counting.cost import Cost, LayerCost
from mobilette.errors import visible

BAR = 12
# CSV columns by key of --sort.
SORT_COLUMNS = {
    "params": "params",
    "madds": "madds",
    "size": "size_bytes_fp32",
    "activations": "activation_bytes_fp32",
}


def print_comparison(costs: Sequence[Cost], *, sort: str | None, as_csv: bool) -> None:
    """Print one line per network."""
    records = _sorted([_record(counted) for counted in costs], sort)
    if as_csv:
        _print_csv(records)
        return
    table = Table("network", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("parameters", "mult-adds", "size fp32", "int8", "activations fp32", "int8"):
        table.add_column(heading, justify="right")
    for name, params, madds, *sizes in (record.values() for record in records):
        bytes_columns = (human_bytes(int(size)) for size in sizes)
        table.add_row(str(name), f"{params:,}", f"{madds:,}", *bytes_columns)
    console().print(table)


def print_layers(
    archs: Sequence[Arch], costs: Sequence[Cost], *, sort: str | None, as_csv: bool
) -> None:
    """Print one line per layer, network by network."""
    if as_csv:
        _print_csv(
            {"network": counted.name, **record}
            for counted in costs
            for record in _sorted([_layer_record(layer) for layer in counted.layers], sort)
        )
        return
    for number, (arch, counted) in enumerate(zip(archs, costs, strict=True)):
        lines = [*[""] * (number > 0), _heading(arch), ""]
        console().print(*lines, _layer_table(counted, sort), "", *_totals(counted), sep="\n")


def print_convolution(compared: ConvolutionCost) -> None:
    """Print a convolution's cost with its formulas."""
    k, m, n, d = compared.kernel, compared.in_channels, compared.out_channels, compared.out_size
    table = Table("", "mult-adds", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("", "weights"):
        table.add_column(heading, justify="right")
    table.columns[1].justify = "left"
    standard = (compared.standard_madds, compared.standard_params)
    depthwise = (compared.depthwise_madds, compared.depthwise_params)
    pointwise = (compared.pointwise_madds, compared.pointwise_params)
    both = (compared.separable_madds, depthwise[1] + pointwise[1])
    for name, formula, (madds, params) in (
        (f"standard {k}x{k}", f"K²·M·N·D² = {k}²·{m}·{n}·{d}²", standard),
        (f"depthwise {k}x{k}", f"K²·M·D² = {k}²·{m}·{d}²", depthwise),
        ("pointwise 1x1", f"M·N·D² = {m}·{n}·{d}²", pointwise),
        ("depthwise separable", "(K² + N)·M·D²", both),
    ):
        table.add_row(name, formula, f"{madds:,}", f"{params:,}")
    console().print(
        f"{k}x{k} convolution, M = {m} to N = {n} channels, D = {d}: {d}x{d} positions out",
        "",
        table,
        "",
        f"ratio  {compared.ratio:.4f} = 1/N + 1/K² = 1/{n} + 1/{k * k}",
        sep="\n",
    )


def _record(counted: Cost) -> dict[str, str | int]:
    return {
        "network": counted.name,
        "params": counted.params,
        "madds": counted.madds,
        "size_bytes_fp32": counted.size_bytes.fp32,
        "size_bytes_int8": counted.size_bytes.int8,
        "activation_bytes_fp32": counted.peak_activation_bytes.fp32,
        "activation_bytes_int8": counted.peak_activation_bytes.int8,
    }


def _layer_record(layer: LayerCost) -> dict[str, str | int]:
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "output": _shape(layer),
        "params": layer.params,
        "madds": layer.madds,
        "size_bytes_fp32": 4 * layer.params,
        "activation_bytes_fp32": layer.activation_bytes.fp32,
    }


def _sorted(records: list[dict[str, str | int]], sort: str | None) -> list[dict[str, str | int]]:
    if sort is None:
        return records
    return sorted(records, key=lambda record: int(record[SORT_COLUMNS[sort]]), reverse=True)


def _print_csv(records: Iterable[dict[str, str | int]]) -> None:
    records = list(records)
    writer = csv.DictWriter(sys.stdout, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: visible(item) if isinstance(item, str) else item for key, item in record.items()}
        for record in records
    )


def _heading(arch: Arch) -> str:
    side = arch.resolution
    return f"{arch.name}: {side}x{side}x{arch.in_channels} in, {arch.num_classes:,} classes"


def _layer_table(counted: Cost, sort: str | None) -> Table:
    """Return one row per convolution with the batch norm and activation that follow it."""
    table = Table("layer", "kind", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("output", "parameters", "mult-adds", "", "activation bytes"):
        table.add_column(heading, justify="left" if not heading else "right")
    largest = max(layer.madds for layer in counted.layers)
    units = _units(counted.layers)
    if sort is not None:
        key = {"params": "params", "size": "params", "madds": "madds"}.get(sort)
        units.sort(
            key=lambda unit: (
                sum(getattr(layer, key) for layer in unit)
                if key
                else unit[-1].activation_bytes.fp32
            ),
            reverse=True,
        )
    for unit in units:
        madds = sum(layer.madds for layer in unit)
        table.add_row(
            unit[0].name.removesuffix(".conv"),
            ", ".join(layer.kind for layer in unit),
            _shape(unit[-1]),
            f"{sum(layer.params for layer in unit):,}",
            f"{madds:,}" if madds else "",
            "▇" * round(BAR * madds / largest),
            f"{unit[-1].activation_bytes.fp32:,}",
        )
    return table


def _units(layers: tuple[LayerCost, ...]) -> list[list[LayerCost]]:
    """Return the layers, each convolution grouped with its batch norm and activation."""
    units: list[list[LayerCost]] = []
    for layer in layers:
        unit, _, part = layer.name.rpartition(".")
        follows = units and units[-1][0].name.rpartition(".")[0] == unit
        if part in ("norm", "activation") and follows:
            units[-1].append(layer)
        elif part != "flatten":
            units.append([layer])
    return units


def _shape(layer: LayerCost) -> str:
    return "x".join(str(size) for size in layer.shape)


def _totals(counted: Cost) -> tuple[str, ...]:
    size, peak = counted.size_bytes, counted.peak_activation_bytes
    return (
        f"parameters        {counted.params:,}",
        f"mult-adds         {counted.madds:,} ({counted.madds / 1e6:,.2f}M)",
        f"size              {human_bytes(size.fp32)} fp32, {human_bytes(size.int8)} int8",
        f"peak activations  {human_bytes(peak.fp32)} fp32, {human_bytes(peak.int8)} int8",
    )
