"""Features of many images, written to a file batch by batch: NumPy, CSV or Parquet."""

from __future__ import annotations

import csv
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np
from numpy.lib import format as npy

from mobilette.engines.images import ImageLike
from mobilette.engines.predictor import Embedding, Failure, Predictor
from mobilette.errors import InputError, one_of
from mobilette.extras import needs
from mobilette.files import check_new_file, guarded, new_file
from mobilette.progress import SILENT, Reporter

ROWS = 256  # in memory at once


@dataclass(frozen=True, kw_only=True)
class FeatureFile:
    """A file of features that was written.

    Attributes:
        images: how many rows it has.
        features: how many numbers a row has.
        unusable: images that were left out.
    """

    path: Path
    images: int
    features: int
    unusable: int


def write_features(
    predictor: Predictor,
    images: Sequence[ImageLike],
    out: Path,
    *,
    force: bool = False,
    workers: int | None = None,
    on_failure: Callable[[Failure], None] | None = None,
    reporter: Reporter = SILENT,
) -> FeatureFile:
    """Write the features of ``images`` to ``out``, a row per image in their order.

    The suffix decides: ``.npz`` has the arrays ``path`` (N,) and ``features``, float32 (N, D);
    ``.csv`` the columns ``path, f0, f1, ...``; ``.parquet`` the columns ``path`` and ``features``,
    a list of D float32. Some hundred images are in memory at once, whatever N is.

    Args:
        predictor: the result of `load`.
        images: as for `Predictor.predict`.
        out: the file, in a folder that exists.
        force: replace an existing file.
        workers: threads that decode; by default one per core.
        on_failure: called with each image that cannot be read; it gets no row.
        reporter: receives the number of images read.

    Raises:
        InputError: another suffix, a missing package, a file that exists or cannot be written, a
            model without features, or no image that can be read; nothing is left behind.
    """
    check_feature_file(out, force=force)
    predictor.check_features()
    done, unusable = 0, 0

    def rows() -> Iterator[Embedding]:
        nonlocal done, unusable
        for done, row in enumerate(predictor.embed_each(images, workers=workers), start=1):
            reporter.reading(done, len(images))
            if isinstance(row, Embedding):
                yield row
                continue
            unusable += 1
            if on_failure is not None:
                on_failure(row)

    with new_file(out) as temporary:
        _FORMATS[out.suffix](temporary, rows(), predictor.feature_count)
        if done == unusable:
            raise InputError(f"{out}: not written; none of {len(images):,} images could be read")
    return FeatureFile(
        path=out, images=done - unusable, features=predictor.feature_count, unusable=unusable
    )


def check_feature_file(out: Path, *, force: bool) -> None:
    """Raise `InputError` unless `write_features` can write the file ``out``."""
    one_of(out.suffix, _FORMATS, f"{out}: the suffix")
    check_new_file(out, force=force)
    if out.suffix == ".parquet":
        with needs("parquet", f"{out}"):
            import pyarrow  # noqa: F401


def _write_csv(file: Path, rows: Iterable[Embedding], width: int) -> None:
    # Names that are not UTF-8 keep their bytes.
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", *(f"f{index}" for index in range(width))])
        for row in rows:
            writer.writerow(
                [guarded(row.path), *(f"{value:.9g}" for value in row.features.tolist())]
            )


def _write_npz(file: Path, rows: Iterable[Embedding], width: int) -> None:
    names: list[str] = []
    with tempfile.TemporaryFile(dir=file.parent) as values:  # their number is known at the end
        for row in rows:
            names.append(row.path)
            values.write(row.features.astype("<f4", copy=False).tobytes())
        values.seek(0)
        with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            with archive.open("path.npy", "w") as entry:
                npy.write_array(entry, np.array(names, dtype=np.str_), allow_pickle=False)
            with archive.open("features.npy", "w", force_zip64=True) as entry:
                _write_header(entry, (len(names), width))
                shutil.copyfileobj(values, entry)


def _write_header(entry: IO[bytes], shape: tuple[int, int]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(entry, header)


def _write_parquet(file: Path, rows: Iterable[Embedding], width: int) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    kind = pyarrow.list_(pyarrow.float32(), width)
    schema = pyarrow.schema([("path", pyarrow.string()), ("features", kind)])
    remaining = iter(rows)
    with ParquetWriter(file, schema) as writer:
        while batch := list(islice(remaining, ROWS)):
            paths = [row.path.encode(errors="replace").decode() for row in batch]
            values = pyarrow.array(np.concatenate([row.features for row in batch]))
            features = pyarrow.FixedSizeListArray.from_arrays(values, width)
            writer.write_batch(pyarrow.record_batch([pyarrow.array(paths), features], schema))


_FORMATS: Mapping[str, Callable[[Path, Iterable[Embedding], int], None]] = MappingProxyType(
    {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
)
