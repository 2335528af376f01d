"""An artifact's README: how to run it, in a few lines that tests execute as printed."""

from __future__ import annotations

from mobilette.arch.features import features_layer
from mobilette.artifact.contract import Contract
from mobilette.compression.float_layers import answers_in_float
from mobilette.errors import visible
from mobilette.exporters.target import Target
from mobilette.run.promise import percent

_TEXT = """\
# {name}, {target}, {precision}

{classes} classes, {height}x{width} pixels, made by Mobilette {version}.
{code}

- `{model}`: input `{input}`, {dtype} ({shape}), {colour};
  output `{output}`, {kind} ({answers}).{probability}{features}
- `labels.txt`: the classes in the order of the logits, `id<TAB>name`.
- `contract.json`: all of this for programs, with the hashes of the files.
- `golden.npz`: inputs, and the logits that the trained network gave for them.

`mobilette verify` on this folder checks that the model still answers as the trained network did.
{notes}"""

_PYTHON = """\
The images must be prepared as below; normalisation is inside the model.

```python
from pathlib import Path
import numpy as np
from PIL import Image, ImageOps
{imports}

{image}
{code}
labels = Path("labels.txt").read_text(encoding="utf-8").split("\\n")
{answer}
```"""

_IMAGE = """\
image = ImageOps.exif_transpose(Image.open({source}))
if image.has_transparency_data:
    opaque, white = image.convert("RGB"), Image.new("RGB", image.size, "white")
    image = Image.composite(opaque, white, image.convert("RGBA").getchannel("A"))
image = image.convert("{mode}")
{geometry}
pixels = np.asarray(image).reshape({height}, {width}, {channels}).transpose(2, 0, 1)[None]"""

_ONE = """\
powers = np.exp((logits - logits.max()) / {temperature:g})
probabilities = powers / powers.sum()
best = probabilities.argmax()
answer = labels[best].split("\\t")[1]{unknown}
print(answer, f"{{probabilities[best]:.1%}}")"""
_NOT_SURE = """
if probabilities[best] < {threshold:g}:
    answer = "unknown"  # not sure enough: {part} of the answers are wrong at most"""
_UNLIKE = """
if logits.max() + np.log(np.exp(logits - logits.max()).sum()) < {threshold}:
    answer = "unknown"  # unlike the known images"""
# Of a microcontroller's answers; -1 is no answer.
_SUM_CPP = """\
  const TfLiteQuantizationParams& steps = interpreter.output(0)->params;
  const auto sum = [&](float temperature) {
    float powers = 0;
    for (int i = 0; i < kLabels; ++i) {
      powers += std::exp(steps.scale * (answers[i] - answers[best]) / temperature);
    }
    return powers;
  };
"""
_NOT_SURE_CPP = """\
  if (1 / sum({temperature}f) < {threshold}f) return -1;  // not sure enough
"""
_UNLIKE_CPP = """\
  const float largest = steps.scale * (answers[best] - steps.zero_point);
  if (largest + std::log(sum(1)) < {threshold}f) return -1;  // unlike the known images
"""
_SEVERAL = """\
probabilities = 1 / (1 + np.exp(-logits / {temperature:g}))
print([label.split("\\t")[1] for label, p in zip(labels, probabilities) if p > 0.5])"""
_SIGMOID = """
- An image may be of several classes or of none: the probability of each is the sigmoid of its
  logit, divided by the temperature {temperature:g}, for itself."""

_FEATURES = """
- A second output, `{name}`, {kind} ({shape}): what the classifier reads, the features of
  `mobilette embed`."""

_CROP = """\
width, height = image.size
scaled = ({wide}, int({wide} * height / width))
if {is_wide}:
    scaled = (int({tall} * width / height), {tall})
image = image.resize(scaled, Image.Resampling.{interpolation})
left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)
image = image.crop((left, top, left + {width}, top + {height}))"""

_SQUASH = "image = image.resize(({width}, {height}), Image.Resampling.{interpolation})"

_PAD = """\
scale = min({width} / image.width, {height} / image.height)
scaled = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
padded = Image.new(image.mode, ({width}, {height}), {fill})
left, top = ({width} - scaled[0]) // 2, ({height} - scaled[1]) // 2
padded.paste(image.resize(scaled, Image.Resampling.{interpolation}), (left, top))
image = padded"""

