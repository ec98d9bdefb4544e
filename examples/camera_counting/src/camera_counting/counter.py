"""Counting one frame: from the uploaded bytes to the camera's new total."""

from dataclasses import dataclass, field

from camera_counting.camera import Camera
from camera_counting.counts import Counts, Recorded
from camera_counting.detect import Box, Detector
from camera_counting.frame import decode


@dataclass(frozen=True)
class Counter:
    """Counts frames, with a prepared detector for each camera kept in memory."""

    counts: Counts
    _detectors: dict[str, tuple[str, Detector]] = field(
        default_factory=dict[str, tuple[str, Detector]]
    )

    def learn(self, camera: Camera) -> None:
        """Store the camera once its background has proved usable."""
        Detector.for_camera(camera)
        self.counts.register(camera)

    def count(self, camera_id: str, frame_id: str, image: bytes) -> tuple[list[Box], Recorded]:
        """Find the people in an encoded frame and add them to the camera's total."""
        boxes = self._detector(camera_id).detect(decode(image))
        return boxes, self.counts.record(camera_id, frame_id, len(boxes))

    def _detector(self, camera_id: str) -> Detector:
        # Another process may have replaced the background: the digest in the database
        # decides, which costs a short query instead of the transfer of an image.
        digest = self.counts.digest(camera_id)
        cached = self._detectors.get(camera_id)
        if cached is not None and cached[0] == digest:
            return cached[1]
        camera = self.counts.camera(camera_id)
        detector = Detector.for_camera(camera)
        self._detectors[camera_id] = camera.digest, detector
        return detector
