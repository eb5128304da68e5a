"""Encode pictures and videos for loggers."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rlkl.training.report import Video


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Return a picture `[H, W, 3]` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def gif_bytes(video: Video) -> bytes:
    """Return a video as an animated GIF file; its times are in hundredths of a second."""
    first, *others = [Image.fromarray(frame) for frame in video.frames]
    buffer = io.BytesIO()
    duration = max(20, round(1000 / video.fps))  # browsers play shorter ones slowly
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return buffer.getvalue()
