"""Records of contracts, runs and recipes with numbers that no memory holds, and files like them."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mobilette
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.rows import Conv, PoolLinear
from mobilette.arch.scale import Resolution
from mobilette.artifact.contract import Contract
from mobilette.artifact.directory import Artifact
from mobilette.artifact.golden import MOST_IMAGES, read_golden
from mobilette.counting.cost import check_memory
from mobilette.counting.latency import LatencyTable
from mobilette.data.cache import CacheNote
from mobilette.data.division import Division
from mobilette.data.images import Accepted
from mobilette.data.preprocess import Preprocess, preset
from mobilette.engines.timing import Request, Timing
from mobilette.errors import InputError, shown
from mobilette.files import read_json, read_record
from mobilette.formats.hub import HubIndex
from mobilette.limits import CLASSES, Range
from mobilette.model.answering import Answering
from mobilette.model.classes import read_classes
from mobilette.records import LONGEST, parse
from mobilette.run import tested
from mobilette.run.directory import Run, open_run
from mobilette.search.netadapt_record import Adaptation
from mobilette.training.recipe import Recipe, load_recipe
from mobilette.training.state import Progress
from mobilette.verification.benchmark import Benchmark
from mobilette.verification.layer_latency import LayerRequest, LayerTimes
from mobilette.verification.shifts import Robustness
from mobilette.workflows.fit_record import FitRequest, RacePlan
from mobilette.workflows.fit_refine import Refinement
from mobilette.workflows.folds_record import Asked
from mobilette.workflows.prune_budget import BudgetMet
from mobilette.workflows.prune_record import Pruning
from tests.artifact.forging import forge
from tests.cli.test_cli import Capture, assert_refused, in_this_process

RECORDS = (
    Accepted,
    Adaptation,
    Answering,
    Arch,
    Asked,
    Benchmark,
    BudgetMet,
    CacheNote,
    Contract,
    Division,
    FitRequest,
    HubIndex,
    LatencyTable,
    LayerRequest,
    LayerTimes,
    Preprocess,
    Progress,
    Pruning,
    RacePlan,
    Recipe,
    Refinement,
    Request,
    Robustness,
    tested.Tested,
    Timing,
)
# A loss that explodes is none of the numbers that a range tells from others.
FREE = {"Progress.loss_sum"}


# Every number has a range


def records(kind: type) -> Iterator[type]:
    """Yield ``kind`` and every dataclass in its fields."""
    seen = [kind]
    while seen:
        one = seen.pop()
        yield one
        seen += [k for hint in get_type_hints(one).values() for k in _dataclasses(hint)]


def _dataclasses(hint: Any) -> Iterator[type]:
    if is_dataclass(hint):
        assert isinstance(hint, type)
        yield hint
    for part in get_args(hint):
        yield from _dataclasses(part)


def _numbers(hint: Any) -> bool:
    """Whether a value of this type has a number that no range is stated for."""
    if get_origin(hint) is Annotated:
        return not any(isinstance(extra, Range) for extra in hint.__metadata__)
    if get_origin(hint) is Literal:
        return False
    return hint in (int, float) or any(map(_numbers, get_args(hint)))


@pytest.mark.parametrize("kind", RECORDS)
def test_every_number_of_a_record_has_a_range(kind: type) -> None:
    without = {
        f"{record.__name__}.{field.name}"
        for record in records(kind)
        for field in fields(record)
        if _numbers(get_type_hints(record, include_extras=True)[field.name])
    }
    assert without <= FREE


def test_the_records_are_all_that_are_read() -> None:
    call = re.compile(r"\b(?:parse|read_record)\((?:[^,()]+(?:\([^)]*\))?, )?([A-Z][a-z]\w+)")
    sources = Path(mobilette.__path__[0]).rglob("*.py")
    read = {name for source in sources for name in call.findall(source.read_text("utf-8"))}
    read.discard("Path")  # of a file's syntax, not a record
    assert {"Arch", "Recipe", "Timing"} <= read <= {kind.__name__ for kind in RECORDS}


# One value is forged


NASTY: st.SearchStrategy[object] = st.one_of(
    st.sampled_from(
        [
            0,
            -1,
            10**30,
            2**63,
            -(2**63),
            1e308,
            -1e308,
            5e-324,
            1e-9,
            1e-4,
            -0.0,
            math.nan,
            math.inf,
        ]
    ),
    st.sampled_from(["", " ", "x" * (LONGEST + 1), "\x00", "\ud800", "../x", [], {}, None, True]),
    st.integers(),
    st.floats(),
    st.lists(st.integers(), max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where in JSON values something stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: object) -> Any:
    content = json.loads(json.dumps(value))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return content


@given(data=st.data(), new=NASTY)
def test_a_contract_with_one_forged_value(
    exported: Artifact, data: st.DataObject, new: object
) -> None:
    content = exported.contract.to_json()
    where = data.draw(st.sampled_from(sorted(places(content), key=str)))
    try:
        contract = parse(Contract, replaced(content, where, new), where="contract.json")
    except InputError:
        return
    assert len(contract.classes) <= CLASSES.highest
    with suppress(InputError):
        check_memory(contract.arch)
    largest_resized(contract.preprocess, contract.arch.resolution)


@given(data=st.data(), new=NASTY)
def test_a_recipe_with_one_forged_value(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, new: object
) -> None:
    lines = Recipe().to_toml().splitlines()
    row = data.draw(st.integers(0, len(lines) - 1))
    text = json.dumps(new).replace("NaN", "nan").replace("Infinity", "inf")
    lines[row] = f"{lines[row].partition(' = ')[0]} = {text}"
    path = tmp_path_factory.getbasetemp() / "forged.toml"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    with suppress(InputError):
        load_recipe(path)


# Numbers whose product no memory holds


class Resized(Exception):
    """Says to what size an image would be resized."""


def largest_resized(preprocess: Preprocess, resolution: Resolution) -> int:
    """Return the pixels of the largest image that `geometry` makes of strips and squares."""

    def resize(self: Image.Image, size: tuple[int, int], *rest: object, **more: object) -> None:
        raise Resized(math.prod(size))

    largest = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        for size in ((1, 1), (1, 60), (64, 1), (1, 1000), (5000, 5)):
            try:
                preprocess.geometry(Image.new("RGB", size), resolution)
            except Resized as found:
                largest = max(largest, found.args[0])
    assert largest <= 2**27
    return largest


@pytest.mark.parametrize("fraction", [1e-4, 1e-9, 5e-324, 0.0, -0.0, -1.0, 1.5, math.nan, math.inf])
def test_crop_fractions_that_no_memory_holds(fraction: float) -> None:
    with pytest.raises(InputError, match="crop_fraction .* is not between 0.1 and 1.0"):
        Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3, crop_fraction=fraction)


SIDES = st.integers(16, 4096)


@given(
    fraction=st.floats(0.1, 1.0),
    resolution=st.one_of(SIDES, st.tuples(SIDES, SIDES)),
    resize=st.sampled_from(["crop", "squash", "pad"]),
)
def test_no_image_is_enlarged_beyond_the_memory(
    fraction: float, resolution: Resolution, resize: Any
) -> None:
    preprocess = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3, crop_fraction=fraction, resize=resize)
    with suppress(InputError):
        preprocess.check_resolution(resolution)
        largest_resized(preprocess, resolution)


def test_a_run_and_an_artifact_of_a_tiny_fraction_are_refused(
    run_copy: Path, artifact_copy: Path, images: Path, capsys: Capture
) -> None:
    for folder, name in ((run_copy, "preprocess.json"), (artifact_copy, "contract.json")):
        path = folder / name
        content = json.loads(path.read_text())
        (content if name != "contract.json" else content["preprocess"])["crop_fraction"] = 1e-4
        path.write_text(json.dumps(content))
        result = in_this_process(capsys, "predict", folder, images)
        assert_refused(result, str(path), "crop_fraction 0.0001 is not between 0.1 and 1.0")


def test_a_network_whose_numbers_multiply_beyond_the_memory(run_copy: Path) -> None:
    wide = Conv(channels=65_536, kernel=31, activation="none")
    arch = Arch(
        name="wide",
        resolution=4096,
        in_channels=3,
        stem=wide,
        rows=(wide,),
        head=PoolLinear(classes=3),
    )
    with pytest.raises(InputError, match="weights: at most 1,073,741,824 are supported"):
        check_memory(arch)
    thin = Conv(channels=65_536, activation="none")
    content = get_arch("mobilenet_v1").to_json() | {"rows": (), "resolution": 4096}
    stem = {"kind": "conv", "channels": thin.channels, "activation": "none"}
    (run_copy / "arch.json").write_text(json.dumps(content | {"stem": stem}))
    with pytest.raises(InputError, match=r"arch\.json: .* activations alive at once"):
        open_run(run_copy)


def test_python_callers_get_the_same_answer(images: Path, trained: Run, exported: Artifact) -> None:
    from mobilette.engines.load import load
    from mobilette.workflows.train import train

    with pytest.raises(InputError, match="epochs 1000.* is not between 1 and"):
        train(images, overrides={"epochs": 10**30})
    for threads in (2**63 - 1, -1):
        with pytest.raises(InputError, match="threads .* between 1 and 512"):
            load(exported.path, threads=threads)
    for wrong in (1.5, "two", True):
        with pytest.raises(InputError, match="threads is .*, not a whole number"):
            load(exported.path, threads=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="workers .* between 0 and 256"):
        list(load(exported.path).predict_each([next(images.glob("*/*.png"))], workers=10**30))
    assert load(exported.path, threads=np.int64(1)).threads == 1  # type: ignore[attr-defined, arg-type]


# Files


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b'{"crop_fraction": ' + b"9" * 10_000 + b"}",
        '{"mean": "é"}'.encode("latin-1"),
        b"\xff\xfe\x00",
        b"",
        b"\x00" * 100,
    ],
    ids=str,
)
def test_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "preprocess.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"preprocess\.json: not valid JSON") as caught:
        read_record(path, Preprocess)
    assert len(str(caught.value)) < 500


def test_json_of_100_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "arch.json"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(InputError, match="100,000,000 bytes, more than"):
        read_json(path)
    with path.with_suffix(".toml").open("wb") as file:
        file.truncate(70_000)
    with pytest.raises(InputError, match="70,000 bytes, more than"):
        load_recipe(path.with_suffix(".toml"))


def test_values_are_shown_short() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    for value in (nested, 10**10_000, "x" * 10**6, {"a": nested}, [10**10_000]):
        assert len(shown(value)) <= 80


def test_a_million_classes_are_refused_before_one_is_read(
    exported: Artifact, tmp_path: Path
) -> None:
    content = exported.contract.to_json() | {"classes": [None] * 10**6}
    with pytest.raises(InputError, match="classes has 1,000,000 entries; 65,536 is the limit"):
        parse(Contract, content, where="contract.json")
    path = tmp_path / "classes.txt"
    path.write_text("\n" * 10**6)  # empty lines, of which the first would be named
    with pytest.raises(InputError, match="1,000,000 classes"):
        read_classes(path)
    path = path.with_suffix(".json")
    path.write_text(json.dumps(["a"] * 100_000))
    with pytest.raises(InputError, match="100,000 classes"):
        read_classes(path)


# Golden vectors


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def described(shape: str, dtype: str = "|u1", order: str = "False") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}"


def archive(
    inputs: bytes, logits: bytes | None = None, packing: int = zipfile.ZIP_DEFLATED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as file:
        file.writestr("inputs.npy", inputs)
        file.writestr("logits.npy", npy(described("(1, 3)", "<f4"), bytes(12)))
    return buffer.getvalue()


def saved(shape: tuple[int, ...], logit: float = 0.0) -> bytes:
    buffer = io.BytesIO()
    logits = np.full((shape[0], 3), logit, np.float32)
    np.savez_compressed(buffer, inputs=np.zeros(shape, np.uint8), logits=logits)
    return buffer.getvalue()


GOOD = npy(described("(1, 3, 16, 16)"), bytes(3 * 16 * 16))


def patched(content: bytes, *, flags: int | None = None, method: int | None = None) -> bytes:
    """Change an entry's flags or compression method, in its own header and in the directory."""
    changed = bytearray(content)
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = changed.find(signature)
        for offset, value in ((at, flags), (at + 2, method)):
            if value is not None:
                changed[place + offset : place + offset + 2] = struct.pack("<H", value)
    return bytes(changed)


