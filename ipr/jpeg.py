"""Parts of JPEG pictures by libjpeg-turbo, where it was at hand when the operators were built."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

PATH = Path(__file__).resolve().parent / "lib" / "libipr_jpeg.so"
_MESSAGE_BYTES = 200
_OTHERS = 1  # what ipr_jpeg_region() says of pictures that it leaves to others


class JpegError(ValueError):
    """A picture that libjpeg-turbo cannot decode; the message says why."""


def _load() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError:  # not built, or libjpeg-turbo is gone since
        return None
    library.ipr_jpeg_version.restype = ctypes.c_char_p
    numbers = [ctypes.c_int64] * 4
    library.ipr_jpeg_region.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_int32, *numbers]
    library.ipr_jpeg_region.argtypes += [ctypes.c_void_p, ctypes.c_char_p]
    return library


LIBRARY = _load()


def describe() -> str:
    """What decodes JPEG files."""
    if LIBRARY is None:
        return "OpenCV, whole pictures (no libjpeg-turbo with headers was found by the build)"
    return f"{LIBRARY.ipr_jpeg_version().decode()}, the part that is needed"


def decode_region(data: bytes, step: int, left: int, top: int, width: int, height: int) -> np.ndarray | None:
    """uint8 [height, width, 3] RGB, a region of the picture ``step`` (1, 2, 4, 8) times smaller.

    The pixels are those of OpenCV. None where it must be asked: for pictures of four components, and where
    there is no library. JpegError where the picture cannot be decoded.
    """
    if LIBRARY is None:
        return None
    rgb = np.empty((height, width, 3), np.uint8)
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    outcome = LIBRARY.ipr_jpeg_region(
        data, len(data), step, left, top, width, height, rgb.ctypes.data, message
    )
    if outcome == _OTHERS:
        return None
    if outcome:
        raise JpegError(message.value.decode(errors="replace"))
    return rgb
