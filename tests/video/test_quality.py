"""Judging frames and pairs."""

from __future__ import annotations

import numpy as np
import pytest
from footage import frames_of

from laparoflow.video.flow import DISFlow, consistency_mask
from laparoflow.video.quality import detail_correlation, is_black, is_frozen, pair_problem

EVERYWHERE = np.ones((96, 128), bool)


def judged(source, target, preset="medium"):
    pair = DISFlow(preset)(source, target)
    visible = source.max(-1) > 30
    valid = consistency_mask(pair, visible)
    return pair_problem(source, target, pair.forward, valid, visible), pair.forward


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
@pytest.mark.parametrize("seed", range(4))
def test_cuts_between_alike_scenes_are_told_from_motion(seed, preset):
    """The scenes share vignette, border and palette; only their detail differs."""
    first, second = frames_of(5, seed), frames_of(1, seed + 50)
    assert judged(first[0], second[0], preset)[0] == "scene cut"
    assert judged(first[0], first[1], preset)[0] is None
    assert judged(first[0], first[4], preset)[0] is None  # motion of several pixels


def test_detail_correlation_has_its_ends():
    frame = frames_of(1)[0]
    still = np.zeros((2, 96, 128), np.float32)
    assert detail_correlation(frame, frame, still, EVERYWHERE) == pytest.approx(1.0)
    assert detail_correlation(frame, 255 - frame, still, EVERYWHERE) < -0.9
    assert detail_correlation(np.zeros_like(frame), frame, still, EVERYWHERE) == 1.0  # nothing to disagree about


def test_black_and_frozen():
    frame = frames_of(1)[0]
    assert not is_black(frame, EVERYWHERE)
    assert is_black(frame // 16, EVERYWHERE)
    assert is_black(frame, np.zeros_like(EVERYWHERE))
    assert is_frozen(frame, frame, EVERYWHERE)
    noise = np.random.default_rng(0).normal(0, 1.5, frame.shape)
    assert not is_frozen(frame, np.clip(frame + noise, 0, 255).astype(np.uint8), EVERYWHERE)
