"""Finding the circle or bars around what an endoscope shows."""

from __future__ import annotations

import numpy as np
import pytest

from laparoflow.video.border import Border, detect_border


def view(height: int, width: int, circle=None, box=None, seed: int = 0) -> np.ndarray:
    """A textured frame uint8 [H, W, 3], dark outside a circle or box, with sensor noise everywhere."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(60, 220, (height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    shown = np.ones((height, width), bool)
    if circle:
        shown &= (x - circle[0]) ** 2 + (y - circle[1]) ** 2 <= circle[2] ** 2
    if box:
        shown &= (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    frame[~shown] = rng.integers(0, 12, (int((~shown).sum()), 3))
    return frame.astype(np.uint8)


@pytest.mark.parametrize(
    "circle", [(159.5, 119.5, 110.0), (159.5, 119.5, 170.0), (150.0, 135.0, 160.0), (100.0, 119.5, 140.0)]
)
def test_circle_is_found_to_a_pixel(circle):
    border = detect_border([view(240, 320, circle, seed=s) for s in range(3)])
    assert border.circle is not None
    assert np.allclose(border.circle, circle, atol=1.0)
    x, y, radius = circle
    expected = (max(0, x - radius), max(0, y - radius), min(320, x + radius + 1), min(240, y + radius + 1))
    assert np.allclose(border.box, expected, atol=2)


def test_letterbox_is_a_box():
    border = detect_border([view(240, 320, box=(40, 0, 280, 240))])
    assert border == Border((40, 0, 280, 240), None)


def test_no_border_and_no_light():
    assert detect_border([view(240, 320)]) == Border((0, 0, 320, 240), None)
    assert detect_border([np.zeros((240, 320, 3), np.uint8)]) == Border((0, 0, 320, 240), None)


def test_text_outside_the_circle_does_not_matter():
    frames = [view(240, 320, (159.5, 119.5, 115.0), seed=s) for s in range(3)]
    for frame in frames:
        frame[5:20, 5:45] = 255
    border = detect_border(frames)
    assert border.circle is not None
    assert np.allclose(border.circle, (159.5, 119.5, 115.0), atol=1.5)


def test_a_dark_object_is_no_border():
    frame = view(240, 320)
    frame[80:160, 100:200] = 3
    assert detect_border([frame]).circle is None
    assert detect_border([frame]).box == (0, 0, 320, 240)


def test_mask_follows_crop_scale_and_margin():
    border = Border((40, 20, 280, 220), (159.5, 119.5, 100.0))
    full = border.mask(240, 320, (0, 0, 320, 240), 0.0)
    y, x = np.mgrid[0:240, 0:320]
    assert np.array_equal(full, (x - 159.5) ** 2 + (y - 119.5) ** 2 <= 100.0**2)
    half = border.mask(100, 120, (40, 20, 280, 220), 0.0)
    assert abs(half.sum() / (np.pi * 50**2) - 1) < 0.01
    shrunk = border.mask(100, 120, (40, 20, 280, 220), 5.0)
    assert abs(shrunk.sum() / (np.pi * 45**2) - 1) < 0.01
    bars = Border((40, 0, 280, 240)).mask(240, 320, (0, 0, 320, 240), 0.0)
    assert bars.sum() == 240 * 240