# Float precision of engines with a choice, as a README's code spells it.
_FLOATS = {"bf16": "bf16", "fp16": "f16"}


def readme(contract: Contract, target: Target) -> str:
    """Return the README.md of an artifact of ``target``."""
    names = {
        "model": contract.model,
        "input": contract.input.name,
        "output": contract.output,
        "precision": contract.precision,
        "height": contract.arch.size[0],
        "width": contract.arch.size[1],
        "channels": contract.arch.in_channels,
        "classes": contract.arch.num_classes,
        "temperature": contract.temperature,
        "unknown_cpp": _unknown_cpp(contract),
        "floats": _FLOATS.get(contract.precision, "f32"),
    }
    several = contract.outputs == "sigmoid"
    code = target.code.format(**names)
    if target.language == "python":
        code = _PYTHON.format(
            imports=target.imports,
            image=image_code(contract),
            code=code,
            answer=_SEVERAL.format(**names) if several else _one(contract),
        )
    count = "batch" if target.batch is None else str(target.batch)
    batch = [count] if target.batched else []
    integer = target.integer_answers and contract.precision == "int8"
    integer &= not answers_in_float(contract.arch, frozenset(contract.float_layers))
    kind = "int8" if integer else "float32"
    features = ""
    if contract.features:
        shape = ", ".join([*batch, str(features_layer(contract.arch).shape[0])])
        features = _FEATURES.format(name=contract.features, kind=kind, shape=shape)
    return _TEXT.format(
        features=features,
        code=code,
        dtype=contract.input.dtype,
        shape=", ".join([*batch, *map(str, contract.input.shape)]),
        answers=", ".join([*batch, str(contract.arch.num_classes)]),
        kind=kind,
        notes=target.notes.format(**names),
        probability=_SIGMOID.format(**names) if several else "",
        name=visible(contract.arch.name),
        target=contract.target,
        version=contract.versions["mobilette"],
        colour="grey" if contract.input.colour == "grey" else "red, green, blue",
        **names,
    )


def _one(contract: Contract) -> str:
    """Return the Python that prints the one answer that ``logits`` give, or ``unknown``."""
    promise, known, unknown = contract.promise, contract.known, ""
    if promise is not None:
        part = percent(promise.error)
        unknown += _NOT_SURE.format(threshold=promise.threshold, part=part)
    if known is not None:
        unknown += _UNLIKE.format(threshold=known.threshold)
    return _ONE.format(temperature=contract.temperature, unknown=unknown)


def _unknown_cpp(contract: Contract) -> str:
    """Return the C++ that gives no answer where there is none, after ``answers`` and ``best``."""
    promise, known, code = contract.promise, contract.known, ""
    if promise is not None:
        threshold, temperature = promise.threshold, contract.temperature
        code += _NOT_SURE_CPP.format(threshold=threshold, temperature=temperature)
    if known is not None:
        code += _UNLIKE_CPP.format(threshold=known.threshold)
    return _SUM_CPP + code if code else ""


def image_code(contract: Contract, *, source: str = '"image.jpg"') -> str:
    """Return the Python that makes ``pixels``, uint8 (1, C, H, W), from an image.

    ``source`` is an expression for the file; the code needs `Image`, `ImageOps` and `np`.
    """
    preprocess, (height, width) = contract.preprocess, contract.arch.size
    tall, wide = preprocess.covered(contract.arch.resolution)
    template = {"crop": _CROP, "squash": _SQUASH, "pad": _PAD}[preprocess.resize]
    geometry = template.format(
        height=height,
        width=width,
        tall=tall,
        wide=wide,
        is_wide="width > height" if tall == wide else f"{tall} * width > {wide} * height",
        fill=preprocess.fill(),
        interpolation=preprocess.interpolation.upper(),
    )
    return _IMAGE.format(
        source=source,
        mode="L" if contract.input.colour == "grey" else "RGB",
        geometry=geometry,
        height=height,
        width=width,
        channels=contract.arch.in_channels,
    )
