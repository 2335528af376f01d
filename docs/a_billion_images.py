"""The arithmetic of docs/a_billion_images.md.

python -m docs.a_billion_images [TABLE]

Every number that is neither counted nor computed is an `Assumption`, with where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from docs.blocks.plain_table import plain_table
from docs.blocks.show import show
from mobilette.arch.catalogue import get_arch
from mobilette.counting.cost import cost

BENCH = "bench/a_billion_images.py"
DGX = "NVIDIA DGX A100, data sheet"
NETWORKS = ("mobilenet_v2", "shufflenet_v2", "resnet50")
GPUS = (8, 64)
PROCESSES = 8  # of a machine, one a GPU
RESOLUTION = 224


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """A number that everything below depends on."""

    what: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How the images lie in their shards: bytes each, and how many a core decodes a second."""

    name: str
    size: Assumption
    rate: Assumption


def _measured(what: str, value: float, unit: str) -> Assumption:
    return Assumption(what=what, value=value, unit=unit, source=BENCH)


IMAGES = Assumption(what="images", value=1e9, unit="", source="the question")
SMALL = Stored(
    name="288 high",
    size=_measured("a JPEG 288 high", 38_770, "bytes"),
    rate=_measured("decoded by a core", 585.6, "images/s"),
)
LARGE = Stored(
    name="1536x1152",
    size=_measured("a JPEG of 1536x1152", 579_644, "bytes"),
    rate=_measured("decoded by a core, at half size", 102.5, "images/s"),
)
PHONE = Stored(
    name="3840x2880",
    size=_measured("a JPEG of 3840x2880", 3_409_138, "bytes"),
    rate=_measured("decoded by a core, at a quarter", 26.2, "images/s"),
)
STORED = (SMALL, LARGE, PHONE)
LARGE_EXACT = _measured("1536x1152 without reduced scale", 60.7, "images/s")
PHONE_EXACT = _measured("3840x2880 without reduced scale", 9.1, "images/s")
MAIN = _measured("work of the training process", 68.2, "us an image")
FIND = _measured("to find the images in their shards", 55.4, "us an image")
OPEN = _measured("to open the set then", 12.7, "us an image")
HELD = _measured("memory of the index", 393, "bytes per image")
MOST = _measured("the same while it is made, at most", 926, "bytes per image")
DIGEST = _measured("more, once an image was decoded", 136, "bytes per image")
ORDER = _measured("to draw an epoch's order, at most", 56, "bytes per image")
RESNET50 = Assumption(
    what="ResNet-50 on one GPU, mixed precision",
    value=2470,
    unit="images/s",
    source="NVIDIA DeepLearningExamples, A100 80GB",
)
BATCH = Assumption(what="batch of a GPU", value=256, unit="images", source="a usual choice")
CORES = Assumption(what="cores of a machine of 8 GPUs", value=128, unit="", source=DGX)
MEMORY = Assumption(what="its memory", value=2e12, unit="bytes", source=DGX)
DISK = Assumption(what="its disks", value=30e12, unit="bytes", source=DGX)
STORAGE = Assumption(
    what="its way to the storage", value=25e9, unit="bytes/s", source="one port of 200 Gb/s"
)
NETWORK = Assumption(
    what="a GPU's way to others", value=25e9, unit="bytes/s", source="one port of 200 Gb/s"
)
PATIENCE = Assumption(
    what="processes wait for the first", value=1800, unit="s", source="torch.distributed's default"
)
ASSUMPTIONS = (
    IMAGES,
    *(part for stored in STORED for part in (stored.size, stored.rate)),
    *(LARGE_EXACT, PHONE_EXACT, MAIN, FIND, OPEN, HELD, MOST, DIGEST, ORDER),
    *(RESNET50, BATCH, CORES, MEMORY, DISK, STORAGE, NETWORK, PATIENCE),
)


def gpu_rate(name: str) -> float:
    """Return images a second of one GPU, assumed to go by the outputs of the convolutions.

    Radosavovic et al. 2020, arXiv 2003.13678, section 3: on accelerators, which memory holds up,
    the time of a network goes by its activations (outputs of convolutions) more than by its
    mult-adds.
    """
    return RESNET50.value * activations("resnet50") / activations(name)


def activations(name: str) -> int:
    """Return the outputs of the network's convolutions for one image."""
    layers = cost(get_arch(name)).layers
    return sum(layer.activation_bytes.int8 for layer in layers if layer.kind.startswith("conv"))


def exchanged(name: str, gpus: int) -> float:
    """Return the bytes that a GPU sends in one step: fp32 gradients, all-reduced in a ring."""
    return 4 * cost(get_arch(name)).params * 2 * (gpus - 1) / gpus


