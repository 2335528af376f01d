"""The nodes of an ONNX graph and their checked attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx.helper import get_attribute_value

from mobilette.errors import InputError

GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_LARGEST = 2**31


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """A node; methods raise `InputError` for an attribute of another kind than asked for.

    Attributes:
        op: the operator, of ONNX's own domain.
        inputs: names of tensors, "" where one is left out.
        proto: as stored.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: onnx.NodeProto
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"node {self.name!r:.80} ({self.op:.40})"

    def inputs_of(self, least: int, most: int) -> tuple[str, ...]:
        """Return the ``least`` to ``most`` inputs, "" for those left out."""
        if not least <= len(self.inputs) <= most or not all(self.inputs[:least]):
            raise InputError(f"it has {len(self.inputs)} inputs, not {least} to {most}")
        return self.inputs + ("",) * (most - len(self.inputs))

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self.attributes.get(name, default)
        if type(value) is not int:
            raise InputError(f"its {name} is no integer")
        return value

    def integers(self, name: str, default: list[int]) -> list[int]:
        """Return an attribute of integers, each below 2**31."""
        value = self.attributes.get(name, default)
        if not isinstance(value, list) or not all(
            type(number) is int and abs(number) < _LARGEST for number in value
        ):
            raise InputError(f"its {name} are no integers below 2**31")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a float attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, float | int):
            raise InputError(f"its {name} is no number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        value = self.attributes.get(name, default.encode())
        if not isinstance(value, bytes):
            raise InputError(f"its {name} is no text")
        return value.decode(errors="replace")

    def pair(self, name: str, default: int) -> int:
        """Return an attribute of two equal integers, for height and width."""
        numbers = self.integers(name, [default, default])
        if len(numbers) != 2 or numbers[0] != numbers[1] or numbers[0] < 1:
            raise InputError(f"its {name} are {numbers}; two equal numbers ≥ 1 are supported")
        return numbers[0]


def read_nodes(graph: onnx.GraphProto) -> list[Node]:
    """Return the nodes of a graph in order.

    Raises:
        InputError: a node is of another domain than ONNX's own or has a subgraph.
    """
    return [_read(proto) for proto in graph.node]


def _read(proto: onnx.NodeProto) -> Node:
    name = proto.name or next(iter(proto.output), "")
    node = Node(
        op=proto.op_type,
        name=name,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        proto=proto,
    )
    if proto.domain not in ("", "ai.onnx"):
        raise InputError(f"{node} is of the domain {proto.domain!r:.60}; only ONNX's own is read")
    for attribute in proto.attribute:
        if attribute.type in GRAPHS or attribute.ref_attr_name:
            raise InputError(f"{node} holds a graph of its own, which is not supported")
        try:
            node.attributes[attribute.name] = get_attribute_value(attribute)
        except ValueError as error:
            raise InputError(f"{node}: its attribute {attribute.name!r:.40} is damaged") from error
    return node
