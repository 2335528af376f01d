"""A run's weights under the names of torchvision, timm, Keras or Mobilette, for use without it.

Not an artifact: no engine runs it, and the module that loads it computes the answers. It is written
only where that module equals the run's network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import change_convs
from mobilette.arch.families.mobilenet_v2 import STAGES as V2_STAGES
from mobilette.arch.layers import layers
from mobilette.arch.scale import Settings
from mobilette.errors import InputError, one_of
from mobilette.files import write_bytes, write_json, write_text
from mobilette.folders import new_directory
from mobilette.formats.torch.name_tables import tensor_names
from mobilette.formats.torch.named import V3
from mobilette.formats.torch.names import TIMM, TORCHVISION
from mobilette.model.classes import classes_text
from mobilette.model.directory import ARCH
from mobilette.model.model import Model
from mobilette.run.directory import Run
from mobilette.run.subject import folder_name, resolve

STATE_DICT = "state_dict"
MODEL = "model.safetensors"
LABELS = "labels.txt"
LIBRARIES = {"torchvision": TORCHVISION, "timm": TIMM}
KERAS, KERAS_MODEL = "keras", "model.weights.h5"
NAMES = (*LIBRARIES, KERAS, "mobilette")

_TEXT = """\
# {name}, a state dict in {names}'s names

```python
{imports}
from safetensors.torch import load_file

network = {build}
{load}
network.eval()
```

`network` takes float32 (batch, {channels}, {height}, {width}) and gives logits
(batch, {classes}), {rest}"""

_INPUT = """\
in the order of the lines of `{labels}`. Its input is (pixel - mean) / std,
pixels from 0 to 255, channels {colour}:

- mean {mean}
- std {std}

Images are brought to {height}x{width} by {resize}.
"""

_LOAD = f'network.load_state_dict(load_file("{MODEL}"))'
# torchvision's MNASNet requires its own version in the state dict, which safetensors does not keep.
_LOAD_MNASNET = f"""\
tensors = network.state_dict()
tensors.update(load_file("{MODEL}"))
network.load_state_dict(tensors)"""

_OWN_IMPORTS = """\
from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.files import read_record
from mobilette.nn.network import Network"""

_COLOUR = {"rgb": "red, green, blue", "bgr": "blue, green, red", "grey": "grey"}
_RESIZE = {
    "crop": "scaling {how} ({interpolation}) and cutting out the centre",
    "squash": "scaling both sides ({interpolation})",
    "pad": "scaling them to fit ({interpolation}) and filling up with the mean colour",
}


def export_state_dict(
    model: str | Path | Run | Model,
    *,
    names: str = "torchvision",
    out: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Write weights as ``out/state_dict/model.safetensors`` and return that file.

    For Keras it is ``model.weights.h5``.

    README.md with the Python that loads it and labels.txt are written too; for our own names also
    arch.json.

    Args:
        model: a run, its directory or a model.
        names: ``torchvision``, ``timm``, ``keras`` or ``mobilette``.
        out: by default ``exports/<name of the run or network>``.
        force: replace an earlier export.

    Raises:
        InputError: unknown names, a network that the library lacks, no trained weights, Keras is
            missing, or the folder cannot be written; nothing is left behind.
    """
    one_of(names, NAMES, "names")
    found, run = resolve(model)
    base = Path(out) if out is not None else Path("exports") / folder_name(run or found)
    folder = base / STATE_DICT
    source = None if run is None else run.path
    with new_directory(folder, holds=LABELS, force=force, source=source) as temporary:
        write_text(temporary / LABELS, classes_text(found.classes))
        if names == KERAS:
            from mobilette.exporters.keras_names import write_keras_weights

            write_keras_weights(found, temporary, KERAS_MODEL)
        else:
            _write_state_dict(found, temporary, names)
    return folder / (KERAS_MODEL if names == KERAS else MODEL)


def _write_state_dict(model: Model, folder: Path, names: str) -> None:
    from safetensors.torch import save

    text = _readme(model, names)
    weights = model.network.state_dict()
    if names in LIBRARIES:
        source = LIBRARIES[names]
        theirs = tensor_names(model.arch, source)
        weights = {theirs[ours]: tensor for ours, tensor in weights.items()}
        for module in source.convolved:
            weight = weights.get(f"{module}.weight")
            if weight is not None and weight.ndim == 2:
                weights[f"{module}.weight"] = weight[:, :, None, None].contiguous()
    else:
        write_json(folder / ARCH, model.arch.to_json())
    write_bytes(folder / MODEL, save(weights, metadata={"format": "pt"}))
    write_text(folder / "README.md", text)


