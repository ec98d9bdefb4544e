import contextlib
import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from camera_counting import frame
from camera_counting.frame import ImageError, ImageTooLargeError, decode
from scene import Pixels, background, jpeg, png

pytestmark = pytest.mark.unit


def encoded(image: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_png_decodes_to_exactly_the_pixels_that_were_encoded() -> None:
    pixels = background()
    assert np.array_equal(decode(png(pixels)), pixels)


def test_jpeg_decodes_to_nearly_the_pixels_that_were_encoded() -> None:
    pixels = background()
    decoded = decode(jpeg(pixels, quality=95))
    assert decoded.shape == pixels.shape
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_8_bit_mode_becomes_three_channels(mode: str) -> None:
    assert decode(encoded(Image.new(mode, (20, 10)), "PNG")).shape == (10, 20, 3)


def test_16_bit_image_is_refused_instead_of_clipped() -> None:
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(ImageError, match="more than 8 bits"):
        decode(encoded(deep, "PNG"))


@pytest.mark.parametrize("data", [b"", b"no image", encoded(Image.new("RGB", (4, 4)), "GIF")])
def test_anything_but_jpeg_and_png_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="neither JPEG nor PNG"):
        decode(data)


@pytest.mark.parametrize("encode", [jpeg, png])
def test_truncated_file_is_refused_as_damaged(encode: Callable[[Pixels], bytes]) -> None:
    data = encode(background())
    with pytest.raises(ImageError, match="damaged"):
        decode(data[: len(data) // 2])


def test_flipped_bytes_never_raise_anything_but_an_image_error() -> None:
    random = np.random.default_rng(3)
    small = background()[:64, :64]
    for data in (jpeg(small), png(small)) * 100:
        broken = bytearray(data)
        for place in random.integers(len(broken), size=8):
            broken[place] ^= int(random.integers(1, 256))
        with contextlib.suppress(ImageError):
            decode(bytes(broken))


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ImageTooLargeError, match="bytes"):
        decode(bytes(frame.MAX_BYTES + 1))


@pytest.mark.parametrize("size", [(4001, 3000), (30_000, 30_000)])
def test_too_many_pixels_are_refused_from_the_header_alone(size: tuple[int, int]) -> None:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    with pytest.raises(ImageTooLargeError, match="pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
