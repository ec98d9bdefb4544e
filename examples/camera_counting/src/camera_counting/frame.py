"""An uploaded image, decoded into pixels."""

from io import BytesIO
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""RGB image: uint8 array (H, W, 3), values 0..255."""

MAX_BYTES = 8 * 1024 * 1024
MAX_PIXELS = 12_000_000

# Modes that hold at most 8 bits a channel. Pillow clips deeper ones on conversion.
_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"})


class ImageError(ValueError):
    """The upload is not an image this service can use."""


class ImageTooLargeError(ImageError):
    """The upload has more bytes or pixels than allowed."""


def decode(data: bytes) -> Pixels:
    """Decode a JPEG or PNG file into an RGB array (H, W, 3)."""
    if len(data) > MAX_BYTES:
        raise ImageTooLargeError(f"image is larger than {MAX_BYTES} bytes")
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            # Only the header is read so far: refuse before memory is taken.
            if image.width * image.height > MAX_PIXELS:
                raise ImageTooLargeError(
                    f"image of {image.width}x{image.height} has more than {MAX_PIXELS} pixels"
                )
            if image.mode not in _MODES:
                raise ImageError(f"image mode {image.mode} has more than 8 bits a channel")
            return np.asarray(image.convert("RGB"))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("image is neither JPEG nor PNG") from None
    except Image.DecompressionBombError:
        raise ImageTooLargeError(f"image has more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow reports a broken PNG chunk as SyntaxError.
        raise ImageError(f"image is damaged: {error}") from error
