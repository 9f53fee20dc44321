"""How one frame, its flow and its mask become bytes.

Image: JPEG. Flow: half precision on a grid of every ``stride``-th pixel, then without loss: numbers of equal order as the
halves, differences along rows and columns, small ones of both signs near 0, low bytes before high bytes, Zstandard.
Mask: one bit a pixel, first pixel in the highest bit, in the same Zstandard frame.
"""

from __future__ import annotations

import cv2
import numpy as np
import zstandard
from numpy.typing import NDArray

from laparoflow.video.flow import Flow, Image, Mask

LARGEST_HALF = float(np.finfo(np.float16).max)
SIGN = np.uint16(0x8000)


def encode_image(image: Image, quality: int) -> bytes:
    """JPEG of uint8 [H, W, 3] RGB; ``quality`` from 1 to 100."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode a picture of shape {image.shape} as JPEG")
    return data.tobytes()


def decode_image(data: bytes) -> Image:
    """uint8 [H, W, 3] RGB of a JPEG."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("not a JPEG")
    return np.asarray(image, np.uint8)


def grid_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Rows and columns of the grid that the flow of an H x W frame is stored on."""
    return -(-height // stride), -(-width // stride)


def _ordered(half: NDArray[np.float16]) -> NDArray[np.uint16]:
    bits = half.view(np.uint16)
    return np.where(bits & SIGN, SIGN - (bits & ~SIGN), SIGN + bits).astype(np.uint16)


def _halves(ordered: NDArray[np.uint16]) -> NDArray[np.float16]:
    return np.where(ordered < SIGN, (SIGN - ordered) | SIGN, ordered - SIGN).astype(np.uint16).view(np.float16)


VALUES = _halves(np.arange(1 << 16, dtype=np.uint16)).astype(np.float32)
"""The number that each of the ordered halves stands for."""


def encode_flow(flow: Flow, valid: Mask, stride: int) -> bytes:
    """Bytes of flow float32 [C, H, W] in pixels (0 where it is not finite) and its mask bool [H, W]."""
    rows, columns = grid_size(flow.shape[1], flow.shape[2], stride)
    flow = np.clip(np.nan_to_num(flow, posinf=0.0, neginf=0.0), -LARGEST_HALF, LARGEST_HALF)
    flow = np.stack([cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_AREA) for plane in flow])
    numbers = _ordered(flow.astype(np.float16))
    for axis in (2, 1):
        numbers = np.diff(numbers, axis=axis, prepend=np.uint16(0)).astype(np.uint16)
    signed = numbers.view(np.int16)
    small = ((signed << 1) ^ (signed >> 15)).astype("<i2")
    planes = np.frombuffer(small.tobytes(), np.uint8).reshape(-1, 2).T
    return zstandard.ZstdCompressor(level=3).compress(planes.tobytes() + np.packbits(valid, axis=-1).tobytes())


def decode_flow(data: bytes, channels: int, height: int, width: int, stride: int) -> tuple[Flow, Mask]:
    """Flow float32 [C, H, W], read between the stored vectors bilinearly, and mask bool [H, W]."""
    rows, columns = grid_size(height, width, stride)
    content = np.frombuffer(zstandard.ZstdDecompressor().decompress(data), np.uint8)
    count = channels * rows * columns
    small = np.ascontiguousarray(content[: 2 * count].reshape(2, count).T).view("<u2").reshape(channels, rows, columns)
    numbers = (small >> 1) ^ (0 - (small & 1)).astype(np.uint16)
    for axis in (1, 2):
        numbers = np.cumsum(numbers, axis=axis, dtype=np.uint16)
    flow = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in VALUES[numbers]])
    valid = np.unpackbits(content[2 * count :].reshape(height, -1), axis=-1, count=width).astype(bool)
    return flow, valid
