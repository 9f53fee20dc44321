"""Flow and its mask against motion that is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_small

from laparoflow.synthetic import IGNORE_INDEX, render_clip
from laparoflow.synthetic.parameters import DEFAULT
from laparoflow.synthetic.textures import band_noise
from laparoflow.video.flow import DISFlow, FlowPair, consistency_mask, warp_by_flow
from laparoflow.video.motion import relative_motion, without_camera_motion
from laparoflow.video.raft import RAFTFlow, load_raft


def test_dis_finds_a_shift_with_its_sign():
    noise = band_noise(np.random.default_rng(0), 120, 160, wavelength=12.0)
    texture = np.clip(128 + 50 * noise, 0, 255).astype(np.uint8)
    source = np.repeat(texture[..., None], 3, 2)
    target = np.roll(source, (2, 3), axis=(0, 1))  # what was at x is now at x + 3, y + 2
    pair = DISFlow()(source, target)
    assert np.allclose(np.median(pair.forward[:, 20:-20, 20:-20], axis=(1, 2)), (3, 2), atol=0.1)
    assert np.allclose(np.median(pair.backward[:, 20:-20, 20:-20], axis=(1, 2)), (-3, -2), atol=0.1)


def test_dis_on_the_synthetic_scene_is_near_the_truth_where_it_says_so():
    clip = render_clip(DEFAULT, 3, seed=1)
    visible = clip.masks[0] != IGNORE_INDEX
    pair = DISFlow()(clip.images[0], clip.images[1])
    valid = consistency_mask(pair, visible)
    error = np.linalg.norm(pair.forward - clip.flow[0], axis=0)
    soft = valid & (clip.masks[0] < 3)
    assert valid[visible].mean() > 0.7
    assert np.median(error[soft]) < 0.3
    assert np.percentile(error[soft], 90) < 2.0
    assert not valid[~visible].any()


def test_fine_is_finer_on_small_frames():
    errors = {"medium": [], "fine": []}
    for seed in range(3):
        clip = render_clip(DEFAULT, 2, seed)
        moving = (clip.masks[0] > 0) & (clip.masks[0] != IGNORE_INDEX)
        for preset, found in errors.items():
            forward = DISFlow(preset)(clip.images[0], clip.images[1]).forward
            found.append(np.linalg.norm(forward - clip.flow[0], axis=0)[moving].mean())
    assert np.mean(errors["fine"]) < 0.75 * np.mean(errors["medium"])


def constant(dx: float, dy: float, height: int = 40, width: int = 50) -> np.ndarray:
    return np.broadcast_to(np.array([dx, dy], np.float32)[:, None, None], (2, height, width)).copy()


def test_consistency_mask_knows_each_reason():
    everywhere = np.ones((40, 50), bool)
    good = consistency_mask(FlowPair(constant(3, 0), constant(-3, 0)), everywhere)
    assert good[:, :47].all()
    assert not good[:, 47:].any()  # leaves the frame
    assert not consistency_mask(FlowPair(constant(3, 0), constant(3, 0)), everywhere).any()
    near = FlowPair(constant(3, 0), constant(-3.5, 0))
    assert consistency_mask(near, everywhere)[:, :46].all()
    assert not consistency_mask(near, everywhere, absolute=0.01).any()
    broken = constant(0, 0)
    broken[0, 5, 5] = np.nan
    mask = consistency_mask(FlowPair(broken, constant(0, 0)), everywhere)
    assert not mask[5, 5]
    assert mask.sum() == mask.size - 1
    hidden = everywhere.copy()
    hidden[:, 20] = False
    arriving = consistency_mask(FlowPair(constant(3, 0), constant(-3, 0)), hidden)
    assert not arriving[:, 17].any()
    assert not arriving[:, 20].any()
    assert arriving[:, 18].all()
    own = everywhere.copy()
    own[3] = False
    assert np.array_equal(consistency_mask(FlowPair(constant(0, 0), None, own), everywhere), own)


def test_warp_reads_the_target_where_flow_points():
    values = np.tile(np.arange(50, dtype=np.float32), (1, 40, 1))
    assert np.allclose(warp_by_flow(values, constant(2.5, 0))[0, :, :47], values[0, :, :47] + 2.5, atol=0.05)


def test_relative_motion_ignores_pan_and_needs_valid_pixels():
    valid = np.ones((60, 60), bool)
    flow = constant(7, -3, 60, 60)
    assert relative_motion(flow, valid) == 0.0
    flow[0, :, :20] += 2.0
    assert relative_motion(flow, valid) == pytest.approx(2.0)
    assert relative_motion(flow, np.zeros_like(valid)) == 0.0
    valid[:, :20] = False
    assert relative_motion(flow, valid) == 0.0


@pytest.mark.parametrize("model", ["similarity", "affine"])
def test_camera_motion_is_removed_and_the_rest_stays(model):
    height, width = 90, 120
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, scale = 0.03, 1.02
    camera = np.stack([
        scale * (np.cos(angle) * x - np.sin(angle) * y) + 4 - x, scale * (np.sin(angle) * x + np.cos(angle) * y) - 2 - y,
    ]).astype(np.float32)  # fmt: skip
    own = np.zeros_like(camera)
    own[0, 30:60, 40:70] = 3.0
    valid = np.ones((height, width), bool)
    left = without_camera_motion(camera + own, valid, model)
    assert np.abs(left - own).max() < 0.05
    assert np.array_equal(without_camera_motion(camera, np.zeros_like(valid), model), camera)


def test_raft_runs_from_a_local_file(tmp_path):
    """No trained weights here: the result is that of torchvision's network on the padded frames."""
    torch.manual_seed(0)
    network = raft_small(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 255, (2, 100, 131, 3), dtype=np.uint8)
    pair = RAFTFlow(tmp_path / "raft.pth", updates=2)(source, target)
    assert pair.forward.shape == (2, 100, 131)
    padded = [cv2.copyMakeBorder(image, 0, 28, 0, 5, cv2.BORDER_REPLICATE) for image in (source, target)]
    first, second = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in padded)
    with torch.inference_mode():
        forward = network(first, second, num_flow_updates=2)[-1][0, :, :100, :131].numpy()
        backward = network(second, first, num_flow_updates=2)[-1][0, :, :100, :131].numpy()
    assert np.allclose(pair.forward, forward, atol=1e-3)
    assert np.allclose(pair.backward, backward, atol=1e-3)


def test_raft_weights_that_are_none_are_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_raft(tmp_path / "absent.pth")
    (tmp_path / "noise.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"noise\.pth"):
        load_raft(tmp_path / "noise.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="neither"):
        load_raft(tmp_path / "other.pth")
