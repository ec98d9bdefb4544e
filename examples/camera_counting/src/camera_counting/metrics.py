"""What the service tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# Seconds. A frame takes tens of milliseconds; beyond a second the camera falls behind.
_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)


class Metrics:
    """Metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        PlatformCollector(self._registry)
        ProcessCollector(registry=self._registry)
        self.frames = Counter(
            "camera_counting_frames",
            "Frames counted, without repeated ones.",
            ["camera"],
            registry=self._registry,
        )
        self.people = Counter(
            "camera_counting_people",
            "People counted, without repeated frames.",
            ["camera"],
            registry=self._registry,
        )
        self.errors = Counter(
            "camera_counting_errors",
            "Requests refused or failed.",
            ["reason"],
            registry=self._registry,
        )
        self.frame_seconds = Histogram(
            "camera_counting_frame_seconds",
            "Time from the complete upload of a frame to its answer.",
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)
