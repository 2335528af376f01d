"""The plan of a fit: which networks race on the images, and for how long."""

from __future__ import annotations

import time as system_time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from filelock import FileLock

from mobilette.counting.budget import Constraint, Device
from mobilette.counting.candidates import Shortfall
from mobilette.counting.latency import LatencyTable, check_comparable, read_latency_table
from mobilette.counting.shortfall import why_nothing_fits
from mobilette.data.fingerprint import fingerprint_of_files
from mobilette.data.formats import UnusableImage
from mobilette.data.images import ImageSet, suggest_resolution
from mobilette.data.machine import usable_cores
from mobilette.data.sources import find_images
from mobilette.engines.layer_timing import PACKAGES
from mobilette.errors import InputError
from mobilette.files import write_json
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.search.prior import Setting, shortlist
from mobilette.search.race import first_seconds, plan_rounds
from mobilette.search.scenes import Wanted
from mobilette.search.space import within
from mobilette.training.start import EXPECTED, names_weights, read_start
from mobilette.verification.latency_table import (
    build_latency_table,
    cached_latency_table,
    keep_latency_table,
)
from mobilette.workflows.fit_record import PLAN, Clock, FitRequest, RacePlan, read_plan

# Of the time, what the race may take; the rest trains the network that won.
RACE = 0.4
# Forward mult-adds per second and core in training, roughly: the prior needs no better.
SPEED = 5e9
_SAMPLE = 32  # images that are read to see how long it takes
_RESERVES = 4  # networks on the list for each that races
_TABLE_FROM = 900.0  # seconds of time left from which a latency table is made first


def planned(folder: Path, asked: FitRequest, clock: Clock, *, reporter: Reporter) -> RacePlan:
    """Return the plan of the fit in ``folder``, which its first process makes and writes.

    Raises:
        InputError: the images or starts cannot be used, or nothing fits the budget.
    """
    with FileLock(folder / f".{PLAN}.lock"):
        if not (folder / PLAN).exists():
            saving = replace(reporter, remark=clock.saved_at(reporter.remark))
            tables = latency_tables(asked.wanted, left=clock.left, reporter=saving)
            plan = plan_race(asked, tables, left=clock.left, reporter=saving)
            write_json(folder / PLAN, asdict(plan))
        return read_plan(folder)


def plan_race(
    asked: FitRequest, tables: Mapping[Device, LatencyTable], *, left: float, reporter: Reporter
) -> RacePlan:
    """Return the contenders, best by the prior first, and the rounds of their race.

    Args:
        asked: what `fit` was asked for.
        tables: predict latencies.
        left: seconds until the end.
        reporter: receives remarks.

    Raises:
        InputError: the images or starts cannot be used, or nothing fits the budget.
    """
    want = asked.wanted
    images = find_images(asked.data, groups=asked.groups)
    for line in images.remarks:
        reporter.remark(line)
    reading, first = seconds_to_read(images), first_seconds(asked.seconds)
    count = sum(map(len, images.splits.values()))
    fitting = within(
        [*want.counted, *(term for term in want.terms if term.device in tables)],
        read_starts(asked.starts),
        names=asked.names,
        setting=Setting(
            own=suggest_resolution(images),
            images=count,
            seconds=(1 - RACE) * left,
            first=first,
            madds_per_second=SPEED * usable_cores(),
        ),
        target=want.target,
        precision=want.precision,
        num_classes=len(images.classes),
        tables=tables,
    )
    if isinstance(fitting, Shortfall):
        raise InputError(why_nothing_fits(fitting, want.text, want.precision))
    rounds = plan_rounds(RACE * left - reading, networks=len(fitting), first=first)
    part = round(reading / left, 2)
    contenders = tuple(shortlist(fitting, _RESERVES * rounds.contenders, reading=part))
    return RacePlan(
        contenders=contenders,
        rounds=rounds,
        fitting=len(fitting),
        classes=images.classes,
        images=count,
        fingerprint=fingerprint_of_files(images),
        measure="mean average precision" if images.multi_label else "top-1",
    )


