"""An ONNX file is to be whole: tensors whose values lie in other files are refused.

ONNX lets a tensor name a file, and engines read it from the folder that they are started in.
Tensors stand in many places of a model: initialisers, sparse ones, attributes, graphs in
attributes, functions, training graphs. So every message is looked into, whatever it is.
"""

from __future__ import annotations

from typing import Any

from mobilette.errors import InputError


def check_whole(model: bytes, *, where: str) -> None:
    """Raise `InputError` unless ``model`` is an ONNX file all of whose values are inside.

    Args:
        model: the file's content.
        where: the file, for messages.
    """
    import onnx
    from google.protobuf.message import DecodeError, Message

    try:
        parsed = onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise InputError(f"{where}: not a complete ONNX file") from error
    waiting: list[Any] = [parsed]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto) and (
            message.external_data or message.data_location == onnx.TensorProto.EXTERNAL
        ):
            places = {entry.key: entry.value for entry in message.external_data}
            raise InputError(
                f"{where}: the values of {message.name!r:.60} lie in another file, "
                f"{places.get('location', '')!r:.60}; an artifact's model holds all of its values"
            )
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)
