"""The synthetic scene: repeatable, its flow true, its classes told by motion and not by colour."""

from __future__ import annotations

from dataclasses import asdict

import cv2
import numpy as np
import pytest

from laparoflow.synthetic import CLASSES, DEFAULT, HELD_OUT, IGNORE_INDEX, SceneParameters, render_clip


def warped_error(clip, t: int) -> np.ndarray:
    """Absolute difference [H, W] of frame t and frame t + 1 read where the true flow points."""
    height, width = clip.masks.shape[1:]
    x = np.arange(width, dtype=np.float32)[None] + clip.flow[t, 0]
    y = np.arange(height, dtype=np.float32)[:, None] + clip.flow[t, 1]
    back = cv2.remap(clip.images[t + 1], x, y, cv2.INTER_LINEAR)
    return np.abs(back.astype(np.float32) - clip.images[t]).mean(-1)


def test_shapes_and_dtypes():
    clip = render_clip(SceneParameters(height=64, width=80), frames=3, seed=1)
    assert clip.images.shape == (3, 64, 80, 3)
    assert clip.images.dtype == np.uint8
    assert clip.masks.shape == (3, 64, 80)
    assert clip.masks.dtype == np.uint8
    assert clip.flow.shape == (3, 2, 64, 80)
    assert clip.flow.dtype == np.float32
    assert clip.keypoints.shape == (3, 3, 3)
    assert set(np.unique(clip.masks)) <= {*range(len(CLASSES)), IGNORE_INDEX}


def test_same_seed_same_bytes_other_seed_other_clip():
    first, again, other = (render_clip(DEFAULT, 2, seed) for seed in (3, 3, 4))
    for name in ("images", "masks", "flow", "keypoints"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.images, other.images)


@pytest.mark.parametrize("params", [DEFAULT, HELD_OUT], ids=["default", "held_out"])
def test_true_flow_explains_the_next_frame(params):
    """With highlights and noise off, warping by the true flow leaves little; not moving, or moving back, much more."""
    calm = SceneParameters(**{**asdict(params), "sensor_noise": 0.0, "specular_strength": 0.0, "shading": 0.0})
    clip = render_clip(calm, 3, seed=5)
    seen = (clip.masks[0] != IGNORE_INDEX) & (
        cv2.erode((clip.masks[0] != IGNORE_INDEX).astype(np.uint8), np.ones((13, 13))) > 0
    )
    for label in range(len(CLASSES)):
        inner = seen & (cv2.erode((clip.masks[0] == label).astype(np.uint8), np.ones((7, 7))) > 0)
        if not inner.any():
            continue
        still = np.abs(clip.images[1].astype(np.float32) - clip.images[0]).mean(-1)
        true = np.median(warped_error(clip, 0)[inner])
        assert true < 0.5 * np.median(still[inner]), CLASSES[label]


@pytest.mark.parametrize("params", [DEFAULT, HELD_OUT], ids=["default", "held_out"])
def test_colour_does_not_tell_soft_classes_but_motion_does(params):
    """Nearest class mean, fitted and scored on the same frame: near chance with colour, near perfect with flow."""
    colour_scores, motion_scores = [], []
    for seed in range(6):
        clip = render_clip(params, 1, seed)
        mask = clip.masks[0]
        labels = [label for label in (0, 1, 2) if (mask == label).sum() > 50]
        picks = [np.flatnonzero(mask == label) for label in labels]
        smallest = min(map(len, picks))
        picks = [np.random.default_rng(0).choice(pick, smallest, replace=False) for pick in picks]
        for values, scores in (
            (clip.images[0].reshape(-1, 3).astype(np.float64), colour_scores),
            (clip.flow[0].reshape(2, -1).T.astype(np.float64), motion_scores),
        ):
            means = np.stack([values[pick].mean(0) for pick in picks])
            right = [
                (np.linalg.norm(values[pick][:, None] - means, axis=-1).argmin(1) == k).mean()
                for k, pick in enumerate(picks)
            ]
            scores.append(np.mean(right))
    assert np.mean(colour_scores) < 0.5  # chance is a third
    assert np.mean(motion_scores) > 0.97


def test_organs_keep_moving_against_the_tissue():
    clip = render_clip(DEFAULT, 40, seed=2)
    for flow, mask in zip(clip.flow, clip.masks, strict=True):
        tissue = np.median(flow[:, mask == 0], axis=1)
        for label in (1, 2, 3):
            if (mask == label).sum() > 50:
                assert np.linalg.norm(np.median(flow[:, mask == label], axis=1) - tissue) > 0.8


def test_keypoints_lie_on_the_instrument_and_follow_its_flow():
    checked = 0
    for seed in range(4):
        clip = render_clip(DEFAULT, 4, seed)
        for t in range(3):
            for point, following in zip(clip.keypoints[t], clip.keypoints[t + 1], strict=True):
                if point[2] == 0:
                    continue
                x, y = np.rint(point[:2]).astype(int)
                around = clip.masks[t][max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
                assert 3 in around
                if clip.masks[t][y, x] == 3:
                    assert np.allclose(point[:2] + clip.flow[t][:, y, x], following[:2], atol=0.2)
                    checked += 1
    assert checked > 10


def test_border_is_dark_and_ignored():
    clip = render_clip(DEFAULT, 1, seed=0)
    outside = clip.masks[0] == IGNORE_INDEX
    assert 0.02 < outside.mean() < 0.5
    assert clip.images[0][outside].mean() < 10
    assert clip.images[0][~outside].mean() > 40
    assert not clip.flow[0][:, outside].any()
    open_view = render_clip(SceneParameters(border_radius=1.1), 1, seed=0)
    assert not (open_view.masks == IGNORE_INDEX).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 33}, "even"),
        ({"width": 8}, "at least 32"),
        ({"frame_rate": 0}, "frame_rate"),
        ({"organ_speed": (3.0, 1.0)}, "organ_speed"),
        ({"organ_orbit": (0.0, 1.0)}, "organ_orbit"),
        ({"wavelengths": (1.0, 6.0, 6.0)}, "wavelengths"),
    ],
)
def test_impossible_parameters_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SceneParameters(**change)


def test_no_frames_is_refused():
    with pytest.raises(ValueError, match="frames"):
        render_clip(DEFAULT, 0, 0)