def _readme(model: Model, names: str) -> str:
    arch = model.arch
    if names in LIBRARIES:
        build = constructor(arch, names, width_mult=model.origin.width_mult)
    else:
        build = f'Network(read_record(Path("{ARCH}"), Arch))'
    height, width = arch.size
    return _TEXT.format(
        name=arch.name,
        names=names,
        imports=f"import {names}" if names in LIBRARIES else _OWN_IMPORTS,
        build=build,
        load=_LOAD_MNASNET if "MNASNet(" in build else _LOAD,
        channels=arch.in_channels,
        classes=arch.num_classes,
        height=height,
        width=width,
        rest=input_text(model),
    )


def input_text(model: Model) -> str:
    """Return what a README says of classes and input, from the middle of a sentence."""
    arch, preprocess = model.arch, model.preprocess
    height, width = arch.size
    tall, wide = preprocess.covered(arch.resolution)
    return _INPUT.format(
        labels=LABELS,
        height=height,
        width=width,
        colour=_COLOUR[preprocess.colour],
        mean=", ".join(f"{value:g}" for value in preprocess.mean),
        std=", ".join(f"{value:g}" for value in preprocess.std),
        resize=_RESIZE[preprocess.resize].format(
            how=f"the shorter side to {tall}" if tall == wide else f"to cover {tall}x{wide}",
            interpolation=preprocess.interpolation,
        ),
    )


# Networks whose constructors in timm have no options for batch norm and padding
_PLAIN = ("resnet", "ghostnet", "repvgg", "mobileone")
# and those that timm calls as we do
_SAME_NAME = ("resnet", "efficientnet_lite", "mnasnet_small", "repvgg", "mobileone")
# timm's constructor to our network and its width
TIMM_NETWORKS = MappingProxyType(
    {
        **{f"mobilenetv1_{w}": ("mobilenet_v1", w / 100) for w in (100, 125)},
        **{f"mobilenetv2_{w:03}": ("mobilenet_v2", w / 100) for w in (35, 50, 75, 100, 140)},
        **{name.replace("_v2", "v2"): (name, 1.0) for name in V2_STAGES if name.endswith("d")},
        **{f"mobilenetv3_large_{w:03}": ("mobilenet_v3_large", w / 100) for w in (75, 100)},
        **{f"mobilenetv3_small_{w:03}": ("mobilenet_v3_small", w / 100) for w in (50, 75, 100)},
        "tf_mobilenetv3_large_minimal_100": ("mobilenet_v3_large_minimalistic", 1.0),
        "tf_mobilenetv3_small_minimal_100": ("mobilenet_v3_small_minimalistic", 1.0),
        "mobilenetv4_conv_small_035": ("mobilenet_v4_conv_small", 0.35),
        "mobilenetv4_conv_small_050": ("mobilenet_v4_conv_small", 0.5),
        **{name.replace("_v4", "v4"): (name, 1.0) for name in TIMM.tables if "_v4" in name},
        **{f"mnasnet_{w:03}": ("mnasnet_b1", w / 100) for w in (50, 75, 100, 140)},
        **{f"semnasnet_{w:03}": ("mnasnet_a1", w / 100) for w in (50, 75, 100, 140)},
        "fbnetc_100": ("fbnet_c", 1.0),
        "spnasnet_100": ("single_path_nas", 1.0),
        **{f"lcnet_{w:03}": ("pp_lcnet", w / 100) for w in (35, 50, 75, 100, 150)},
        **{f"ghostnet_{w:03}": ("ghostnet", w / 100) for w in (50, 100, 130)},
        **{name: (name, 1.0) for name in TIMM.tables if name.startswith(_SAME_NAME)},
    }
)


Constructor = tuple[str, Arch]
"""A line of Python and the network that it builds."""


