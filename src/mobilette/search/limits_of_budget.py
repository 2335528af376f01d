"""What a network needs of each term of a budget: counted, predicted, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mobilette.arch.arch import Arch
from mobilette.counting.budget import Constraint, Device, parse_budget
from mobilette.counting.cost import cost
from mobilette.counting.latency import LatencyTable, predicted_latency, read_latency_table
from mobilette.engines.layer_timing import PACKAGES
from mobilette.engines.timing import Request
from mobilette.errors import InputError, one_of
from mobilette.exporters.export import export_calibrated
from mobilette.folders import scratch
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.search.proposals import narrowest
from mobilette.verification.bench import time_once
from mobilette.verification.benchmark import latency_of
from mobilette.verification.latency_table import (
    build_latency_table,
    cached_latency_table,
    cached_table_path,
    extend_latency_table,
    keep_latency_table,
)

ROUNDS, SECONDS = 3, 0.3
_ZERO = 1e-9  # a limit that can be divided by


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The terms of a budget for a network in fp32, and how to predict latencies.

    Attributes:
        terms: upper limits.
        tables: the latency table of each device that a term names.
        factors: what was measured on an engine of this machine by what its table predicted.
    """

    terms: tuple[Constraint, ...]
    tables: Mapping[Device, LatencyTable]
    factors: Mapping[Device, float] = field(default_factory=dict)

    def need(self, arch: Arch, term: Constraint) -> float:
        """Return how much of a term's quantity ``arch`` needs; latencies are predicted."""
        if term.device is not None:
            predicted = predicted_latency(arch, self.tables[term.device])
            return predicted * self.factors.get(term.device, 1.0)
        counted = cost(arch)
        amounts = {
            "params": counted.params,
            "madds": counted.madds,
            "size": counted.size_bytes.fp32,
            "ram": counted.peak_activation_bytes.fp32,
        }
        return float(amounts[term.quantity])

    def excess(self, arch: Arch) -> float:
        """Return the largest ratio of need to limit: at most 1 if ``arch`` fits."""
        return max(self.need(arch, term) / max(term.limit, _ZERO) for term in self.terms)

    def check_reachable(self, arch: Arch) -> None:
        """Raise `InputError` if ``arch``, however narrow, would not fit."""
        least = narrowest(arch)
        for term in self.terms:
            if not term.is_met(need := self.need(least, term)):
                raise InputError(
                    f"budget {term.text!r}: {arch.name} cannot be cut so far; "
                    f"{amount_text(term, need)} is the smallest that can be reached"
                )

    def measured(self, model: Model) -> dict[Constraint, float]:
        """Return what ``model`` takes on the engines of this machine, in milliseconds."""
        return {
            term: measured_latency(model, term.device)
            for term in self.terms
            if term.device is not None and term.device.engine is not None
        }

    def corrected(self, arch: Arch, measured: Mapping[Constraint, float]) -> Limits:
        """Return the limits with predictions that agree with what ``arch`` was ``measured`` at."""
        plain = replace(self, factors={})
        factors = {
            term.device: each / max(plain.need(arch, term), _ZERO)
            for term, each in measured.items()
            if term.device is not None
        }
        return replace(self, factors={**self.factors, **factors})


def limits_of(budget: str, arch: Arch, *, reporter: Reporter = SILENT) -> Limits:
    """Return the limits that ``budget`` sets for ``arch`` and its cuts.

    A latency on an engine of this machine needs a table, which is made if there is none, and gets
    the layers of ``arch`` that it lacks.

    Raises:
        InputError: the budget is none, has no upper limit, or a table is damaged or cannot be made.
    """
    terms = parse_budget(budget)
    for term in terms:
        if term.quantity == "top1":
            raise InputError(
                f"budget {term.text!r} is no upper limit: channels are cut until the network needs "
                "at most so much of params, madds, size, ram or latency"
            )
    devices = dict.fromkeys(term.device for term in terms if term.device is not None)
    return Limits(
        terms=terms, tables={device: _table(device, arch, reporter) for device in devices}
    )


def _table(device: Device, arch: Arch, reporter: Reporter) -> LatencyTable:
    if device.table is not None:
        return read_latency_table(device.table)
    engine = device.engine or ""
    one_of(engine, PACKAGES, "engine of a latency table")
    threads = device.threads
    if cached_table_path("onnx" if engine == "onnx" else "litert", "fp32", threads).is_file():
        table = cached_latency_table(engine, precision="fp32", threads=threads)
    else:
        reporter.remark(f"measures a latency table of {engine}, once: a minute or two")
        table = build_latency_table(engine, threads=threads, reporter=reporter)
    extended = extend_latency_table(table, [arch], reporter=reporter)
    keep_latency_table(extended)
    return extended


def measured_latency(model: Model, device: Device, *, rounds: int = ROUNDS) -> float:
    """Return the median milliseconds of one image on an engine of this machine, in fp32.

    ``rounds`` new processes are timed.

    Raises:
        InputError: the engine is missing or fails.
    """
    if device.engine is None:
        raise InputError(f"{device}: a table's device cannot be measured here")
    with scratch() as folder:
        artifact = export_calibrated(model, to=device.engine, precision="fp32", out=folder)
        request = Request(
            path=str(artifact.path), threads=device.threads, batches=(1,), seconds=SECONDS
        )
        return latency_of([time_once(request) for _ in range(rounds)], 1).median


def amount_text(term: Constraint, amount: float) -> str:
    """Return an amount of a term's quantity with its unit."""
    if term.quantity == "latency":
        return f"{amount:.3g} ms on {term.device}"
    unit = " bytes" if term.quantity in ("size", "ram") else f" {term.quantity}"
    return f"{amount:,.0f}{unit}"
