"""The arithmetic of docs/a_billion_images.md.

python -m docs.a_billion_images [TABLE]

Every number that is neither counted nor computed is an `Assumption` with its source.
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
PROCESSES = 8  # per machine, one per GPU
RESOLUTION = 224


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """A number that the results depend on."""

    what: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A stored size of images: bytes per image, and images per second that a core decodes."""

    name: str
    size: Assumption
    rate: Assumption


def _measured(what: str, value: float, unit: str) -> Assumption:
    return Assumption(what=what, value=value, unit=unit, source=BENCH)


IMAGES = Assumption(what="images", value=1e9, unit="", source="the question")
SMALL = Stored(
    name="288 high",
    size=_measured("JPEG, 288 high", 38_770, "bytes"),
    rate=_measured("decoded per core", 585.6, "images/s"),
)
LARGE = Stored(
    name="1536x1152",
    size=_measured("JPEG, 1536x1152", 579_644, "bytes"),
    rate=_measured("decoded per core, at half size", 102.5, "images/s"),
)
PHONE = Stored(
    name="3840x2880",
    size=_measured("JPEG, 3840x2880", 3_409_138, "bytes"),
    rate=_measured("decoded per core, at a quarter", 26.2, "images/s"),
)
STORED = (SMALL, LARGE, PHONE)
LARGE_EXACT = _measured("1536x1152, at full size", 60.7, "images/s")
PHONE_EXACT = _measured("3840x2880, at full size", 9.1, "images/s")
MAIN = _measured("time of the training process", 68.2, "us per image")
FIND = _measured("finding the images in the shards", 55.4, "us per image")
OPEN = _measured("opening the set after that", 12.7, "us per image")
HELD = _measured("memory of the index", 393, "bytes per image")
MOST = _measured("peak memory while it is built", 926, "bytes per image")
DIGEST = _measured("extra memory after decoding", 136, "bytes per image")
ORDER = _measured("peak memory to shuffle an epoch", 56, "bytes per image")
RESNET50 = Assumption(
    what="ResNet-50 on one GPU, mixed precision",
    value=2470,
    unit="images/s",
    source="NVIDIA DeepLearningExamples, A100 80GB",
)
BATCH = Assumption(what="batch per GPU", value=256, unit="images", source="a common choice")
CORES = Assumption(what="cores of a machine with 8 GPUs", value=128, unit="", source=DGX)
MEMORY = Assumption(what="its memory", value=2e12, unit="bytes", source=DGX)
DISK = Assumption(what="its disks", value=30e12, unit="bytes", source=DGX)
STORAGE = Assumption(
    what="its storage bandwidth", value=25e9, unit="bytes/s", source="one port of 200 Gb/s"
)
NETWORK = Assumption(
    what="network bandwidth per GPU", value=25e9, unit="bytes/s", source="one port of 200 Gb/s"
)
PATIENCE = Assumption(
    what="timeout for the first process", value=1800, unit="s", source="torch.distributed's default"
)
ASSUMPTIONS = (
    IMAGES,
    *(part for stored in STORED for part in (stored.size, stored.rate)),
    *(LARGE_EXACT, PHONE_EXACT, MAIN, FIND, OPEN, HELD, MOST, DIGEST, ORDER),
    *(RESNET50, BATCH, CORES, MEMORY, DISK, STORAGE, NETWORK, PATIENCE),
)


def gpu_rate(name: str) -> float:
    """Return images per second of one GPU, assuming time proportional to activations.

    Radosavovic et al. 2020, arXiv 2003.13678, section 3: on accelerators, which are limited by
    memory bandwidth, a network's time depends more on its activations (outputs of convolutions)
    than on its mult-adds.
    """
    return RESNET50.value * activations("resnet50") / activations(name)


def activations(name: str) -> int:
    """Return the number of outputs of the network's convolutions for one image."""
    layers = cost(get_arch(name)).layers
    return sum(layer.activation_bytes.int8 for layer in layers if layer.kind.startswith("conv"))


def exchanged(name: str, gpus: int) -> float:
    """Return the bytes that a GPU sends in one step: fp32 gradients, all-reduced in a ring."""
    return 4 * cost(get_arch(name)).params * 2 * (gpus - 1) / gpus


def limits(name: str, stored: Stored) -> dict[str, float]:
    """Return the images per second that each part of a machine with 8 GPUs allows."""
    steps = NETWORK.value / exchanged(name, max(GPUS))
    return {
        "GPUs": PROCESSES * gpu_rate(name),
        "cores": CORES.value * stored.rate.value,
        "processes": PROCESSES * 1e6 / MAIN.value,
        "storage": STORAGE.value / stored.size.value,
        "gradients": PROCESSES * steps * BATCH.value,
    }


def assumptions() -> str:
    """Return the assumptions and their sources."""
    rows = [(item.what, _number(item), item.source) for item in ASSUMPTIONS]
    return plain_table(("", "", "source"), rows)


def _number(item: Assumption) -> str:
    value, unit = item.value, item.unit
    for large, prefix in ((1e12, "T"), (1e9, "G")):
        if unit.startswith("bytes") and value >= large:
            return f"{value / large:,.0f} {prefix}{unit.replace('bytes', 'B')}"
    return f"{value:,.1f}".removesuffix(".0") + f" {unit}".rstrip()


def networks() -> str:
    """Return the images per second of a GPU for each network."""
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
    """Return the disk space of a billion images."""
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
    table = plain_table(("", "bytes per image", "total", "machines' disks"), rows)
    return f"{table}\ndecoded images cached on a machine's disks: up to {kept:,.0f} million images"


def demand() -> str:
    """Return what GPUs that never wait require of everything else."""
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
    head = ("", "GPUs", "images/s", "storage", "cores", "gradients per GPU", "epoch")
    return plain_table(head, rows)


def first() -> str:
    """Return which part of a machine with 8 GPUs saturates first, and how busy the GPUs are."""
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
    """Return the size of the index of a billion images, and how many images fit in a machine."""
    per_image = HELD.value + DIGEST.value + ORDER.value
    fit = MEMORY.value / PROCESSES / max(per_image, MOST.value)
    hours = IMAGES.value * (FIND.value + OPEN.value) / 1e6 / 3600
    rows = (
        ("memory per process", f"{IMAGES.value * per_image / 1e9:,.0f} GB"),
        ("peak while it is built", f"{IMAGES.value * MOST.value / 1e9:,.0f} GB"),
        (
            f"peak of {PROCESSES} processes",
            f"{PROCESSES * IMAGES.value * MOST.value / 1e12:.1f} TB",
        ),
        ("time to build it", f"{hours:.1f} h"),
        ("images whose index fits in a machine", f"{fit / 1e6:,.0f} million"),
        (
            "images opened before the timeout",
            f"{PATIENCE.value / (OPEN.value / 1e6) / 1e6:,.0f} million",
        ),
    )
    return plain_table(("index of a billion images", ""), rows)


def _hours(rate: float) -> float:
    """Return the hours of an epoch on 64 GPUs if a machine processes ``rate`` images per second."""
    return IMAGES.value / (rate * max(GPUS) / PROCESSES) / 3600


if __name__ == "__main__":
    show(assumptions, networks, disk, demand, first, index)