def constructor(arch: Arch, library: str, *, width_mult: float | None = None) -> str:
    """Return the expression that builds a network with the answers of ``arch``.

    ``width_mult`` is torchvision's width multiplier, 1.0 by default; timm's names include theirs.

    Raises:
        InputError: the library is unknown, or builds no such network; the message says how it
            differs.
    """
    source = LIBRARIES[one_of(library, LIBRARIES, "library")]
    if arch.name not in source.tables:
        known = ", ".join(source.tables)
        others = [x.name for x in LIBRARIES.values() if x is not source and arch.name in x.tables]
        also = f"; {others[0]} has it" if others else ""
        raise InputError(f"{library} has no {arch.name}; it has {known}{also}")
    nearest: list[str] = []
    torchvision = source is TORCHVISION
    for code, made in _torchvision(arch, width_mult or 1.0) if torchvision else _timm(arch):
        # Momentum and dropout matter in training only.
        head = replace(made.head, dropout=arch.head.dropout)
        if replace(made, norm_momentum=arch.norm_momentum, head=head) == arch:
            return code
        found = differences(arch, made)
        if not nearest or len(found) < len(nearest):
            nearest = found
    what = f"; {nearest[0]}" if nearest else ""
    raise InputError(
        f"{library} cannot build this {arch.name}{what}; --names mobilette keeps it as it is"
    )


def _torchvision(arch: Arch, width: float) -> Iterator[Constructor]:
    settings = Settings(num_classes=arch.num_classes, resolution=arch.resolution, form="full")
    classes = f"num_classes={arch.num_classes}"
    if arch.name == "shufflenet_v2":
        for suffix in ("x0_5", "x1_0", "x1_5", "x2_0"):
            name = f"shufflenet_v2_{suffix}"
            code = f"torchvision.models.{name}({classes})"
            yield code, get_arch(name, settings)
        return
    has_width = arch.name.startswith(("mobilenet", "mnasnet"))
    scaled = replace(settings, width_mult=width if has_width else 1.0)
    in_v3 = arch.name in V3
    made = V3[arch.name](scaled, torchvision=True) if in_v3 else get_arch(arch.name, scaled)
    if arch.name == "mnasnet_b1":
        yield f"torchvision.models.MNASNet({scaled.width_mult:g}, {classes})", made
        return
    option = "" if scaled.width_mult == 1 else f", width_mult={scaled.width_mult:g}"
    yield f"torchvision.models.{arch.name}({classes}{option})", made


def _timm(arch: Arch) -> Iterator[Constructor]:
    for name, (ours, width) in TIMM_NETWORKS.items():
        if ours != arch.name:
            continue
        settings = Settings(
            width_mult=width,
            num_classes=arch.num_classes,
            in_channels=arch.in_channels,
            resolution=arch.resolution,
            form="full",
        )
        has_full_stem = ours in V3 and width < 0.75
        made = V3[ours](settings, full_stem=True) if has_full_stem else get_arch(ours, settings)
        options = f"num_classes={arch.num_classes}"
        if arch.in_channels != 3:
            options += f", in_chans={arch.in_channels}"
        if ours.startswith(_PLAIN):
            yield f'timm.create_model("{name}", {options})', made
            continue
        # timm's default batch norm epsilon and padding
        epsilon, usual = (1e-3, "same") if name.startswith("tf_") else (1e-5, "")
        if arch.norm_epsilon != epsilon:
            options += f", bn_eps={arch.norm_epsilon:g}"
        made = replace(made, norm_epsilon=arch.norm_epsilon)
        same = change_convs(made, lambda name, conv: replace(conv, padding="tf_same"))
        for padding, padded in (("", made), ("same", same)):
            option = "" if padding == usual else f', pad_type="{padding}"'
            yield f'timm.create_model("{name}", {options}{option})', padded


def differences(ours: Arch, theirs: Arch) -> list[str]:
    """Return how another library's network differs from ours, what is seen first at the front."""
    found = []
    if ours.in_channels != theirs.in_channels:
        found.append(f"it has {ours.in_channels} input channels, not {theirs.in_channels}")
    pairs = {layer.name: layer for layer in layers(theirs)}
    for layer in layers(ours):
        other = pairs.pop(layer.name, None)
        if type(other) is not type(layer):
            found.append(f"{layer.name} is a different kind of layer there, or missing")
            continue
        for field in fields(layer):
            mine, its = getattr(layer, field.name), getattr(other, field.name)
            if field.name not in ("shape", "inputs") and mine != its:
                found.append(f"{layer.name} has {field.name} {mine}, not {its}")
        if layer.shape[0] != other.shape[0]:
            found.append(f"{layer.name} has {layer.shape[0]} channels, not {other.shape[0]}")
    found += [f"{name} is missing" for name in pairs]
    if ours.norm_epsilon != theirs.norm_epsilon:
        found.append(f"batch norm epsilon is {ours.norm_epsilon:g}, not {theirs.norm_epsilon:g}")
    return found or ["the head differs"]