def seconds_to_read(images: ImageSet) -> float:
    """Return about how long it takes to read a set at one resolution: a sample of it is decoded."""
    on_disk = [each for split in images.splits.values() for each in split if not each.in_memory]
    if not on_disk:
        return 0.0
    sample = on_disk[:: max(len(on_disk) // _SAMPLE, 1)]
    begun = system_time.perf_counter()
    for each in sample:
        with suppress(UnusableImage):
            each.open()
    taken = system_time.perf_counter() - begun
    return taken * len(on_disk) / len(sample) / usable_cores()


def check_same_images(asked: FitRequest, plan: RacePlan) -> None:
    """Check that the images are those that the race was planned for.

    Raises:
        InputError: they cannot be found, or there are others.
    """
    images = find_images(asked.data, groups=asked.groups)
    count = sum(map(len, images.splits.values()))
    changed = f"{asked.data}: the images have changed since the fit was begun"
    if (images.classes, count) != (plan.classes, plan.images):
        raise InputError(
            f"{changed}: {len(images.classes)} classes and {count:,} images, not "
            f"{len(plan.classes)} and {plan.images:,}; start a new fit"
        )
    if fingerprint_of_files(images) != plan.fingerprint:
        raise InputError(f"{changed}: as many, with other content; start a new fit")


def read_starts(paths: tuple[str, ...]) -> Mapping[str, Model]:
    """Return the models that networks may start from, by path or name.

    Raises:
        InputError: one cannot be read, or two have one name, by which contenders are called.
    """
    found: dict[str, Model] = {}
    for path in paths:
        if not names_weights(path):
            raise InputError(f"--starts {path!r}: {EXPECTED}")
        model = read_start(path, model=None, width_mult=None, report=None)
        assert model is not None  # only scratch and auto are none
        if Path(path).name in {Path(other).name for other in found}:
            raise InputError(f"--starts: two are called {Path(path).name}; rename one")
        found[path] = model
    return found


def lacks_table(wanted: Wanted, *, left: float) -> bool:
    """Whether a latency table is to be made first, with ``left`` seconds until the end."""
    here = {x.device for x in wanted.terms if x.device and x.device.engine in PACKAGES}
    known = latency_tables(wanted, left=0.0, reporter=SILENT)
    return left >= _TABLE_FROM and not here <= known.keys()


def latency_tables(
    wanted: Wanted, *, left: float, reporter: Reporter
) -> dict[Device, LatencyTable]:
    """Return the tables that predict the latencies of a budget.

    This machine's table of an engine is made if there is time for it; without one, a latency is
    known once an artifact is timed.
    """
    tables: dict[Device, LatencyTable] = {}
    for term in wanted.terms:
        device = term.device
        if device is not None and device.table is not None:
            table = tables[device] = read_latency_table(device.table)
            check_comparable(
                table,
                engine=wanted.target,
                version=table.engine_version,  # its device's own
                precision=wanted.precision,
            )
        elif device is not None and device.engine in PACKAGES:
            found = _of_this_machine(term, device, wanted, left=left, reporter=reporter)
            if found is not None:
                tables[device] = found
    return tables


def _of_this_machine(
    term: Constraint, device: Device, wanted: Wanted, *, left: float, reporter: Reporter
) -> LatencyTable | None:
    engine, precision, threads = str(device.engine), wanted.precision, device.threads
    try:
        return cached_latency_table(engine, precision=precision, threads=threads)
    except InputError as error:
        if left < _TABLE_FROM:
            reporter.remark(f"{error}; {term.text} is measured of artifacts alone")
            return None
        reporter.remark(f"{error}: it is made first")
    made = build_latency_table(engine, precision=precision, threads=threads, reporter=reporter)
    keep_latency_table(made)
    return made
