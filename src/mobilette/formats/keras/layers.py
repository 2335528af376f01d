"""Reads the layers of a Keras topology and their inputs from three generations of JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mobilette.arch.primitives import INPUT
from mobilette.errors import InputError

MANY = 10_000
DEEPEST = 4
LARGEST_SIDE = 65_536
MODELS = ("Functional", "Model", "Sequential", "Pipeline")
# Tensor operations that Keras 2 records as layers
OPERATIONS = {
    "__operators__.add": "Add",
    "math.add": "Add",
    "AddV2": "Add",
    "math.multiply": "Multiply",
    "Mul": "Multiply",
    "math.subtract": "Subtract",
    "Sub": "Subtract",
    "math.truediv": "TrueDivide",
    "math.divide": "TrueDivide",
    "RealDiv": "TrueDivide",
    "cast": "Cast",
    "nn.softmax": "Softmax",
    "nn.sigmoid": "Sigmoid",
    "math.sigmoid": "Sigmoid",
}


@dataclass(frozen=True, kw_only=True)
class KerasLayer:
    """A layer's class, inputs and configuration.

    Attributes:
        name: unique; for a layer of a nested model prefixed with the model's name if necessary.
        keys: possible names of its weights in the file, most likely first (`LayerWeights`).
        numbers: constants among its inputs.
        reverse: whether the first input is a constant, as in 1 - x.
    """

    name: str
    kind: str
    keys: tuple[str, ...]
    inputs: tuple[str, ...]
    numbers: tuple[float, ...]
    reverse: bool
    config: Mapping[str, Any]

    def option(self, name: str, default: Any = None) -> Any:
        """Return a value of the configuration."""
        return self.config.get(name, default)

    def fault(self, said: str) -> InputError:
        """Return the error that says ``said`` of the layer."""
        return InputError(f"layer {self.name!r} {said}")

    def pair(self, name: str, default: int) -> tuple[Any, Any]:
        """Return an option given as one number for both directions or as two."""
        value = self.config.get(name, default)
        first, second = value if isinstance(value, list | tuple) else (value, value)
        return first, second

    def size(self, name: str, default: int = 0) -> int:
        """Return an option in pixels, which must be equal in both directions and at least 1."""
        first, second = self.pair(name, default)
        if type(first) is not int or first != second or first < 1:
            raise self.fault(f"has {name} {first!r} and {second!r:.40}")
        return first


def read_layers(topology: Any) -> tuple[dict[str, KerasLayer], tuple[int, int, int], str]:
    """Return the layers by name, the input's (channels, height, width) and the output's name.

    A size that the model leaves open is 0. Nested models are replaced by their layers.
    """
    reading = _Reading()
    output = reading.model(topology, INPUT, _Place())
    if not reading.shapes:
        raise InputError("the model does not state the shape of its input")
    return reading.layers, reading.shapes[0], output


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A nested model's path in Keras 3's layout, and the outermost nested model around it."""

    path: str = ""
    name: str = ""
    group: str = ""
    depth: int = 0

    def inside(self, name: str, path: str) -> _Place:
        """Return the place of the model ``name`` nested in this one."""
        return _Place(path=path, name=name, group=self.group or name, depth=self.depth + 1)


class _Reading:
    def __init__(self) -> None:
        self.layers: dict[str, KerasLayer] = {}
        self.shapes: list[tuple[int, int, int]] = []

    def model(self, topology: Any, source: str, place: _Place) -> str:
        """Add the layers of a model that reads ``source``; return its output layer."""
        config = topology["config"]
        if isinstance(config, Mapping) and "layers" not in config:
            raise InputError(
                f"the model is a {str(topology['class_name'])!r:.80}, a custom class; only "
                "functional and Sequential models are supported"
            )
        entries = config if isinstance(config, list) else config["layers"]
        if len(entries) + len(self.layers) > MANY or place.depth > DEEPEST:
            raise InputError(f"more than {MANY:,} layers, or models nested too deeply")
        if sum(entry["class_name"] == "InputLayer" for entry in entries) > 1:
            raise InputError("the model has several inputs; a classifier has one")
        outputs: dict[str, str] = {}  # layer name to the layer that computes its output
        used: Counter[str] = Counter()
        last = source
        for entry in entries:
            kind, name = str(entry["class_name"]), str(entry["config"]["name"])
            if name in outputs:
                raise InputError(f"two layers are called {name!r}")
            call = _call(name, entry.get("inbound_nodes"), last)
            inputs = tuple(outputs.get(read, read) for read in call.inputs)
            path = f"{place.path}layers/{_path_name(entry, used)}"
            _note_shape(entry["config"], self.shapes)
            if kind in MODELS:
                if len(inputs) != 1:
                    raise InputError(f"model {name!r} has {len(inputs)} inputs; one is expected")
                last = self.model(entry, inputs[0], place.inside(name, f"{path}/"))
            elif kind == "InputLayer":
                last = source
            else:
                last = name if name not in self.layers else f"{place.name}/{name}"
                if last in self.layers:
                    raise InputError(f"two layers are called {last!r}")
                kind, numbers = _operation(kind, entry["config"], call.numbers)
                self.layers[last] = KerasLayer(
                    name=last,
                    kind=kind,
                    keys=tuple(filter(None, (path, f"{place.group}/{name}", place.group, name))),
                    inputs=inputs,
                    numbers=numbers,
                    reverse=call.reverse,
                    config=entry["config"],
                )
            outputs[name] = last
        if isinstance(config, list) or "output_layers" not in config:
            return last
        return outputs[_only_output(config["output_layers"])]


