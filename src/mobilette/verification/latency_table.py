"""Latency tables: made on this machine, kept in its cache, extended by layers that they lack.

Two things are measured on the engine: every layer of some networks alone, and these networks whole.
The whole ones give the corrections by kind of layer, for in a network layers evict each other's
maps and weights from the caches, and an engine changes the layout of maps between some of them.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.arguments import checked
from mobilette.counting.fused_layers import FusedLayer, Kind, fused_layers
from mobilette.counting.latency import (
    LatencyTable,
    MeasuredLayer,
    Precision,
    read_latency_table,
    unmeasured_layers,
    weight_megabytes,
    write_latency_table,
)
from mobilette.data.machine import processor, usable_cores
from mobilette.engines.layer_timing import PACKAGES, Engine, engine_version
from mobilette.errors import InputError, one_of, shown
from mobilette.files import cache_root
from mobilette.folders import make_directory
from mobilette.isolated import run_isolated
from mobilette.limits import THREADS
from mobilette.progress import SILENT, Reporter
from mobilette.records import parse
from mobilette.verification import layer_latency
from mobilette.verification.layer_latency import LayerRequest, LayerTimes

SECONDS = 0.02
TIMEOUT = 3600.0
# Layers that one process measures, between two remarks.
_PART = 150
# Name, width and resolution: shapes from all over, and each kind of layer in several networks.
REFERENCES: tuple[tuple[str, float, int], ...] = (
    ("mobilenet_v1", 0.5, 128),
    ("mobilenet_v2", 1.0, 96),
    ("mobilenet_v2", 0.5, 192),
    ("mobilenet_v3_small", 1.0, 128),
    ("mobilenet_v3_large", 0.75, 96),
    ("mobilenet_v4_conv_small", 1.0, 96),
    ("shufflenet_v2", 1.0, 128),
    ("shufflenet_v1_g3", 0.5, 96),
    ("squeezenet1_1", 1.0, 96),
    ("resnet18", 0.5, 96),
    ("resnet50", 0.25, 96),
    ("resnet20", 1.0, 32),
    ("ghostnet", 0.5, 128),
    ("vgg11", 0.25, 64),
)
# How strongly a correction is pulled to the common level, in relative errors of a network.
_PULL = 0.2
_LEAST, _MOST = 0.2, 5.0
# Megabytes of weights that may stay in the caches from call to call.
_CACHES_MB = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def reference_networks() -> list[Arch]:
    """Return the networks that a new table is made from."""
    return [
        get_arch(name, Settings(width_mult=width, resolution=side))
        for name, width, side in REFERENCES
    ]


@checked
def build_latency_table(
    engine: str,
    *,
    precision: str = "fp32",
    threads: int = 1,
    networks: Sequence[Arch] | None = None,
    seconds: float = SECONDS,
    reporter: Reporter = SILENT,
) -> LatencyTable:
    """Measure a latency table on this machine, which takes a minute or two.

    Args:
        engine: ``onnx`` or ``litert``.
        precision: ``fp32`` or ``int8``.
        threads: of the engine.
        networks: whose layers are measured; by default some of every family.
        seconds: the least time for each layer.
        reporter: receives each step.

    Raises:
        InputError: the engine is unknown or missing, or fails.
    """
    request = _request(engine, precision, threads, seconds)
    archs = reference_networks() if networks is None else _checked_networks(networks)
    layers = list(dict.fromkeys(step.layer for arch in archs for step in fused_layers(arch)))
    times = _timed(replace(request, networks=tuple(archs)), layers, reporter)
    pairs = zip(layers, times.layers_ms, strict=True)
    measured = tuple(MeasuredLayer(layer=layer, milliseconds=ms) for layer, ms in pairs)
    table = LatencyTable(
        engine=request.engine,
        engine_version=engine_version(request.engine),
        precision=request.precision,
        threads=threads,
        machine=f"{processor()}, {platform.system()}",
        overhead_ms=0.0,
        corrections={},
        layers=measured,
    )
    return corrected(table, archs, times.networks_ms)


def _checked_networks(networks: object) -> list[Arch]:
    """Return ``networks`` as a list, if it is one of networks."""
    found = list(networks) if isinstance(networks, list | tuple) else []
    if not found or not all(isinstance(each, Arch) for each in found):
        raise InputError(
            f"build_latency_table: networks is {shown(networks)}, not a list of networks (get_arch)"
        )
    return found


def corrected(
    table: LatencyTable, networks: Sequence[Arch], whole_ms: Sequence[float]
) -> LatencyTable:
    """Return ``table`` with the corrections that explain the ``networks``' milliseconds best.

    First, by least squares of the relative errors: a common level of all layers, what a call costs,
    and what a megabyte of weights costs beyond those that stay in the caches from call to call.
    Then a factor for each kind of layer, drawn to the level, the more so for kinds that take little
    of these networks.
    """
    bare = replace(table, corrections={}, overhead_ms=0.0, stream_ms=0.0)
    kinds: list[Kind] = sorted({each.layer.kind for each in table.layers})
    parts = np.zeros((len(networks), len(kinds)))
    for row, arch in enumerate(networks):
        for step in fused_layers(arch):
            parts[row, kinds.index(step.layer.kind)] += bare.milliseconds(step.layer)
    whole = np.array(whole_ms)
    sizes = np.array([weight_megabytes(arch, table.precision) for arch in networks])
    fits = []
    for cached in _CACHES_MB:
        beyond = np.maximum(sizes - cached, 0)
        terms = np.column_stack([parts.sum(axis=1), np.ones(len(whole)), beyond])
        level, call, stream = _not_negative(terms / whole[:, None])
        errors = terms @ (level, call, stream) / whole - 1
        fits.append((float(errors @ errors), cached, level, call, stream))
    _, cached, level, call, stream = min(fits)
    left = 1 - (call + stream * np.maximum(sizes - cached, 0)) / whole
    shares = level * parts / whole[:, None]
    pull = _PULL * np.eye(len(kinds))
    found = np.linalg.solve(shares.T @ shares + pull, shares.T @ left + _PULL)
    factors = np.clip(level * found, _LEAST, _MOST)
    return replace(
        bare,
        overhead_ms=call,
        stream_ms=stream,
        cached_mb=cached,
        corrections=dict(zip(kinds, map(float, factors), strict=True)),
    )


def _not_negative(terms: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the factors, none negative, with which the three columns add up to 1 best."""
    kept = [0, 1, 2]
    while True:
        found, *_ = np.linalg.lstsq(terms[:, kept], np.ones(len(terms)), rcond=None)
        if found.min() >= 0 or len(kept) == 1:
            break
        kept.remove(kept[int(found.argmin())])
    factors = np.zeros(3)
    factors[kept] = np.maximum(found, 0)
    level, call, stream = map(float, factors)
    return max(level, _LEAST), call, stream


