"""Batched photometrics equal torchvision's one-factor functions, frame by frame."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as v2

from laparoflow.views.photometric import PhotometricSettings, _blend, adjust_hue, blur, photometric

IMAGES = torch.rand(4, 3, 20, 24, generator=torch.Generator().manual_seed(0))
OFF = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hue_equals_torchvision():
    shifts = torch.tensor([0.0, 0.3, -0.45, 0.5])
    result = adjust_hue(IMAGES, shifts.reshape(4, 1, 1))
    for image, shift, changed in zip(IMAGES, shifts, result, strict=True):
        assert torch.allclose(changed, v2.adjust_hue(image, float(shift)), atol=1e-5)
    grey = torch.full((1, 3, 4, 4), 0.5)
    assert torch.allclose(adjust_hue(grey, torch.tensor([[[0.3]]])), grey)


def test_blends_equal_torchvision():
    factors = torch.tensor([0.5, 0.9, 1.3, 1.9])
    shaped = factors.reshape(4, 1, 1, 1)
    grey = v2.rgb_to_grayscale(IMAGES)
    bright = _blend(IMAGES, torch.zeros_like(IMAGES), shaped)
    contrast = _blend(IMAGES, grey.mean(dim=(1, 2, 3), keepdim=True), shaped)
    saturated = _blend(IMAGES, grey, shaped)
    for k, factor in enumerate(factors.tolist()):
        assert torch.allclose(bright[k], v2.adjust_brightness(IMAGES[k], factor), atol=1e-6)
        assert torch.allclose(contrast[k], v2.adjust_contrast(IMAGES[k], factor), atol=1e-5)
        assert torch.allclose(saturated[k], v2.adjust_saturation(IMAGES[k], factor), atol=1e-6)


def test_blur_equals_torchvision():
    sigmas = torch.tensor([0.3, 0.8, 1.5, 2.0])
    result = blur(IMAGES, sigmas, radius=4)
    for image, sigma, changed in zip(IMAGES, sigmas, result, strict=True):
        assert torch.allclose(changed, v2.gaussian_blur(image, [9, 9], [float(sigma)] * 2), atol=1e-5)


def test_everything_off_changes_nothing():
    assert torch.equal(photometric(IMAGES, PhotometricSettings(**OFF), generator()), IMAGES)


def test_grey_for_all():
    result = photometric(IMAGES, PhotometricSettings(**{**OFF, "grey": 1.0}), generator())
    assert torch.allclose(result, v2.rgb_to_grayscale(IMAGES, 3))


def test_repeatable_different_per_frame_and_input_kept():
    same = IMAGES[:1].expand(4, -1, -1, -1)
    before = same.clone()
    settings = PhotometricSettings(jitter=1.0, hue=0.2)
    first, again = (photometric(same, settings, generator(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(same, before)
    assert (first[0] - first[1]).abs().max() > 0.01
    assert first.amin() >= 0
    assert first.amax() <= 1


@pytest.mark.parametrize("change", [{"hue": 0.7}, {"jitter": -0.1}, {"contrast": 2.0}, {"blur_sigma": (0.0, 1.0)}])
def test_settings_out_of_range_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        PhotometricSettings(**change)
