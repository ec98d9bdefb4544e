"""Renders views of a fixed camera: a paved square in front of a wall, with passers-by.

The pictures have what a real camera delivers and a detector stumbles over: texture at
several scales, sensor noise, exposure drift, soft shadows, and JPEG artifacts.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""RGB image: uint8 array (H, W, 3)."""

WIDTH, HEIGHT = 640, 480
PERSON_WIDTH, PERSON_HEIGHT = 30, 92

# Figures are drawn this much larger and scaled down, which softens their edges.
_SCALE = 4

_SHIRTS = ((176, 42, 38), (36, 74, 150), (226, 222, 210), (30, 32, 38), (212, 158, 40))
_TROUSERS = ((34, 40, 62), (26, 26, 28), (92, 76, 58), (62, 66, 74))
_SKINS = ((224, 180, 150), (150, 104, 76), (92, 62, 46))


@dataclass(frozen=True)
class Figure:
    """A person standing or walking; x and y are the point between the feet in pixels."""

    x: int
    y: int
    stride: float = 0.5
    clothes: int = 0
    shadow: float = 0.0
    """Share of the light that the cast shadow takes away."""


@cache
def background(seed: int = 7) -> Pixels:
    """The view without people (HEIGHT, WIDTH, 3), before sensor noise; one read-only picture."""
    random = np.random.default_rng(seed)
    ground = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    for cells, strength in ((6, 9.0), (40, 6.0), (160, 7.0)):
        coarse = random.normal(0, strength, (cells * HEIGHT // WIDTH, cells)).astype(np.float32)
        ground += np.asarray(
            Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        )
    view = np.asarray((132, 126, 118), dtype=np.float32) + ground[:, :, np.newaxis]

    # Joints between the paving slabs, closer together in the distance.
    wall_bottom = HEIGHT // 5
    for depth in np.linspace(0, 1, 14) ** 2:
        row = round(wall_bottom + depth * (HEIGHT - 1 - wall_bottom))
        view[row : row + 2] -= 28
    view[:wall_bottom] += np.asarray((22, -4, -22), dtype=np.float32)
    for row in range(0, wall_bottom, 12):
        view[row] -= 30
    for column in range(60, WIDTH, 150):
        view[20 : wall_bottom - 20, column : column + 60] = (54, 66, 78)
    # A lamp lights the square unevenly.
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    view *= (1.12 - 0.3 * np.hypot(xx / WIDTH - 0.4, yy / HEIGHT - 0.5))[:, :, np.newaxis]
    pixels: Pixels = np.clip(view, 0, 255).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def frame(
    *figures: Figure,
    view: Pixels | None = None,
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0),
    noise: float = 3.0,
    seed: int = 1,
) -> Pixels:
    """The view with figures in it, seen by a sensor with this gain a channel and noise (sigma)."""
    image = Image.fromarray(background() if view is None else view)
    for figure in sorted(figures, key=lambda each: each.y):
        image = _with_shadow(image, figure)
        body = _body(figure)
        image.paste(body, (figure.x - body.width // 2, figure.y - body.height), body)
    light = np.asarray(image, dtype=np.float32) * np.asarray(gain, dtype=np.float32)
    light += noise * _grain(seed)
    return np.clip(light, 0, 255).astype(np.uint8)


@lru_cache(maxsize=16)
def _grain(seed: int) -> npt.NDArray[np.float32]:
    """What the sensor adds to each channel of each pixel (HEIGHT, WIDTH, 3), with a sigma of 1."""
    shape = (HEIGHT, WIDTH, 3)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def jpeg(pixels: Pixels, quality: int = 85) -> bytes:
    """The picture as a camera would send it."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def png(pixels: Pixels) -> bytes:
    """The picture without loss."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def crowd(count: int, seed: int) -> list[Figure]:
    """Figures at random places where they do not hide one another."""
    random = np.random.default_rng(seed)
    columns, rows = WIDTH // (2 * PERSON_WIDTH), 3
    places = random.choice(columns * rows, size=count, replace=False)
    return [
        Figure(
            x=int((place % columns + 0.5) * 2 * PERSON_WIDTH),
            y=int(HEIGHT - 8 - (place // columns) * 1.35 * PERSON_HEIGHT),
            stride=float(random.uniform(0.1, 0.9)),
            clothes=int(random.integers(60)),
        )
        for place in places
    ]


def _body(figure: Figure) -> Image.Image:
    """RGBA picture of one person, feet at the bottom."""
    width, height = 2 * PERSON_WIDTH * _SCALE, PERSON_HEIGHT * _SCALE
    image = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(image)
    shirt = _SHIRTS[figure.clothes % len(_SHIRTS)]
    trousers = _TROUSERS[figure.clothes % len(_TROUSERS)]
    skin = _SKINS[figure.clothes % len(_SKINS)]
    middle, step = width / 2, figure.stride * PERSON_WIDTH * _SCALE * 0.36

    def limb(colour: tuple[int, int, int], points: list[tuple[float, float]], thick: float) -> None:
        places = [(middle + x, y * height) for x, y in points]
        draw.line(places, fill=colour, width=round(thick * height), joint="curve")
        x, y = places[-1]
        radius = thick * height / 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    for side in (-1, 1):
        hip = side * 0.028 * height
        limb(
            trousers,
            [(hip, 0.5), (hip + side * step * 0.5, 0.74), (hip + side * step, 0.96)],
            0.085,
        )
        foot = middle + hip + side * step
        draw.ellipse(
            (foot - 0.05 * height, 0.955 * height, foot + 0.06 * height, height), fill=(28, 24, 22)
        )
        shoulder = side * 0.1 * height
        limb(
            shirt,
            [
                (shoulder, 0.21),
                (shoulder + side * step * 0.3, 0.38),
                (shoulder - side * step * 0.3, 0.52),
            ],
            0.055,
        )
    draw.rounded_rectangle(
        (middle - 0.12 * height, 0.165 * height, middle + 0.12 * height, 0.53 * height),
        radius=0.06 * height,
        fill=shirt,
    )
    draw.rectangle(
        (middle - 0.025 * height, 0.12 * height, middle + 0.025 * height, 0.18 * height), fill=skin
    )
    draw.ellipse(
        (middle - 0.055 * height, 0.02 * height, middle + 0.055 * height, 0.15 * height), fill=skin
    )
    draw.chord(
        (middle - 0.06 * height, 0, middle + 0.06 * height, 0.14 * height),
        180,
        360,
        fill=(44, 32, 24),
    )
    return image.resize((width // _SCALE, height // _SCALE), Image.Resampling.LANCZOS)


def _with_shadow(image: Image.Image, figure: Figure) -> Image.Image:
    """The picture with the figure's shadow lying to the right on the ground."""
    if not figure.shadow:
        return image
    mask = Image.new("L", image.size)
    x, y = figure.x, figure.y
    ImageDraw.Draw(mask).polygon(
        [(x - 8, y), (x + 8, y), (x + 100, y - 22), (x + 92, y - 36), (x + 78, y - 34)],
        fill=round(255 * figure.shadow),
    )
    soft = mask.filter(ImageFilter.GaussianBlur(2))
    return Image.composite(Image.new("RGB", image.size), image, soft)
