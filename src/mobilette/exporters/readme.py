"""The README of an artifact: how to run it, in a few lines that the tests execute as printed."""

from __future__ import annotations

from mobilette.artifact.contract import Contract
from mobilette.exporters.target import Target

_TEXT = """\
# {name}, {target}, {precision}

{classes} classes, {resolution}x{resolution} pixels, made by Mobilette {version}.
The pictures must be prepared as below; normalisation is inside the model.

```python
from pathlib import Path
import numpy as np
from PIL import Image, ImageOps
{imports}

image = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("{mode}")
{geometry}
pixels = np.asarray(image).reshape({resolution}, {resolution}, {channels}).transpose(2, 0, 1)[None]
{code}
labels = Path("labels.txt").read_text(encoding="utf-8").split("\\n")
{answer}
```

- `{model}`: input `{input}`, {dtype} ({shape}), {colour};
  output `{output}`, {answers} ({batch}, {classes}).{probability}
- `labels.txt`: the classes in the order of the logits, `id<TAB>name`.
- `contract.json`: all of this for programs, with the hashes of the files.
- `golden.npz`: inputs, and the logits that the trained network gave for them.

`mobilette verify` on this folder checks that the model still answers as the trained network did.
{notes}"""

_ONE = "print(labels[logits.argmax()])"
_SEVERAL = "print([label for label, logit in zip(labels, logits) if logit > 0])"
_SIGMOID = """
- A picture may be of several classes or of none: the probability of each is the sigmoid of its
  logit, 1 / (1 + exp(-logit)), for itself."""

_CROP = """\
width, height = image.size
scaled = ({short}, int({short} * height / width))
if width > height:
    scaled = (int({short} * width / height), {short})
image = image.resize(scaled, Image.Resampling.{interpolation})
left, top = round((image.width - {size}) / 2), round((image.height - {size}) / 2)
image = image.crop((left, top, left + {size}, top + {size}))"""

_SQUASH = "image = image.resize(({size}, {size}), Image.Resampling.{interpolation})"

_PAD = """\
scale = {size} / max(image.size)
scaled = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
padded = Image.new(image.mode, ({size}, {size}), {fill})
left, top = ({size} - scaled[0]) // 2, ({size} - scaled[1]) // 2
padded.paste(image.resize(scaled, Image.Resampling.{interpolation}), (left, top))
image = padded"""


def readme(contract: Contract, target: Target) -> str:
    """Return the text of the README.md of an artifact of ``target``."""
    preprocess, arch = contract.preprocess, contract.arch
    template = {"crop": _CROP, "squash": _SQUASH, "pad": _PAD}[preprocess.resize]
    geometry = template.format(
        size=arch.resolution,
        short=round(arch.resolution / preprocess.crop_fraction),
        fill=preprocess.fill(),
        interpolation=preprocess.interpolation.upper(),
    )
    names = {
        "model": contract.model,
        "input": contract.input.name,
        "output": contract.output,
        "resolution": arch.resolution,
        "channels": arch.in_channels,
        "classes": arch.num_classes,
    }
    grey = contract.input.colour == "grey"
    several = contract.outputs == "sigmoid"
    batch = "batch" if target.batch is None else str(target.batch)
    integer = target.integer_answers and contract.precision == "int8"
    return _TEXT.format(
        imports=target.imports,
        code=target.code.format(**names),
        dtype=contract.input.dtype,
        shape=", ".join([batch, *map(str, contract.input.shape)]),
        batch=batch,
        answers="int8" if integer else "float32",
        notes=target.notes.format(**names),
        answer=_SEVERAL if several else _ONE,
        probability=_SIGMOID if several else "",
        name=arch.name,
        target=contract.target,
        precision=contract.precision,
        version=contract.versions["mobilette"],
        mode="L" if grey else "RGB",
        colour="grey" if grey else "red, green, blue",
        geometry=geometry,
        **names,
    )
