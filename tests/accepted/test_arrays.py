from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given as sampled
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import mobilette
from mobilette.data.sources import list_images
from mobilette.engines.images import several
from mobilette.engines.predictor import BATCH, Prediction
from mobilette.errors import InputError
from mobilette.verification.evaluate import evaluate
from tests.accepted.asking import COLOURS, ColourPredictor
from tests.accepted.page import Case, check, rows

IMAGE = np.empty((20, 24, 3), np.uint8)
IMAGE[:] = COLOURS["red"]
BLUE = np.empty((20, 24, 3), np.uint8)
BLUE[:] = COLOURS["blue"]
NOISE = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
CHW = np.ascontiguousarray(IMAGE.transpose(2, 0, 1))


def ask(*images: Any) -> list[str]:
    return ColourPredictor().labels(list(images))


def is_red(*images: Any) -> None:
    assert ask(*images) == ["red"] * len(images)


def level(image: Any) -> float:
    """Return the mean level that the network sees of an image."""
    predictor = ColourPredictor()
    predictor.labels([image])
    return float(predictor.seen[0].mean())


def given(image: Any) -> Case:
    return lambda folder: is_red(image)


def alone(image: Any) -> Case:
    def case(folder: Path) -> None:
        ColourPredictor().labels(image)

    return case


def each(*images: Any) -> Case:
    """A refused row that holds for several: each but the last is tried here."""

    def case(folder: Path) -> None:
        messages = []
        for image in images:
            with pytest.raises(InputError) as caught:
                ask(image)
            messages.append(str(caught.value))
        raise InputError(min(messages, key=len))

    return case


