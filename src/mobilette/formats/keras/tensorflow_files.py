"""Recognises TensorFlow's own files, none of which is read, and says how to convert them."""

from __future__ import annotations

import re
from pathlib import Path

from mobilette.errors import InputError
from mobilette.files import read_head

# Footer of LevelDB's tables, the format of a checkpoint's index
TABLE = bytes.fromhex("57fb808b247547db")
SAVED_MODEL = "saved_model.pb"
SAVE = "model.save('model.keras')"


def check_not_tensorflow(path: Path) -> None:
    """Raise `InputError` for a SavedModel, checkpoint or graph of TensorFlow.

    The message has the line that converts it in TensorFlow.
    """
    if path.is_dir():
        _check_folder(path)
    elif _is_of_checkpoint(path):
        raise InputError(_checkpoint(path))
    elif path.suffix == ".pb":
        raise InputError(
            f"{path}: a graph of TensorFlow; convert it with tf.lite.TFLiteConverter, and give the "
            ".tflite file"
        )


def _check_folder(path: Path) -> None:
    if (path / SAVED_MODEL).is_file():
        load = f"tf.keras.models.load_model({str(path)!r}).save('model.keras')"
        raise InputError(
            f"{path}: a SavedModel of TensorFlow, which names code; in the TensorFlow that wrote "
            f"it, {load} makes a file that is read"
        )
    if any(path.glob("*.index")):
        raise InputError(_checkpoint(path))


def _checkpoint(path: Path) -> str:
    return (
        f"{path}: a checkpoint of TensorFlow: variables without the network; build the model, "
        f"model.load_weights(...) and {SAVE} make a file that is read"
    )


def _is_of_checkpoint(path: Path) -> bool:
    if path.name == "checkpoint":
        return b"checkpoint_path" in read_head(path, 100)
    return bool(re.search(r"\.data-\d{5}-of-\d{5}$", path.name)) or _ends_as_table(path)


def _ends_as_table(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(TABLE)))
        return file.read() == TABLE
