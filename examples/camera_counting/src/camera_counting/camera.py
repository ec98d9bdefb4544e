"""A fixed camera: its name, its calibration and its view without people."""

import hashlib
import re
from dataclasses import dataclass

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

MIN_PERSON_WIDTH = 8
MIN_PERSON_HEIGHT = 16


class CameraError(ValueError):
    """The description of a camera makes no sense."""


def check_id(camera_id: str) -> None:
    """Raise CameraError unless the id fits into a URL, a metric and a table."""
    if not _ID.fullmatch(camera_id):
        raise CameraError(
            "a camera id is 1 to 63 of a-z, 0-9, '_' and '-', and starts with a letter or digit"
        )


@dataclass(frozen=True)
class PersonSize:
    """Size of a standing person in this camera's image, in pixels."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < MIN_PERSON_WIDTH or self.height < MIN_PERSON_HEIGHT:
            raise CameraError(
                f"a person of {self.width}x{self.height} pixels is too small to detect, "
                f"at least {MIN_PERSON_WIDTH}x{MIN_PERSON_HEIGHT} is needed"
            )


@dataclass(frozen=True)
class Camera:
    """A camera with its reference image, kept in the encoding it came in."""

    id: str
    person: PersonSize
    background: bytes

    def __post_init__(self) -> None:
        check_id(self.id)

    @property
    def digest(self) -> str:
        """Identifies the calibration and the reference image together."""
        size = f"{self.person.width}x{self.person.height}:".encode()
        return hashlib.sha256(size + self.background).hexdigest()