def limits(name: str, stored: Stored) -> dict[str, float]:
    """Return the images a second of a machine of 8 GPUs that each part of it allows."""
    steps = NETWORK.value / exchanged(name, max(GPUS))
    return {
        "GPUs": PROCESSES * gpu_rate(name),
        "cores": CORES.value * stored.rate.value,
        "processes": PROCESSES * 1e6 / MAIN.value,
        "storage": STORAGE.value / stored.size.value,
        "gradients": PROCESSES * steps * BATCH.value,
    }


def assumptions() -> str:
    """Return what is assumed, and the source of each."""
    rows = [(item.what, _number(item), item.source) for item in ASSUMPTIONS]
    return plain_table(("", "", "source"), rows)


def _number(item: Assumption) -> str:
    value, unit = item.value, item.unit
    for large, prefix in ((1e12, "T"), (1e9, "G")):
        if unit.startswith("bytes") and value >= large:
            return f"{value / large:,.0f} {prefix}{unit.replace('bytes', 'B')}"
    return f"{value:,.1f}".removesuffix(".0") + f" {unit}".rstrip()


def networks() -> str:
    """Return what a GPU does with each network."""
    rows = [
        (
            name,
            f"{cost(get_arch(name)).madds / 1e6:,.1f}M",
            f"{activations(name) / 1e6:.2f}M",
            f"{gpu_rate(name):,.0f}",
            f"{gpu_rate(name) / SMALL.rate.value:.1f}",
        )
        for name in NETWORKS
    ]
    return plain_table(("", "mult-adds", "activations", "images/s", "cores to decode"), rows)


def disk() -> str:
    """Return what a billion images take on disks."""
    decoded = 3 * RESOLUTION * RESOLUTION
    sizes = [(f"JPEG, {stored.name}", stored.size.value) for stored in STORED]
    sizes.append((f"decoded, {RESOLUTION}x{RESOLUTION}", decoded))
    rows = [
        (
            name,
            f"{size:,.0f}",
            f"{IMAGES.value * size / 1e12:,.1f} TB",
            f"{IMAGES.value * size / DISK.value:,.1f}",
        )
        for name, size in sizes
    ]
    kept = DISK.value / 2 / decoded / 1e6
    table = plain_table(("", "bytes per image", "in all", "machines' disks"), rows)
    return f"{table}\nkept decoded on a machine's disks: up to {kept:,.0f} million images"


def demand() -> str:
    """Return what GPUs that never wait need of everything else."""
    rows = []
    for name in NETWORKS:
        for gpus in GPUS:
            rate = gpus * gpu_rate(name)
            rows.append(
                (
                    name,
                    str(gpus),
                    f"{rate:,.0f}",
                    f"{rate * SMALL.size.value / 1e9:.2f} GB/s",
                    f"{rate / SMALL.rate.value:,.0f}",
                    f"{rate / gpus / BATCH.value * exchanged(name, gpus) / 1e9:.2f} GB/s",
                    f"{IMAGES.value / rate / 3600:.1f} h",
                )
            )
    head = ("", "GPUs", "images/s", "storage", "cores", "gradients of a GPU", "epoch")
    return plain_table(head, rows)


def first() -> str:
    """Return which part of a machine of 8 GPUs saturates first, and what remains of the GPUs."""
    rows = []
    for stored in STORED:
        for name in NETWORKS:
            allowed = limits(name, stored)
            least = min(allowed, key=lambda part: allowed[part])
            rate = allowed[least]
            numbers = [f"{value:,.0f}" for value in allowed.values()]
            busy = f"{rate / allowed['GPUs']:.0%}"
            rows.append((stored.name, name, *numbers, least, busy, f"{_hours(rate):.1f} h"))
    parts = tuple(limits(NETWORKS[0], SMALL))
    return plain_table(("", "", *parts, "first", "GPUs busy", "epoch on 64"), rows)


def index() -> str:
    """Return what the index of a billion images takes, and how many fit a machine."""
    a_image = HELD.value + DIGEST.value + ORDER.value
    fit = MEMORY.value / PROCESSES / max(a_image, MOST.value)
    hours = IMAGES.value * (FIND.value + OPEN.value) / 1e6 / 3600
    rows = (
        ("held by a process", f"{IMAGES.value * a_image / 1e9:,.0f} GB"),
        ("needed while it is made", f"{IMAGES.value * MOST.value / 1e9:,.0f} GB"),
        (f"by {PROCESSES} processes", f"{PROCESSES * IMAGES.value * MOST.value / 1e12:.1f} TB"),
        ("time to make it", f"{hours:.1f} h"),
        ("images whose index fits the machine", f"{fit / 1e6:,.0f} million"),
        (
            "images that the others wait for",
            f"{PATIENCE.value / (OPEN.value / 1e6) / 1e6:,.0f} million",
        ),
    )
    return plain_table(("index of a billion images", ""), rows)


def _hours(rate: float) -> float:
    """Return the hours of an epoch on 64 GPUs whose machines make ``rate`` images a second."""
    return IMAGES.value / (rate * max(GPUS) / PROCESSES) / 3600


if __name__ == "__main__":
    show(assumptions, networks, disk, demand, first, index)