def _only_output(ends: Any) -> str:
    ends = list(ends.values()) if isinstance(ends, Mapping) else ends
    ends = ends if isinstance(ends[0], list) else [ends]
    if len(ends) != 1:
        raise InputError(f"the model has {len(ends)} outputs; a classifier has one")
    return str(ends[0][0])


def _path_name(entry: Any, used: Counter[str]) -> str:
    """Return Keras 3's name of the layer in a weight file: its class, numbered."""
    if ".ops." in str(entry.get("module")):
        return ""  # operations are not numbered
    words = re.sub(r"\W+", "", str(entry["class_name"]))
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", words)
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
    used[words] += 1
    return words if used[words] == 1 else f"{words}_{used[words] - 1}"


def _operation(
    kind: str, config: Mapping[str, Any], numbers: tuple[float, ...]
) -> tuple[str, tuple[float, ...]]:
    """Return an operation by its Keras 3 name, and its constants."""
    if kind == "TFOpLambda":
        function = str(config["function"]).removeprefix("tf.")
        return OPERATIONS.get(function, function), numbers
    if kind == "TensorFlowOpLayer":  # TensorFlow 2.0 to 2.3
        function = str(config["node_def"]["op"])
        return OPERATIONS.get(function, function), tuple(_values(config.get("constants")))
    return kind, numbers


def _note_shape(config: Mapping[str, Any], shapes: list[tuple[int, int, int]]) -> None:
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    if shape is not None and len(shape) == 4:
        _, height, width, channels = (int(size or 0) for size in shape)
        if max(height, width, channels) > LARGEST_SIDE:
            raise InputError(f"its input is of {width}x{height} pixels and {channels} channels")
        shapes.append((channels, height, width))


@dataclass(frozen=True, kw_only=True)
class _Call:
    inputs: tuple[str, ...]
    numbers: tuple[float, ...] = ()
    reverse: bool = False


def _call(name: str, calls: Any, last: str) -> _Call:
    """Return the inputs and constants that a layer is called with; by default ``last``."""
    if not calls:
        return _Call(inputs=(last,))
    call = calls[0]
    if len(calls) > 1:
        raise InputError(
            f"layer {name!r} is used {len(calls)} times; shared weights are not supported"
        )
    if isinstance(call, Mapping):  # Keras 3
        values = list(_values([call["args"], call.get("kwargs", {})]))
        inputs = [
            str(value["config"]["keras_history"][0])
            for value in values
            if isinstance(value, Mapping)
        ]
        numbers = [value for value in values if not isinstance(value, Mapping)]
        reverse = bool(values) and not isinstance(values[0], Mapping)
    else:
        call = [call] if isinstance(call[0], str) else call
        inputs = [str(source) for source, *_ in call]
        keywords = [keyword for _, _, _, *given in call for keyword in given]
        numbers = [number for number in _values(keywords) if not isinstance(number, Mapping)]
        reverse = False
        # Keras 3 records it too, but ignores it in predict.
        if any(keyword.get("training") is True for keyword in keywords):
            raise InputError(
                f"layer {name!r} is called with training=True and would behave as in training"
            )
    return _Call(inputs=tuple(inputs), numbers=tuple(numbers), reverse=reverse)


def _values(value: Any) -> Iterator[Any]:
    """Yield the tensors (as JSON) and numbers among the arguments of a call."""
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        yield value
    elif isinstance(value, Mapping):
        yield from _values(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