def png(array: NDArray[np.uint8] = IMAGE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def paths(folder: Path) -> None:
    files = [folder / "a.png", folder / "b.png"]
    for file, array in zip(files, (IMAGE, BLUE), strict=True):
        file.write_bytes(png(array))
    names = [str(file) for file in files]
    predictor = ColourPredictor()
    several: list[Any] = [files, names, tuple(files), (file for file in files), pd.Series(names)]
    several += [np.array(names), np.array(files, dtype=object), pd.Series(files), map(Path, names)]
    for images in several:
        assert predictor.labels(images) == ["red", "blue"]


def nothing(folder: Path) -> None:
    shapes = ((0,), (0, 20, 24, 3), (0, 3, 20, 24), (0, 20, 24))
    several: list[Any] = [[], (), iter(())]
    for images in several + [np.empty(shape, np.uint8) for shape in shapes]:
        assert ColourPredictor().labels(images) == []


def one_alone(folder: Path) -> None:
    file = folder / "a.png"
    file.write_bytes(png())
    ones: list[Any] = [file, str(file), IMAGE, IMAGE[..., 0], Image.fromarray(IMAGE), png()]
    ones += [bytearray(png()), memoryview(png()), io.BytesIO(png()), IMAGE[..., :1], CHW]
    ones += [torch.from_numpy(IMAGE), torch.from_numpy(CHW), IMAGE / 255, file.open("rb")]
    for image in ones:
        with pytest.raises(InputError, match=r"give \[image\]"):
            ColourPredictor().labels(image)
    ones[-1].close()
    raise InputError("give [image]")


def pillow(folder: Path) -> None:
    image = Image.fromarray(IMAGE)
    transparent = image.convert("RGBA")
    transparent.putalpha(0)
    for mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"):
        is_red(image.convert(mode))
    for mode in ("L", "LA", "1", "I", "I;16"):
        level(image.convert("L").convert(mode))
    assert level(transparent) == 255
    assert level(Image.fromarray(np.full((9, 9), 257 * 99, np.uint16))) == 99


def closed_image(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    (folder / "cut.png").write_bytes(png(NOISE)[:9000])
    with Image.open(folder / "cut.png") as cut, pytest.raises(InputError, match="truncated"):
        ask(cut)
    with Image.open(folder / "a.png") as image:
        pass
    ask(image)


def shapes(folder: Path) -> None:
    grey = np.full((20, 24), 77, np.uint8)
    assert level(grey) == level(grey[..., None]) == 77
    is_red(IMAGE, np.dstack([IMAGE, np.full((20, 24), 255, np.uint8)]))
    assert level(np.dstack([IMAGE, np.zeros((20, 24), np.uint8)])) == 255


def channels_first(folder: Path) -> None:
    with_alpha = np.concatenate([CHW, np.full((1, 20, 24), 255, np.uint8)])
    is_red(CHW, CHW[None], IMAGE[None], with_alpha)
    assert level(np.full((1, 20, 24), 77, np.uint8)) == 77


def tensors(folder: Path) -> None:
    first, last = torch.from_numpy(CHW), torch.from_numpy(IMAGE)
    learning = (first / 255).requires_grad_()
    is_red(first, last, first[None], learning, learning.bfloat16(), learning.half(), first.long())
    if torch.cuda.is_available():
        is_red(first.cuda())


def test_a_network_of_grey_images_takes_colour_too() -> None:
    """Where others fail in a convolution: github.com/ultralytics/ultralytics/issues/25150."""
    predictor = ColourPredictor(in_channels=1)
    with_alpha = np.dstack([IMAGE, np.full((20, 24), 255, np.uint8)])
    grey = np.asarray(Image.fromarray(IMAGE).convert("L"))
    assert len(predictor.labels([IMAGE, with_alpha, grey, grey[..., None], CHW])) == 5
    assert {int(pixels.max()) for pixels in predictor.seen} == {int(grey[0, 0])}


def test_the_images_of_a_batch_are_made_as_they_are_needed() -> None:
    batch = np.broadcast_to(IMAGE, (1000, *IMAGE.shape))
    predictor = ColourPredictor()
    answers = predictor.predict_each(batch, workers=0)
    assert next(answers) == next(answers)
    assert len(predictor.seen) == BATCH
    made = several(batch)
    assert isinstance(next(made), Image.Image)
    assert len(list(made)) == 999


@pytest.mark.parametrize("name", ["", "a" * 5000, "a\0b.png", "a\udcff.png", "data:image/png;,"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(InputError):
        ColourPredictor().labels([name])
    with pytest.raises(InputError, match="image 1: empty text, not the path of an image"):
        ColourPredictor().labels([""])
    assert list_images([Path(name or "a")]) == [Path(name or "a")]


@pytest.mark.parametrize("path", [None, IMAGE, 3, ["run"]])
def test_load_takes_a_path(path: Any) -> None:
    with pytest.raises(InputError, match="^load: model .*text or a path"):
        mobilette.load(path)


def batches(folder: Path) -> None:
    batch = np.stack([IMAGE, BLUE])
    first = batch.transpose(0, 3, 1, 2)
    for images in (
        batch,
        first,
        torch.from_numpy(batch),
        torch.from_numpy(first.copy()),
        batch / 255,
    ):
        assert ColourPredictor().labels(images) == ["red", "blue"]
    predictor = ColourPredictor()
    grey = np.stack([np.full((20, 24), value, np.uint8) for value in range(5)])
    assert len(predictor.labels(grey)) == 5
    assert [pixels.max() for pixels in predictor.seen] == list(range(5))
    # The whole batch decides on the scale, so a dark image among others stays dark.
    dark = np.stack([IMAGE, np.zeros_like(IMAGE) + 1]).astype(np.float32)
    predictor = ColourPredictor()
    predictor.labels(dark)
    assert predictor.seen[1].max() == 1


def kept_differently(folder: Path) -> None:
    frozen = IMAGE.copy()
    frozen.setflags(write=False)
    is_red(frozen, IMAGE[::-1, ::2], np.asfortranarray(IMAGE), np.ma.masked_array(IMAGE))
    is_red((IMAGE / 255).astype(">f4"), IMAGE.astype(">i4"), IMAGE.astype(">f8"))


def integers(folder: Path) -> None:
    for dtype in (np.int16, np.int32, np.int64, np.uint32, np.uint64):
        is_red(IMAGE.astype(dtype))
    is_red(np.array(IMAGE.tolist()))


def unit_floats(folder: Path) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        is_red((IMAGE / 255).astype(dtype))
    assert level(np.full((9, 9), 0.5, np.float32)) == 128
    assert level(np.full((9, 9), 1.0 + 1e-6, np.float32)) == 255


def level_floats(folder: Path) -> None:
    assert level(np.full((9, 9), 77.4, np.float32)) == 77


def booleans(folder: Path) -> None:
    assert level(np.ones((9, 9), bool)) == 255
    assert level(torch.ones(1, 9, 9, dtype=torch.bool)) == 255


def contents(folder: Path) -> None:
    is_red(png(), bytearray(png()), memoryview(png()), np.frombuffer(png(), np.uint8))
    is_red(torch.frombuffer(bytearray(png()), dtype=torch.uint8))


def files(folder: Path) -> None:
    (folder / "a").write_bytes(png())
    moved = io.BytesIO(png())
    moved.seek(0, io.SEEK_END)
    with (folder / "a").open("rb") as file, (folder / "a").open("rb", buffering=0) as raw:
        file.read(7)
        is_red(io.BytesIO(png()), moved, file, raw)


def text_file(folder: Path) -> None:
    (folder / "a").write_bytes(png())
    with pytest.raises(InputError, match="open it in mode 'rb'"):
        ask(io.StringIO("text"))
    with (folder / "a").open(encoding="utf-8") as file:
        ask(file)


def closed_file(folder: Path) -> None:
    file = io.BytesIO(png())
    file.close()
    ask(file)


def alone_and_wrong(folder: Path) -> None:
    for images in ({"a": IMAGE}, 7, 1.5):
        with pytest.raises(InputError, match=r"images are expected"):
            ColourPredictor().labels(images)
    ColourPredictor().labels(None)


def as_data(folder: Path) -> None:
    wrong: list[Any] = [None, 3, ["a.png"], pd.DataFrame(), torch.zeros(3), IMAGE]
    for data in wrong:
        with pytest.raises(InputError, match="a folder, a list or the name of a set"):
            mobilette.train(data, model="mobilenet_v1", out=folder / "run")
    evaluate(ColourPredictor(), IMAGE)  # type: ignore[arg-type]


def five(channels: int) -> NDArray[np.uint8]:
    return np.zeros((20, 24, channels), np.uint8)


CASES: dict[str, Case] = {
    "a list, tuple, generator or Series of paths: `str`, `Path`": paths,
    "an empty list, or an array of no images": nothing,
    "one path, image, array, file or bytes alone": one_alone,
    "Pillow images of any mode a file may have": pillow,
    "a Pillow image that is closed or damaged": closed_image,
    "a Pillow image of floats (mode F)": given(Image.new("F", (9, 9))),
    "uint8 (H, W), (H, W, 1), (H, W, 3), (H, W, 4)": shapes,
    "uint8 (1, H, W), (3, H, W), (4, H, W), (1, H, W, C)": channels_first,
    "a tensor (C, H, W) or (H, W, C), on any device, with a gradient": tensors,
    "a tensor that may be either, such as (3, 5, 3)": given(torch.zeros(3, 5, 3)),
    "(N, H, W, C), (N, C, H, W), (N, H, W) alone": batches,
    "(3, H, W) alone": alone(CHW),
    "a batch in a list": given(np.stack([IMAGE, BLUE])),
    "read-only, not contiguous, big-endian, masked arrays": kept_differently,
    "integers of another dtype, all from 0 to 255": integers,
    "integers below 0 or above 255": each(IMAGE.astype(int) + 256, IMAGE.astype(int) - 300),
    "uint16": each(IMAGE.astype(np.uint16), np.zeros((9, 9), ">u2")),
    "floats from 0 to 1": unit_floats,
    "floats from 0 to 255": level_floats,
    "floats up to something between 1 and 2": given(np.full((9, 9, 3), 1.5)),
    "floats below 0, above 255, NaN, infinite": each(
        *(np.full((9, 9, 3), value) for value in (-2.1, 256.0, np.nan, np.inf, -np.inf))
    ),
    "booleans": booleans,
    "complex numbers, objects, dates": each(
        *(IMAGE.astype(dtype) for dtype in (complex, object, "M8[s]", str)),
    ),
    "two channels, five channels": each(five(2), five(5), five(5).transpose(2, 0, 1)),
    "a side of 0": each(
        five(3)[:0], five(3)[:, :0], np.empty((0, 0), np.uint8), Image.new("RGB", (0, 9))
    ),
    "more than 178,956,970 pixels": each(np.broadcast_to(np.uint8(3), (14_000, 14_000, 3))),
    "numbers": each(np.uint8(3), np.zeros((), np.uint8), 7, 1.5),
    "bytes, bytearray, memoryview, 1-D uint8: a file's content": contents,
    "bytes of anything else, a path as bytes among them": each(b"cat.png", b"text" * 99),
    '`BytesIO`, a file opened with "rb", wherever it stands': files,
    "a file opened as text": text_file,
    "a file that is closed": closed_file,
    "`None`, a dict, a list in the list": each(None, {"a": 1}, [IMAGE], (IMAGE, 3), object()),
    "a dict, `None` or a number alone": alone_and_wrong,
    "an array as DATA of `train` or `evaluate`": as_data,
}
ROWS = rows("Arrays and images in Python")


SIDES = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 28])
DTYPES = ["u1", "?", "i1", ">i2", "i8", "u2", "u8", "f2", "f4", ">f8", "c8", "O", "U2", "M8[s]"]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=9),
    st.binary(max_size=99),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just(object()),
    st.just(ColourPredictor),
    st.just(Image),
)


