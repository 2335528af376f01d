"""Which network fits which device, and how long it takes there.

python -m docs.blocks.devices
"""

from __future__ import annotations

from matplotlib.figure import Figure

from docs.blocks.plain_table import plain_table
from docs.blocks.published import (
    ARENAS,
    LARGER,
    NETWORKS,
    PIXEL_MS,
    SEARCHED,
    SMALL,
    ZEN4_MS,
    Published,
)
from docs.blocks.show import show
from docs.blocks.style import BLUE, GREEN, GREY, INK, ORANGE, VERMILION
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.counting.cost import cost

RAM, FLASH = 256 * 1024, 1024 * 1024
OWN_CLASSES = 10


def published_arch(published: Published) -> Arch:
    """Return the network that a published number is about."""
    settings = Settings(width_mult=published.width_mult, resolution=published.resolution)
    return get_arch(published.name, settings)


def short_name(name: str, width_mult: float, resolution: int) -> str:
    """Return name, width and resolution in a few letters."""
    return f"{name} {width_mult:g} @{resolution}"


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.0f} kB"


def verdict(size: int, peak: int) -> str:
    """Return whether a network fits the microcontroller, or what is too small for it."""
    if peak > RAM:
        return "no: RAM"
    if size > FLASH:
        return "no: flash"
    return "yes" if 2 * peak <= RAM else "barely"


def microcontroller() -> str:
    """Return small networks against 256 KB of RAM and 1 MB of flash, as a table."""
    rows = []
    for published in SMALL:
        arch = published_arch(published)
        c, own = cost(arch), cost(arch.with_classes(OWN_CLASSES))
        peak = c.peak_activation_bytes.int8
        rows.append(
            (
                short_name(published.name, published.width_mult, published.resolution),
                f"{c.madds / 1e6:.1f}M",
                _kilobytes(peak),
                _kilobytes(c.size_bytes.int8),
                verdict(c.size_bytes.int8, peak),
                f"{published.top1}%",
                _kilobytes(own.size_bytes.int8),
                verdict(own.size_bytes.int8, own.peak_activation_bytes.int8),
            )
        )
    header = ("", "mult-adds", "int8 peak", "int8 size", "fits", "top-1", "10 classes", "fits")
    return f"{plain_table(header, rows)}\n{SEARCHED}"


def arenas() -> str:
    """Return the counted peaks beside the memory that a real engine planned."""
    rows = []
    for (name, width_mult, resolution), measured in ARENAS.items():
        settings = Settings(width_mult=width_mult, resolution=resolution)
        peak = cost(get_arch(name, settings)).peak_activation_bytes.int8
        network = short_name(name, width_mult, resolution)
        rows.append((network, _kilobytes(peak), _kilobytes(measured), f"{measured / peak:.1f}"))
    return plain_table(("", "counted peak", "tflite-micro arena", "times"), rows)


def larger() -> str:
    """Return the larger networks with their measured times, as a table."""
    int8 = dict(zip(NETWORKS, ZEN4_MS["ONNX Runtime int8"], strict=True))
    web = dict(zip(NETWORKS, ZEN4_MS["ONNX Runtime Web fp32"], strict=True))
    rows = []
    for published in LARGER:
        c = cost(published_arch(published))
        times = (PIXEL_MS.get(published.name), web.get(published.name), int8.get(published.name))
        rows.append(
            (
                published.name,
                f"{c.params / 1e6:.1f}M",
                f"{c.madds / 1e6:,.0f}M",
                f"{c.size_bytes.int8 / 1e6:.1f} MB",
                f"{c.peak_activation_bytes.int8 / 1e6:.1f} MB",
                f"{published.top1}%",
                *("-" if ms is None else f"{ms:g} ms" for ms in times),
            )
        )
    header = (
        "",
        "parameters",
        "mult-adds",
        "int8 size",
        "int8 peak",
        "top-1",
        "phone fp32",
        "browser fp32",
        "server int8",
    )
    return plain_table(header, rows)


def speeds() -> str:
    """Return milliseconds, and the billion mult-adds a second that they make, as a table."""
    madds = [cost(get_arch(name)).madds for name in NETWORKS]
    rows = [("million mult-adds", *(f"{n / 1e6:,.0f}" for n in madds))]
    for path, times in ZEN4_MS.items():
        speed = (
            "-" if ms is None else f"{n / ms / 1e6:.1f}" for n, ms in zip(madds, times, strict=True)
        )
        rows.append((f"{path}, ms", *("-" if ms is None else f"{ms:.1f}" for ms in times)))
        rows.append(("  billion mult-adds a second", *speed))
    fp32, int8 = (ZEN4_MS[f"ONNX Runtime {precision}"] for precision in ("fp32", "int8"))
    gains = (f"{a / b:.1f}" for a, b in zip(fp32, int8, strict=True) if a and b)
    rows.append(("ONNX Runtime, fp32 / int8", *gains))
    return plain_table(("", *NETWORKS), rows)


# Where each engine's line is labelled, in points from its last network.
LABELS = ((7, 0), (7, 0), (7, 7), (7, -7), (7, 0))
TITLES = ("V3-Large", "V2", "V1", "ResNet-18")


def draw() -> Figure:
    """Draw measured milliseconds over mult-adds: one line an engine."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    madds = [cost(get_arch(name)).madds / 1e6 for name in NETWORKS]
    for name, n in zip(TITLES, madds, strict=True):
        axes.axvline(n, color=GREY, linewidth=0.4, zorder=0)
        axes.text(n, 106, name, ha="center")
    for start in (2.4, 9.6, 38.4):
        end = start * madds[-1] / madds[0]
        ends = ((madds[0], madds[-1]), (start, end))
        axes.plot(*ends, color=GREY, linewidth=0.7, linestyle=(0, (2, 3)), zorder=0)
    axes.text(590, 2.3, "dotted: in proportion to mult-adds", color="#666666")
    colors = (BLUE, VERMILION, GREEN, INK, ORANGE)
    for (path, times), color, label in zip(ZEN4_MS.items(), colors, LABELS, strict=True):
        points = [(n, ms) for n, ms in zip(madds, times, strict=True) if ms is not None]
        axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=4)
        axes.annotate(
            path,
            points[-1],
            label,
            textcoords="offset points",
            color=color,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(190, 3400)
    axes.set_ylim(2, 100)
    axes.set_xticks(madds, [f"{n:,.0f}" for n in madds])
    axes.minorticks_off()
    axes.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    axes.set_xlabel("million mult-adds")
    axes.set_ylabel("milliseconds an image")
    return figure


if __name__ == "__main__":
    show(microcontroller, arenas, larger, speeds)
