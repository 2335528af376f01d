"""``mobilette cost``: the cost of networks, layer by layer or side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.scale import Settings
from mobilette.cli.options import FormOption, Json, ResolutionOption, ranged
from mobilette.counting.cost import arch_at
from mobilette.counting.cost import cost as count
from mobilette.errors import InputError, shown
from mobilette.limits import CHANNELS, CLASSES, IN_CHANNELS, KERNEL, SIDE, STRIDE, WIDTH_MULT

ONE_CONVOLUTION = "One convolution (cost conv)"


def cost(
    models: Annotated[
        list[str],
        typer.Argument(help="Networks, patterns with *, runs, artifacts, JSON files, or conv."),
    ],
    width_mult: Annotated[float, ranged("--width-mult", WIDTH_MULT, "Width multiplier.")] = 1.0,
    resolution: ResolutionOption = None,
    form: FormOption = None,
    num_classes: Annotated[int, ranged("--num-classes", CLASSES, "Number of classes.")] = 1000,
    in_channels: Annotated[
        int, ranged("--in-channels", IN_CHANNELS, "Input channels: 3 for colour, 1 for grey.")
    ] = 3,
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="Show every layer, also of several networks.")
    ] = False,
    sort: Annotated[
        Literal["params", "madds", "size", "activations"] | None,
        typer.Option("--sort", help="Sort networks or layers, largest first."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    diagram: Annotated[
        Path | None, typer.Option("--diagram", help="Draw the network into this SVG file.")
    ] = None,
    as_json: Json = False,
    json_arch: Annotated[
        bool,
        typer.Option(
            "--json-arch", help="Print the network itself as JSON; --model takes such a file."
        ),
    ] = False,
    kernel: Annotated[
        int | None, ranged("--kernel", KERNEL, "Side of the kernel.", panel=ONE_CONVOLUTION)
    ] = None,
    conv_in: Annotated[
        int | None, ranged("--in", CHANNELS, "Input channels.", panel=ONE_CONVOLUTION)
    ] = None,
    conv_out: Annotated[
        int | None, ranged("--out", CHANNELS, "Output channels.", panel=ONE_CONVOLUTION)
    ] = None,
    size: Annotated[
        int | None, ranged("--size", SIDE, "Side of the input.", panel=ONE_CONVOLUTION)
    ] = None,
    stride: Annotated[
        int | None, ranged("--stride", STRIDE, "Stride [1].", panel=ONE_CONVOLUTION)
    ] = None,
    no_padding: Annotated[
        bool,
        typer.Option("--no-padding", help="Without padding.", rich_help_panel=ONE_CONVOLUTION),
    ] = False,
) -> None:
    """Count parameters, mult-adds, memory and size of networks.

    No network is built or run.
    """
    if as_csv and as_json:
        raise InputError("--csv and --json: give one of them")
    convolution = (kernel, conv_in, conv_out, size, stride)
    if models == ["conv"]:
        _explain_convolution(*convolution, no_padding=no_padding, as_json=as_json)
        return
    if convolution != (None,) * 5 or no_padding:
        raise InputError(
            "--kernel, --in, --out, --size, --stride and --no-padding belong to 'cost conv'"
        )
    settings = Settings(
        width_mult=width_mult,
        resolution=224 if resolution is None else resolution,
        num_classes=num_classes,
        in_channels=in_channels,
        form=form,
    )
    archs = [arch for model in models for arch in _archs(model, settings)]
    if diagram is not None:
        _draw(archs, diagram, width_mult=None if arch_at(models[0]) else width_mult)
    if json_arch:
        _print_arch(archs)
    else:
        _print_costs(archs, by_layer=by_layer, sort=sort, as_csv=as_csv, as_json=as_json)


def _draw(archs: list[Arch], file: Path, *, width_mult: float | None) -> None:
    if len(archs) != 1:
        raise InputError(f"--diagram draws one network, but {len(archs)} are given")
    from mobilette.reporting.diagram import write_diagram

    write_diagram(archs[0], file, width_mult=width_mult)


def _print_costs(
    archs: list[Arch], *, by_layer: bool, sort: str | None, as_csv: bool, as_json: bool
) -> None:
    costs = [count(arch) for arch in archs]
    if as_json:
        from mobilette.cli.output import print_json

        values = [counted.to_json() for counted in costs]
        print_json(values[0] if len(values) == 1 else values)
        return
    from mobilette.cli.cost_tables import print_comparison, print_layers

    if by_layer or len(costs) == 1:
        print_layers(archs, costs, sort=sort, as_csv=as_csv)
    else:
        print_comparison(costs, sort=sort, as_csv=as_csv)


def _archs(model: str, settings: Settings) -> list[Arch]:
    if (recorded := arch_at(model)) is not None:
        if settings != Settings():
            raise InputError(f"{model} has its own width, resolution, form and classes")
        return [recorded]
    if "*" in model or "?" in model:
        names = list_models(model)
        if not names:
            raise InputError(f"no network matches {shown(model)} ('mobilette models' lists all)")
        return [get_arch(name, settings) for name in names]
    return [get_arch(model, settings)]


def _print_arch(archs: list[Arch]) -> None:
    if len(archs) != 1:
        raise InputError(f"--json-arch prints one network, but {len(archs)} are given")
    from mobilette.cli.output import print_json

    print_json(archs[0].to_json())


def _explain_convolution(
    kernel: int | None,
    in_channels: int | None,
    out_channels: int | None,
    size: int | None,
    stride: int | None,
    *,
    no_padding: bool,
    as_json: bool,
) -> None:
    if kernel is None or in_channels is None or out_channels is None or size is None:
        raise InputError(
            "'cost conv' needs --kernel, --in, --out and --size, for example "
            "--kernel 3 --in 64 --out 128 --size 112"
        )
    from mobilette.cli.output import print_json
    from mobilette.counting.convolution import compare_convolution

    compared = compare_convolution(
        kernel=kernel,
        in_channels=in_channels,
        out_channels=out_channels,
        size=size,
        stride=1 if stride is None else stride,
        padding="valid" if no_padding else "symmetric",
    )
    if as_json:
        print_json(compared.to_json())
    else:
        from mobilette.cli.cost_tables import print_convolution

        print_convolution(compared)