def broken_lzma() -> bytes:
    content = bytearray(archive(GOOD, packing=zipfile.ZIP_LZMA))
    place = content.find(b"inputs.npy") + len("inputs.npy")
    content[place + 4 : place + 40] = b"\xff" * 36
    return bytes(content)


FORGED: dict[str, Callable[[], bytes]] = {
    "encrypted": lambda: patched(archive(GOOD), flags=1),
    "an unknown method": lambda: patched(archive(GOOD), method=99),
    "broken LZMA": broken_lzma,
    "broken bzip2": lambda: patched(archive(GOOD), method=12),
    "a huge shape": lambda: archive(npy(described("(10000000000, 3, 16, 16)"))),
    "a product that overflows": lambda: archive(npy(described(f"({2**62}, {2**62}, 4, 4)"))),
    "a negative shape": lambda: archive(npy(described("(-1, 3, 16, 16)"), bytes(768))),
    "two negative sides": lambda: archive(npy(described("(1, 3, -16, -16)"), bytes(768))),
    "a number of 5,000 digits": lambda: archive(npy(described(f"({'9' * 5000}, 3, 16, 16)"))),
    "a shape of text": lambda: archive(npy(described("('a', 3, 16, 16)"))),
    "nested brackets": lambda: archive(npy("[" * 9000)),
    "a header that is code": lambda: archive(npy("__import__('os').abort()")),
    "a dtype that is none": lambda: archive(npy(described("(1, 3, 16, 16)", "|f1"), bytes(768))),
    "objects": lambda: archive(npy(described("(1, 3, 16, 16)", "|O"), bytes(768))),
    "columns first": lambda: archive(npy(described("(1, 3, 16, 16)", order="True"), bytes(768))),
    "another version": lambda: archive(npy(described("(1, 3, 16, 16)"), version=b"\x09\x00")),
    "cut short": lambda: archive(GOOD[:-1]),
    "too much": lambda: archive(GOOD + b"x"),
    "no header": lambda: archive(b"\x93NUMPY\x01\x00\xff\xff"),
    "no zip": lambda: b"PK\x03\x04 and no more",
    "100,000 inputs": lambda: saved((100_000, 1, 1, 1)),
    "one too many": lambda: saved((MOST_IMAGES + 1, 3, 16, 16)),
    "none": lambda: saved((0, 3, 16, 16)),
    "other sides": lambda: saved((1, 3, 999, 16)),
    "NaN": lambda: saved((1, 3, 16, 16), logit=math.nan),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_golden_vectors_end_in_one_line(
    kind: str, artifact_copy: Path, capsys: Capture
) -> None:
    forge(artifact_copy, {"golden.npz": FORGED[kind]()})
    assert_refused(in_this_process(capsys, "verify", artifact_copy), "golden.npz")


def test_the_forger_makes_good_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(archive(GOOD))
    assert read_golden(path).inputs.shape == (1, 3, 16, 16)
    assert preset("torch").crop_fraction == 1.0
