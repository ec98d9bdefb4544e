"""People in a frame, found by comparing it with the camera's empty view.

The steps: average blocks of pixels to a scale set by the size of a person, undo the
change of light, keep what differs from the background by more than the noise, drop
shadows, clean the mask, and read boxes of the right size from what is connected.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from camera_counting.camera import Camera, CameraError, PersonSize
from camera_counting.frame import ImageError, Pixels, decode
from camera_counting.regions import Mask, closed, label, opened, window_mean

Light: TypeAlias = npt.NDArray[np.float32]
"""Block averages of an image: float32 array (h, w, 3), values 0..255."""

# Width in blocks that a person is reduced to. Enough to tell legs from noise, and
# the cost no longer grows with the resolution of the camera.
_PERSON_BLOCKS = 12

# Standard deviation of normal noise over its median absolute deviation.
_MAD_TO_SIGMA = 1.4826

# Grey levels. Below this the noise estimate is only rounding.
_NOISE_FLOOR = 2.0

# In standard deviations of the noise.
_CHANGE = 6.0
_SHADOW_MISFIT = 2.0

# Share of the light that a shadow lets through.
_SHADOW_DARKEST = 0.4
_SHADOW_RADIUS = 1

# Accepted size as a multiple of the calibrated person. The width includes a stride.
_WIDTH_RANGE = (0.4, 1.6)
_HEIGHT_RANGE = (0.55, 1.45)

# How far from an equal share a group may be cut, as a part of the share.
_CUT_REACH = 0.35


@dataclass(frozen=True)
class Box:
    """A person in the frame: pixels from the top left corner.

    The score is 1 for exactly the calibrated size and falls towards 0 with the deviation.
    """

    x: int
    y: int
    width: int
    height: int
    score: float


@dataclass(frozen=True, eq=False)
class Detector:
    """Finds people in the frames of one camera."""

    person: PersonSize
    frame_shape: tuple[int, ...]
    block: int
    background: Light

    @classmethod
    def for_camera(cls, camera: Camera) -> "Detector":
        """Prepare the camera's reference image once for all its frames."""
        pixels = decode(camera.background)
        height, width, _ = pixels.shape
        person = camera.person
        if person.width > width or person.height > height:
            raise CameraError(
                f"a person of {person.width}x{person.height} pixels "
                f"does not fit into an image of {width}x{height}"
            )
        block = max(1, person.width // _PERSON_BLOCKS)
        return cls(person, pixels.shape, block, _block_means(pixels, block))

    def detect(self, frame: Pixels) -> list[Box]:
        """Boxes of the people in a frame (H, W, 3), from left to right."""
        if frame.shape != self.frame_shape:
            raise ImageError(
                f"frame is {frame.shape[1]}x{frame.shape[0]}, "
                f"the camera's background is {self.frame_shape[1]}x{self.frame_shape[0]}"
            )
        mask = self._foreground(_block_means(frame, self.block))
        mask = opened(mask, 1, 1)
        # A person breaks between head, trunk and legs rather than sideways, and
        # closing sideways would glue neighbours together.
        mask = closed(mask, max(1, self.person.height // self.block // 10), 1)
        boxes = [self._box(*region) for region in self._people(mask)]
        return sorted(boxes, key=lambda box: (box.x, box.y))

    def _foreground(self, light: Light) -> Mask:
        """Where the frame differs from the background by more than noise and shadow."""
        # The median ignores the people as long as they cover less than half the view.
        # One gain a channel follows both exposure and white balance.
        # Every second block is sample enough for both medians.
        gain = np.median((light / np.maximum(self.background, 1))[::2, ::2], axis=(0, 1))
        expected = np.minimum(self.background * gain, 255)
        residual = light - expected
        noise = _MAD_TO_SIGMA * np.median(np.abs(residual[::2, ::2]), axis=(0, 1))
        noise = np.maximum(noise, _NOISE_FLOOR)

        changed: Mask = np.square(residual / noise).sum(axis=2) > _CHANGE**2
        return changed & ~_shadow(light, expected, noise)

    def _people(self, mask: Mask) -> Iterator[tuple[int, int, int, int]]:
        """Left, top, right, bottom in blocks (end exclusive) of each person-sized region."""
        width, height = self.person.width / self.block, self.person.height / self.block
        labels, count = label(mask)
        areas = np.bincount(labels.ravel(), minlength=count + 1)
        # Specks far smaller than the smallest accepted person are not worth a closer look.
        for component in np.flatnonzero(areas[1:] >= 0.1 * width * height) + 1:
            region = labels == component
            # Rows first: two people one behind the other are often wide as a region, too.
            for row in _cut(region, height, _HEIGHT_RANGE[1], axis=0):
                for person in _cut(row, width, _WIDTH_RANGE[1], axis=1):
                    left, top, right, bottom = _bounds(person)
                    if self._is_person(right - left, bottom - top):
                        yield left, top, right, bottom

    def _is_person(self, width: int, height: int) -> bool:
        """Whether a region of this size in blocks can be one person."""
        relative_width = width * self.block / self.person.width
        relative_height = height * self.block / self.person.height
        return (
            _WIDTH_RANGE[0] <= relative_width <= _WIDTH_RANGE[1]
            and _HEIGHT_RANGE[0] <= relative_height <= _HEIGHT_RANGE[1]
            and height > width
        )

    def _box(self, left: int, top: int, right: int, bottom: int) -> Box:
        """The region in pixels of the frame, with its score."""
        width, height = (right - left) * self.block, (bottom - top) * self.block
        likeness = min(width / self.person.width, self.person.width / width) * min(
            height / self.person.height, self.person.height / height
        )
        return Box(left * self.block, top * self.block, width, height, round(likeness**0.5, 3))


def _block_means(pixels: Pixels, block: int) -> Light:
    """Average (block, block) pixels; an incomplete block at the far borders is left out."""
    height, width = (size // block * block for size in pixels.shape[:2])
    pixels = pixels[:height, :width]
    if block == 1:
        return pixels.astype(np.float32)
    # Adding strided views is several times faster than mean() over a reshaped array.
    rows = np.zeros((height // block, width, 3), dtype=np.uint32)
    for offset in range(block):
        rows += pixels[offset::block]
    sums = np.zeros((height // block, width // block, 3), dtype=np.uint32)
    for offset in range(block):
        sums += rows[:, offset::block]
    return sums.astype(np.float32) / np.float32(block**2)


def _shadow(light: Light, expected: Light, noise: npt.NDArray[np.floating]) -> Mask:
    """Where the frame is the background dimmed by one factor.

    A shadow takes the same share from every channel and leaves the texture standing;
    clothes bring a colour and a texture of their own.
    """
    seen = window_mean(light.sum(axis=2), _SHADOW_RADIUS)
    passed = seen / np.maximum(window_mean(expected.sum(axis=2), _SHADOW_RADIUS), 1)
    misfit = np.square((light - passed[:, :, np.newaxis] * expected) / noise).mean(axis=2)
    similar = window_mean(misfit, _SHADOW_RADIUS) < _SHADOW_MISFIT**2
    return similar & (passed > _SHADOW_DARKEST) & (passed < 1)


def _cut(region: Mask, size: float, limit: float, axis: int) -> Iterator[Mask]:
    """Parts of a region that is longer along the axis than `limit` people of this size.

    A group is cut where it is thinnest near the places that equal shares would give.
    """
    profile = np.count_nonzero(region, axis=1 - axis)
    filled = np.flatnonzero(profile)
    begin, end = int(filled[0]), int(filled[-1]) + 1
    people = max(2, round((end - begin) / size)) if end - begin > limit * size else 1
    share = (end - begin) / people
    cuts = [begin]
    for number in range(1, people):
        near = slice(
            begin + round((number - _CUT_REACH) * share),
            begin + round((number + _CUT_REACH) * share),
        )
        cuts.append(near.start + int(np.argmin(profile[near])))
    places = np.arange(profile.size, dtype=np.intp).reshape((-1, 1) if axis == 0 else (1, -1))
    for first, stop in pairwise([*cuts, end]):
        part: Mask = region & (places >= first) & (places < stop)
        # A cut across may have left gaps along this axis, as between the legs of an A.
        if part.any():
            yield part


def _bounds(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (end exclusive) of the set pixels; there is at least one."""
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