def answer_or_line(images: Any) -> list[Prediction] | None:
    """Return the answers, or nothing where ``images`` are refused as they should be."""
    message = ""
    try:
        return ColourPredictor().predict(images)
    except InputError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


@sampled(
    shape=st.lists(SIDES, max_size=5).map(tuple).filter(lambda shape: math.prod(shape) < 9000),
    dtype=st.sampled_from(DTYPES),
    largest=st.sampled_from([1, 2, 255, 256, 70_000]),
    as_tensor=st.booleans(),
    in_list=st.booleans(),
)
def test_any_array_is_answered_or_refused(
    shape: tuple[int, ...], dtype: str, largest: int, as_tensor: bool, in_list: bool
) -> None:
    """An image as Pillow takes it gets Pillow's answer, everything else an answer or a line."""
    levels = np.asarray(np.random.default_rng(0).random(shape)) * largest
    with np.errstate(all="ignore"):
        array: Any = np.asarray(levels).astype(dtype)
    if as_tensor and array.dtype.kind in "uif" and array.dtype.isnative:
        array = torch.from_numpy(array)
    answers = answer_or_line([array] if in_list else array)
    assert answers is None or len(answers) == (1 if in_list else shape[0])
    if in_list and dtype == "u1" and len(shape) == 3 and shape[2] == 3 and 0 not in shape:
        expected = ColourPredictor().predict([Image.fromarray(np.asarray(array))])
        assert as_tensor or (answers and answers[0].top == expected[0].top)


@sampled(st.one_of(ODD, st.lists(ODD, max_size=3), st.lists(st.lists(ODD, max_size=2), max_size=2)))
def test_anything_else_is_refused_in_a_line(images: Any) -> None:
    assert not answer_or_line(images)


def test_every_row_is_run() -> None:
    assert list(ROWS) == list(CASES)


@pytest.mark.parametrize("given", list(CASES))
def test_row(given: str, tmp_path: Path) -> None:
    check(ROWS[given], CASES[given], tmp_path)
