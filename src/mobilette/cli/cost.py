"""``mobilette cost``: what networks cost, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.cli.options import FormOption, InChannels, Json, NumClasses, Resolution, WidthMult
from mobilette.counting.cost import Cost, LayerCost
from mobilette.counting.cost import cost as count
from mobilette.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

BAR = 12


def cost(
    models: Annotated[list[str], typer.Argument(help="Names of networks, or run directories.")],
    width_mult: WidthMult = 1.0,
    resolution: Resolution = None,
    form: FormOption = None,
    num_classes: NumClasses = 1000,
    in_channels: InChannels = 3,
    diagram: Annotated[
        Path | None, typer.Option("--diagram", help="Draw the network into this SVG file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count parameters, mult-adds, activation memory and size; nothing is run."""
    settings = Settings(
        width_mult=width_mult,
        resolution=224 if resolution is None else resolution,
        num_classes=num_classes,
        in_channels=in_channels,
        form=form.value if form else None,
    )
    archs = [_arch(model, settings) for model in models]
    costs = [count(arch) for arch in archs]
    if diagram is not None:
        _draw(models, archs, diagram, width_mult)
    if as_json:
        from mobilette.cli.output import print_json

        values = [counted.to_json() for counted in costs]
        print_json(values[0] if len(values) == 1 else values)
        return
    from mobilette.cli.output import console

    if len(costs) == 1:
        console().print(_heading(archs[0]), _layer_table(costs[0]), _totals(costs[0]), sep="\n")
    else:
        console().print(_comparison(costs))


def _arch(model: str, settings: Settings) -> Arch:
    if (Path(model) / "arch.json").is_file():
        from mobilette.run.directory import open_run

        if settings != Settings():
            raise InputError(f"{model}: a run has its own width, resolution, form and classes")
        return open_run(model).arch
    return get_arch(model, settings)


def _draw(models: list[str], archs: list[Arch], file: Path, width_mult: float) -> None:
    from mobilette.reporting.diagram import write_diagram

    if len(archs) > 1:
        raise InputError(f"--diagram draws one network, and {len(archs)} are given; name one")
    is_run = (Path(models[0]) / "arch.json").is_file()  # whose width nobody has given here
    write_diagram(archs[0], file, width_mult=None if is_run else width_mult)


def _heading(arch: Arch) -> str:
    side = arch.resolution
    return f"{arch.name}: {side}x{side}x{arch.in_channels} in, {arch.num_classes:,} classes\n"


def _layer_table(counted: Cost) -> Table:
    """One line a convolution, with what follows it in place: batch norm and activation."""
    from rich.table import Table

    table = Table("layer", "kind", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("output", "parameters", "mult-adds", "", "activation bytes"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    largest = max(layer.madds for layer in counted.layers)
    for name, kind, group in _merged(counted.layers):
        madds = sum(layer.madds for layer in group)
        table.add_row(
            name,
            kind,
            "x".join(str(size) for size in group[-1].shape),
            f"{sum(layer.params for layer in group):,}",
            f"{madds:,}" if madds else "",
            "▇" * round(BAR * madds / largest),
            f"{group[-1].activation_bytes.fp32:,}",
        )
    return table


def _merged(layers: tuple[LayerCost, ...]) -> list[tuple[str, str, list[LayerCost]]]:
    groups: list[list[LayerCost]] = []
    for layer in layers:
        unit, _, part = layer.name.rpartition(".")
        if part in ("norm", "activation") and groups[-1][0].name.startswith(unit):
            groups[-1].append(layer)
        elif part != "flatten":
            groups.append([layer])
    return [
        (
            group[0].name.removesuffix(".conv"),
            ", ".join(layer.kind for layer in group),
            group,
        )
        for group in groups
    ]


def _totals(counted: Cost) -> str:
    from mobilette.cli.output import human_bytes

    size, peak = counted.size_bytes, counted.peak_activation_bytes
    return (
        f"\nparameters        {counted.params:,}\n"
        f"mult-adds         {counted.madds:,} ({counted.madds / 1e6:,.2f}M)\n"
        f"size              {human_bytes(size.fp32)} fp32, {human_bytes(size.int8)} int8\n"
        f"peak activations  {human_bytes(peak.fp32)} fp32, {human_bytes(peak.int8)} int8"
    )


def _comparison(costs: list[Cost]) -> Table:
    from rich.table import Table

    from mobilette.cli.output import human_bytes

    table = Table("network", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in (
        "parameters",
        "mult-adds",
        "size fp32",
        "int8",
        "peak activations fp32",
        "int8",
    ):
        table.add_column(heading, justify="right")
    for counted in costs:
        sizes = (counted.size_bytes, counted.peak_activation_bytes)
        table.add_row(
            counted.name,
            f"{counted.params:,}",
            f"{counted.madds:,}",
            *(human_bytes(value) for size in sizes for value in (size.fp32, size.int8)),
        )
    return table
