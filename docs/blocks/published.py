"""Numbers that others published, each with its source; nothing of them is measured here."""

from __future__ import annotations

from dataclasses import dataclass

V1_PAPER = "arXiv 1704.04861"
V2_PAPER = "arXiv 1801.04381"
V3_PAPER = "arXiv 1905.02244v5"
SHUFFLE_V1_PAPER = "arXiv 1707.01083"
SHUFFLE_V2_PAPER = "arXiv 1807.11164"
SLIM_V1 = "tensorflow/models, slim/nets/mobilenet_v1.md"
SLIM_V2 = "tensorflow/models, slim/nets/mobilenet/README.md"
TORCHVISION = "torchvision 0.29, IMAGENET1K_V1"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A network of the catalogue and its published top-1 on ImageNet, in percent, as floats."""

    name: str
    width_mult: float = 1.0
    resolution: int = 224
    top1: float
    source: str


V1 = Published(name="mobilenet_v1", top1=70.6, source=f"{V1_PAPER} Table 6")
V1_FULL_CONV = Published(name="mobilenet_v1_full_conv", top1=71.7, source=f"{V1_PAPER} Table 4")
V2 = Published(name="mobilenet_v2", top1=72.0, source=f"{V2_PAPER} Table 4")
V3_LARGE = Published(name="mobilenet_v3_large", top1=75.2, source=f"{V3_PAPER} Table 3")
V3_SMALL = Published(name="mobilenet_v3_small", top1=67.4, source=f"{V3_PAPER} Table 3")
RESNET18 = Published(name="resnet18", top1=69.8, source=TORCHVISION)

SMALL = (
    Published(name="mobilenet_v1", width_mult=0.25, resolution=128, top1=41.5, source=SLIM_V1),
    Published(name="mobilenet_v1", width_mult=0.25, resolution=192, top1=47.7, source=SLIM_V1),
    Published(name="mobilenet_v1", width_mult=0.5, resolution=128, top1=56.3, source=SLIM_V1),
    Published(name="mobilenet_v2", width_mult=0.35, resolution=96, top1=45.5, source=SLIM_V2),
    Published(name="mobilenet_v2", width_mult=0.35, resolution=128, top1=50.8, source=SLIM_V2),
    Published(name="mobilenet_v3_small", width_mult=0.35, top1=49.8, source=f"{V3_PAPER} Table 9"),
    Published(name="mobilenet_v3_small", resolution=96, top1=51.7, source=f"{V3_PAPER} Table 9"),
    Published(
        name="shufflenet_v1_g8", width_mult=0.25, top1=47.3, source=f"{SHUFFLE_V1_PAPER} Table 2"
    ),
    Published(
        name="shufflenet_v1_g3", width_mult=0.5, top1=56.8, source=f"{SHUFFLE_V1_PAPER} Table 2"
    ),
)

LARGER = (
    V3_SMALL,
    Published(name="shufflenet_v2", top1=69.4, source=f"{SHUFFLE_V2_PAPER} Table 8"),
    V1,
    V2,
    V3_LARGE,
    RESNET18,
)

# V3 paper, section 5.1: milliseconds on a Pixel 1 and million mult-adds that each change saves
TAIL = {"last stage": (7, 30), "stem": (2, 10)}

# Hard-swish, V3 paper Table 5, V3-Large on a Pixel 1: top-1 in percent, milliseconds, milliseconds
# with a hard-swish that is not optimised.
HARD_SWISH = {
    "ReLU everywhere": (74.5, 50.5, 50.5),
    "from 112 channels on": (75.0, 51.0, 54.4),
    "as published": (75.2, 51.4, 57.5),
    "from 16 channels on": (75.4, 53.5, 68.9),
}

# ShuffleNet V1 1x, the paper's Table 2: groups to top-1 in percent.
GROUPS = {1: 66.4, 2: 67.3, 3: 67.4, 4: 67.2, 8: 67.6}

# Channel shuffle, ShuffleNet V1 paper Table 3: (scale, groups) to top-1 error in percent without
# and with it.
SHUFFLE = {
    (1.0, 3): (34.5, 32.6),
    (1.0, 8): (37.6, 32.4),
    (0.5, 3): (45.7, 43.2),
    (0.5, 8): (48.1, 42.3),
    (0.25, 3): (56.3, 55.0),
    (0.25, 8): (56.5, 52.7),
}

# Squeeze-and-excitation: ShuffleNet V1 2x (3 groups) in its paper's Table 5, ShuffleNet V2 2x in
# its paper's Table 8: million mult-adds and top-1 without, with.
SQUEEZE_EXCITE = {
    "ShuffleNet V1 2x": ((524, 73.7), (527, 75.3)),
    "ShuffleNet V2 2x": ((591, 74.9), (597, 75.4)),
}
# The same two of ShuffleNet V2: images a second on one core of a Snapdragon 810.
SQUEEZE_EXCITE_SPEED = (6.7, 5.6)

# A network searched for 256 kB of RAM and 1 MB of flash.
SEARCHED = (
    "published, searched for this budget: MCUNet-in2, 242 kB, 878 kB, 60.3% in int8 "
    "(mit-han-lab/mcunet README)"
)

# Milliseconds an image, batch 1 at 224, one thread.
# On a Pixel 1: google/XNNPACK README, March 2020, fp32.
PIXEL_MS = {
    "mobilenet_v1": 82,
    "mobilenet_v2": 49,
    "mobilenet_v3_large": 39,
    "mobilenet_v3_small": 12,
}
# On one core of an AMD Zen 4 (AVX512-VNNI), November 2026, measured when this project chose its
# engines: ONNX Runtime 1.31.1, LiteRT 2.3.0, OpenVINO 2026.4.1, ONNX Runtime Web 1.30.0 in
# Chromium; the lowest of three medians. The machine had other load: gaps below 15% mean nothing.
NETWORKS = ("mobilenet_v3_large", "mobilenet_v2", "mobilenet_v1", "resnet18")
ZEN4_MS: dict[str, tuple[float | None, ...]] = {
    "ONNX Runtime fp32": (7.1, 8.0, 13.2, 37.2),
    "ONNX Runtime int8": (6.4, 3.9, 5.1, 11.0),
    "LiteRT int8": (8.7, 3.4, 4.3, 12.0),
    "OpenVINO int8": (3.9, 3.5, 4.6, 10.0),
    "ONNX Runtime Web fp32": (29.3, 54.6, 52.4, None),
}
# The memory that tflite-micro planned for an int8 network, in bytes, measured with the above (the
# second to 100 kB).
ARENAS = {("mobilenet_v1", 0.25, 96): 107_312, ("mobilenet_v2", 1.0, 224): 2_600_000}
