"""What Prometheus asks for."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The server's counters, of one process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "mobilette_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "mobilette_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.images = Counter(
            "mobilette_images", "Images, by what they got.", ["model", "outcome"], registry=registry
        )
        self.batches = Histogram(
            "mobilette_batch_images", "Images of a call.", buckets=_BATCHES, registry=registry
        )
        self.queued = Gauge(
            "mobilette_queued_images", "Images accepted and not answered.", registry=registry
        )
        self.reloads = Counter(
            "mobilette_reloads", "Reloads on SIGHUP.", ["outcome"], registry=registry
        )

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)
