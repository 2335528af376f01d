"""The layers of a Keras topology and what they read: three generations of JSON made alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mobilette.errors import InputError

INPUT = "input"
MANY = 10_000
DEEPEST = 4
# Operations on tensors that Keras 2 records as layers
OPERATIONS = {"__operators__.add": "Add", "math.add": "Add", "math.multiply": "Multiply"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: what it is, what it reads, how it is configured.

    Attributes:
        numbers: constants among its inputs.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    numbers: tuple[float, ...]
    config: Mapping[str, Any]

    def option(self, name: str, default: Any = None) -> Any:
        """Return an option of the layer."""
        return self.config.get(name, default)

    def pair(self, name: str, default: int) -> tuple[Any, Any]:
        """Return an option that is one number for both directions, or two."""
        value = self.config.get(name, default)
        first, second = value if isinstance(value, list | tuple) else (value, value)
        return first, second

    def size(self, name: str, default: int = 0) -> int:
        """Return an option that is one number of pixels, at least 1, in both directions.

        Raises:
            InputError: it is none, or differs between the directions.
        """
        first, second = self.pair(name, default)
        if type(first) is not int or first != second or first < 1:
            raise InputError(f"layer {self.name!r} has {name} {first!r} and {second!r:.40}")
        return first


def read_layers(topology: Any) -> tuple[dict[str, Layer], tuple[int, int, int], str]:
    """Return the layers by name, the input's (channels, height, width), the output layer's name.

    A size that the model leaves open is 0. Models within the model are replaced by their layers.

    Raises:
        InputError: several inputs or outputs, a layer that is used twice, too many layers.
    """
    layers: dict[str, Layer] = {}
    shapes: list[tuple[int, int, int]] = []
    output = _read_model(topology, INPUT, layers, shapes, 0)
    if not shapes:
        raise InputError("the model does not tell the shape of its input")
    return layers, shapes[0], output


def _read_model(
    topology: Any,
    source: str,
    layers: dict[str, Layer],
    shapes: list[tuple[int, int, int]],
    depth: int,
) -> str:
    """Add the layers of a model that reads ``source``; return its output layer."""
    config = topology["config"]
    entries = config if isinstance(config, list) else config["layers"]
    if len(entries) + len(layers) > MANY or depth > DEEPEST:
        raise InputError(f"more than {MANY:,} layers, or models in models in models")
    if sum(entry["class_name"] == "InputLayer" for entry in entries) > 1:
        raise InputError("the model has several inputs; a classifier has one")
    outputs: dict[str, str] = {}  # of each layer, the one that gives its output
    last = source
    for entry in entries:
        kind, name = str(entry["class_name"]), str(entry["config"]["name"])
        if name in outputs or (name in layers and kind not in ("InputLayer", "Functional")):
            raise InputError(f"two layers are called {name!r}")
        calls = entry.get("inbound_nodes")
        reads, numbers = _reads(name, calls) if calls else ((last,) if last else (), ())
        inputs = tuple(outputs.get(read, read) if calls else read for read in reads)
        _note_shape(entry["config"], shapes)
        if kind in ("Functional", "Model", "Sequential"):
            if len(inputs) != 1:
                raise InputError(f"model {name!r} has {len(inputs)} inputs; one is expected")
            last = _read_model(entry, inputs[0], layers, shapes, depth + 1)
        elif kind == "InputLayer":
            last = source
        else:
            if kind == "TFOpLambda":
                function = str(entry["config"]["function"])
                kind = OPERATIONS.get(function.removeprefix("tf."), function)
            layers[name] = Layer(
                name=name, kind=kind, inputs=inputs, numbers=numbers, config=entry["config"]
            )
            last = name
        outputs[name] = last
    if isinstance(config, list) or "output_layers" not in config:
        return last
    ends = config["output_layers"]
    ends = ends if isinstance(ends[0], list) else [ends]
    if len(ends) != 1:
        raise InputError(f"the model has {len(ends)} outputs; a classifier has one")
    return outputs[str(ends[0][0])]


def _note_shape(config: Mapping[str, Any], shapes: list[tuple[int, int, int]]) -> None:
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    if shape is not None:
        _, height, width, channels = (int(size or 0) for size in shape)
        shapes.append((channels, height, width))


def _reads(name: str, calls: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the layers and the constants that a layer is called with."""
    call = calls[0]
    if len(calls) > 1:
        raise InputError(f"layer {name!r} is used {len(calls)} times; weights are not shared here")
    inputs: list[str] = []
    numbers: list[float] = []
    if isinstance(call, Mapping):  # Keras 3
        for value in _values([call["args"], call.get("kwargs", {})]):
            if isinstance(value, Mapping):
                inputs.append(str(value["config"]["keras_history"][0]))
            else:
                numbers.append(value)
        return tuple(inputs), tuple(numbers)
    call = [call] if isinstance(call[0], str) else call
    for source, _, _, *keywords in call:
        inputs.append(str(source))
        numbers += [number for number in _values(keywords) if not isinstance(number, Mapping)]
    return tuple(inputs), tuple(numbers)


def _values(value: Any) -> Iterator[Any]:
    """Yield the tensors (as their JSON) and the numbers in the arguments of a call."""
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        yield value
    elif isinstance(value, Mapping):
        yield from _values(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
