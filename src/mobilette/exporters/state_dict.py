"""A run's weights under the names of torchvision, timm or Mobilette, to be used without Mobilette.

Not an artifact: no engine runs it, and its answers are those of the module that loads it. So it is
written only where that module computes what the run's network computes.
"""

from __future__ import annotations

from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.data.preprocess import Preprocess
from mobilette.errors import one_of
from mobilette.exporters.constructors import LIBRARIES, constructor
from mobilette.files import write_bytes, write_json, write_text
from mobilette.folders import new_directory
from mobilette.formats.torch.name_tables import tensor_names
from mobilette.model.classes import classes_text
from mobilette.model.directory import ARCH
from mobilette.run.directory import Run, open_run

STATE_DICT = "state_dict"
MODEL = "model.safetensors"
LABELS = "labels.txt"
NAMES = (*LIBRARIES, "mobilette")

_TEXT = """\
# {name}, a state dict in {names}'s names

```python
{imports}
from safetensors.torch import load_file

network = {build}
network.load_state_dict(load_file("{model}"))
network.eval()
```

`network` takes float32 (batch, {channels}, {resolution}, {resolution}) and gives logits
(batch, {classes}), in the order of the lines of `{labels}`. Its input is (pixel - mean) / std,
pixels from 0 to 255, channels {colour}:

- mean {mean}
- std {std}

Images are brought to {resolution}x{resolution} by {resize}.
"""

_OWN_IMPORTS = """\
from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.files import read_record
from mobilette.nn.network import Network"""

_COLOUR = {"rgb": "red, green, blue", "bgr": "blue, green, red", "grey": "grey"}
_RESIZE = {
    "crop": "scaling the shorter side to {short} ({interpolation}) and cutting out the centre",
    "squash": "scaling both sides ({interpolation})",
    "pad": "scaling the longer side ({interpolation}) and filling up with the mean colour",
}


def export_state_dict(
    run: str | Path | Run,
    *,
    names: str = "torchvision",
    out: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Write the weights of a run as ``out/state_dict/model.safetensors`` and return that file.

    Beside it lie README.md with the Python that loads it, labels.txt, and for our own names
    arch.json.

    Args:
        run: a run or its directory.
        names: ``torchvision``, ``timm`` or ``mobilette``.
        out: by default ``exports/<name of the run>``.
        force: replace what was written there before.

    Raises:
        InputError: no such names, no such network there, no trained weights, or the folder cannot
            be written; nothing is left behind then.
    """
    one_of(names, NAMES, "names")
    run = run if isinstance(run, Run) else open_run(run)
    base = Path(out) if out is not None else Path("exports") / run.path.resolve().name
    folder = base / STATE_DICT
    with new_directory(folder, holds=MODEL, force=force, source=run.path) as temporary:
        write_state_dict(run, temporary, names=names)
    return folder / MODEL


def write_state_dict(run: Run, folder: Path, *, names: str) -> None:
    """Write the files of `export_state_dict` into the existing ``folder``."""
    from safetensors.torch import save

    text = _readme(run.arch, run.preprocess, names)
    weights = run.network.state_dict()
    if names in LIBRARIES:
        source = LIBRARIES[names]
        theirs = tensor_names(run.arch, source)
        weights = {theirs[ours]: tensor for ours, tensor in weights.items()}
        for module in source.convolved:
            weight = weights.get(f"{module}.weight")
            if weight is not None and weight.ndim == 2:
                weights[f"{module}.weight"] = weight[:, :, None, None].contiguous()
    else:
        write_json(folder / ARCH, run.arch.to_json())
    write_bytes(folder / MODEL, save(weights, metadata={"format": "pt"}))
    write_text(folder / LABELS, classes_text(run.classes))
    write_text(folder / "README.md", text)


def _readme(arch: Arch, preprocess: Preprocess, names: str) -> str:
    own = names not in LIBRARIES
    short = round(arch.resolution / preprocess.crop_fraction)
    return _TEXT.format(
        name=arch.name,
        names=names,
        imports=_OWN_IMPORTS if own else f"import {names}",
        build=f'Network(read_record(Path("{ARCH}"), Arch))' if own else constructor(arch, names),
        model=MODEL,
        labels=LABELS,
        channels=arch.in_channels,
        classes=arch.num_classes,
        resolution=arch.resolution,
        colour=_COLOUR[preprocess.colour],
        mean=", ".join(f"{value:g}" for value in preprocess.mean),
        std=", ".join(f"{value:g}" for value in preprocess.std),
        resize=_RESIZE[preprocess.resize].format(
            short=short, interpolation=preprocess.interpolation
        ),
    )
