"""The tables of ``mobilette cost``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence

from mobilette.arch.arch import Arch
from mobilette.cli.output import human_bytes, table
from mobilette.counting.convolution import ConvolutionCost
from mobilette.counting.cost import Cost, LayerCost
from mobilette.counting.training_memory import training_memory
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
    headings = (
        "network",
        "parameters",
        "mult-adds",
        "size fp32",
        "int8",
        "activations fp32",
        "int8",
    )
    rows = (
        (name, f"{params:,}", f"{madds:,}", *(human_bytes(int(size)) for size in sizes))
        for name, params, madds, *sizes in (record.values() for record in records)
    )
    print(table(headings, rows))


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
        size = "x".join(map(str, (*arch.size, arch.in_channels)))
        heading = f"{visible(arch.name)}: {size} in, {arch.num_classes:,} classes"
        lines = [*[""] * (number > 0), heading, ""]
        print(*lines, _layer_table(counted, sort), "", *_totals(counted, arch), sep="\n")


def print_convolution(compared: ConvolutionCost) -> None:
    """Print a convolution's cost with its formulas."""
    k, m, n, d = compared.kernel, compared.in_channels, compared.out_channels, compared.out_size
    depthwise, pointwise = compared.depthwise_params, compared.pointwise_params
    rows = (
        (
            f"standard {k}x{k}",
            f"K²·M·N·D² = {k}²·{m}·{n}·{d}²",
            f"{compared.standard_madds:,}",
            f"{compared.standard_params:,}",
        ),
        (
            f"depthwise {k}x{k}",
            f"K²·M·D² = {k}²·{m}·{d}²",
            f"{compared.depthwise_madds:,}",
            f"{depthwise:,}",
        ),
        (
            "pointwise 1x1",
            f"M·N·D² = {m}·{n}·{d}²",
            f"{compared.pointwise_madds:,}",
            f"{pointwise:,}",
        ),
        (
            "depthwise separable",
            "(K² + N)·M·D²",
            f"{compared.separable_madds:,}",
            f"{depthwise + pointwise:,}",
        ),
    )
    print(
        f"{k}x{k} convolution, M = {m} to N = {n} channels, D = {d}: {d}x{d} output positions",
        "",
        table(("", "mult-adds", "", "weights"), rows, left=(0, 1)),
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


def _layer_table(counted: Cost, sort: str | None) -> str:
    """Return one row per convolution with the batch norm and activation that follow it."""
    rows = []
    largest = max(layer.madds for layer in counted.layers)
    units = _units(counted.layers)
    if sort == "activations":
        units.sort(key=lambda unit: unit[-1].activation_bytes.fp32, reverse=True)
    elif sort is not None:
        key = "madds" if sort == "madds" else "params"
        units.sort(key=lambda unit: sum(getattr(layer, key) for layer in unit), reverse=True)
    for unit in units:
        madds = sum(layer.madds for layer in unit)
        rows.append(
            (
                unit[0].name.removesuffix(".conv"),
                ", ".join(layer.kind for layer in unit),
                _shape(unit[-1]),
                f"{sum(layer.params for layer in unit):,}",
                f"{madds:,}" if madds else "",
                "▇" * round(BAR * madds / largest),
                f"{unit[-1].activation_bytes.fp32:,}",
            )
        )
    headings = ("layer", "kind", "output", "parameters", "mult-adds", "", "activation bytes")
    return table(headings, rows, left=(0, 1, 5), gap=2)


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


def _totals(counted: Cost, arch: Arch) -> tuple[str, ...]:
    size, peak = counted.size_bytes, counted.peak_activation_bytes
    step = training_memory(arch, batch_size=1)
    each = step.activations + step.working
    return (
        f"parameters        {counted.params:,}",
        f"mult-adds         {counted.madds:,} ({counted.madds / 1e6:,.2f}M)",
        f"size              {human_bytes(size.fp32)} fp32, {human_bytes(size.int8)} int8",
        f"peak activations  {human_bytes(peak.fp32)} fp32, {human_bytes(peak.int8)} int8",
        f"training step     {human_bytes(step.fixed)} and {human_bytes(each)} per image, fp32",
    )