def extend_latency_table(
    table: LatencyTable,
    networks: Iterable[Arch],
    *,
    seconds: float = SECONDS,
    reporter: Reporter = SILENT,
) -> LatencyTable:
    """Return ``table``, of this machine, with the layers of ``networks`` that it lacks.

    Raises:
        InputError: it is of another machine, engine version or number of cores, or the engine
            fails.
    """
    request = _request(table.engine, table.precision, table.threads, seconds)
    if table.machine != f"{processor()}, {platform.system()}":
        raise InputError(f"the latency table is of {table.machine}, not of this machine")
    version = engine_version(request.engine)
    if table.engine_version != version:
        raise InputError(
            f"the latency table is of {table.engine} {table.engine_version}; here it is {version}"
        )
    lacking = [unmeasured_layers(arch, table) for arch in networks]
    layers = list(dict.fromkeys(layer for each in lacking for layer in each))
    if not layers:
        return table
    times = _timed(request, layers, reporter)
    pairs = zip(layers, times.layers_ms, strict=True)
    more = tuple(MeasuredLayer(layer=layer, milliseconds=ms) for layer, ms in pairs)
    return replace(table, layers=(*table.layers, *more))


def cached_table_path(engine: Engine, precision: Precision, threads: int) -> Path:
    """Return where this machine keeps its table; the file need not exist."""
    machine = hashlib.sha256(f"{processor()}, {platform.system()}".encode()).hexdigest()[:12]
    name = f"{engine}-{engine_version(engine)}-{precision}-{threads}-{machine}.json"
    return cache_root() / "latency" / name


def cached_latency_table(engine: str, *, precision: str, threads: int) -> LatencyTable:
    """Return this machine's table from the cache.

    Raises:
        InputError: there is none; the message says which command makes it.
    """
    request = _request(engine, precision, threads, SECONDS)
    path = cached_table_path(request.engine, request.precision, threads)
    if not path.is_file():
        options = f" --precision {precision}" if precision != "fp32" else ""
        options += f" --threads {threads}" if threads != 1 else ""
        raise InputError(
            f"this machine has no latency table of {engine} in {precision}; "
            f"'mobilette bench --table {engine}{options}' makes it in a minute or two"
        )
    return read_latency_table(path)


def keep_latency_table(table: LatencyTable) -> Path:
    """Write this machine's ``table`` to the cache and return its path."""
    request = _request(table.engine, table.precision, table.threads, SECONDS)
    path = cached_table_path(request.engine, table.precision, table.threads)
    make_directory(path.parent)
    write_latency_table(table, path)
    return path


def _request(engine: str, precision: str, threads: int, seconds: float) -> LayerRequest:
    """Return a request without layers; `InputError` if this machine cannot carry it out."""
    one_of(engine, PACKAGES, "engine of a latency table")
    one_of(precision, ("fp32", "int8"), "precision of a latency table")
    THREADS.check("--threads", threads)
    if threads > usable_cores():
        raise InputError(f"--threads {threads}: only {usable_cores()} cores are available")
    found: Engine = "onnx" if engine == "onnx" else "litert"
    try:
        engine_version(found)
    except PackageNotFoundError:
        raise InputError(
            f"{PACKAGES[found]} is missing; install it with pip install 'mobilette[{engine}]'"
        ) from None
    return LayerRequest(
        engine=found,
        precision="int8" if precision == "int8" else "fp32",
        threads=threads,
        layers=(),
        networks=(),
        seconds=seconds,
    )


def _timed(request: LayerRequest, layers: Sequence[FusedLayer], reporter: Reporter) -> LayerTimes:
    """Return the times of ``layers`` and of the request's networks, part by part."""
    found: list[float] = []
    for first in range(0, len(layers), _PART):
        reporter.remark(f"measured {first} of {len(layers)} layers")
        part = replace(request, layers=tuple(layers[first : first + _PART]), networks=())
        found += _asked(part).layers_ms
    if request.networks:
        reporter.remark(f"measuring {len(request.networks)} whole networks")
    whole = _asked(request).networks_ms if request.networks else ()
    return LayerTimes(layers_ms=tuple(found), networks_ms=whole)


def _asked(request: LayerRequest) -> LayerTimes:
    threads = str(request.threads)
    answer = run_isolated(
        layer_latency.__name__,
        stdin=json.dumps(asdict(request)).encode(),
        longest_s=TIMEOUT,
        crashed=request.engine,
        environment={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        said=1,
    )
    return parse(LayerTimes, json.loads(answer), where="layer times")
