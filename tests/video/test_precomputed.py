"""Flow from files: formats, sizes, validity."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from laparoflow.video.precomputed import PrecomputedFlow, read_flow

SIZE = (20, 30)
IMAGE = np.zeros((*SIZE, 3), np.uint8)


def some_flow(seed: int = 0, size=SIZE) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 5, (2, *size)).astype(np.float32)


def write_flo(path, flow) -> None:
    assert cv2.writeOpticalFlow(str(path), np.ascontiguousarray(flow.transpose(1, 2, 0)))


def write_kitti(path, flow, valid) -> None:
    stored = np.stack(
        [
            valid.astype(np.uint16),
            *(np.rint(plane.astype(np.float64) * 64 + 2**15).astype(np.uint16) for plane in flow[::-1]),
        ],
        -1,
    )
    assert cv2.imwrite(str(path), stored)


def test_formats(tmp_path):
    flow = some_flow()
    valid = np.random.default_rng(1).random(SIZE) > 0.3
    write_flo(tmp_path / "a.flo", np.where(valid, flow, 1e10).astype(np.float32))
    write_kitti(tmp_path / "a.png", flow, valid)
    np.savez(tmp_path / "a.npz", flow=flow.transpose(1, 2, 0), valid=valid)
    for suffix, tolerance in ((".flo", 0.0), (".png", 1 / 128 + 1e-6), (".npz", 0.0)):
        read, where = read_flow(tmp_path / f"a{suffix}")
        assert np.array_equal(where, valid), suffix
        assert np.abs(read - flow)[:, valid].max() <= tolerance, suffix


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "a.flo").write_bytes(b"x" * 40)
    (tmp_path / "b.png").write_bytes(b"x" * 40)
    np.savez(tmp_path / "c.npz", motion=some_flow())
    np.savez(tmp_path / "d.npz", flow=np.zeros((3, 4, 5)))
    write_flo(tmp_path / "e.flo", some_flow())
    (tmp_path / "e.flo").write_bytes((tmp_path / "e.flo").read_bytes()[:-8])
    (tmp_path / "f.txt").write_text("no")
    whole = (tmp_path / "e.flo").read_bytes()
    (tmp_path / "g.flo").write_bytes(whole + bytes(16))
    (tmp_path / "h.flo").write_bytes(whole[:4] + np.array([-4, 3], "<i4").tobytes() + whole[12:])
    (tmp_path / "i.flo").write_bytes(whole[:4] + np.array([2**30, 2**30], "<i4").tobytes() + whole[12:])
    for name in ("a.flo", "b.png", "c.npz", "d.npz", "e.flo", "f.txt", "g.flo", "h.flo", "i.flo"):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            read_flow(tmp_path / name)


def test_frames_of_a_clip(tmp_path):
    (tmp_path / "clip").mkdir()
    flow, back = some_flow(0), some_flow(1)
    write_flo(tmp_path / "clip" / "000003.flo", flow)
    write_flo(tmp_path / "clip" / "000003_backward.flo", back)
    write_flo(tmp_path / "clip" / "000004.flo", flow)
    reader = PrecomputedFlow(tmp_path, "clip", (0, 0, 30, 20), SIZE)
    pair = reader(IMAGE, IMAGE, 3)
    assert np.array_equal(pair.forward, flow)
    assert np.array_equal(pair.backward, back)
    assert reader(IMAGE, IMAGE, 4).backward is None
    absent = reader(IMAGE, IMAGE, 5)
    assert absent.valid is not None
    assert not absent.valid.any()
    with pytest.raises(ValueError, match="holds no flow for clip"):
        PrecomputedFlow(tmp_path, "other", (0, 0, 30, 20), SIZE)


def test_bundle_and_scaling(tmp_path):
    """Source-size flow is cropped and scaled with the frame, its vectors too; invalid pixels do not bleed."""
    flow = np.zeros((2, 2, 40, 60), np.float32)
    flow[:, 0], flow[:, 1] = 6.0, -4.0
    flow[1, :, :, 30:] = np.nan
    np.savez(tmp_path / "clip.npz", flow=flow)
    reader = PrecomputedFlow(tmp_path, "clip", (10, 0, 50, 40), (40, 60))
    small = np.zeros((20, 10, 3), np.uint8)
    pair = reader(small, small, 0)
    assert pair.forward.shape == (2, 20, 10)
    assert np.allclose(pair.forward[0], 6.0 * 10 / 40)
    assert np.allclose(pair.forward[1], -4.0 * 20 / 40)
    half = reader(small, small, 1)
    assert half.valid is not None
    assert half.valid[:, :5].all()
    assert not half.valid[:, 5:].any()
    assert np.allclose(half.forward[0][half.valid], 1.5)
    with pytest.raises(ValueError, match="size of the source frame"):
        PrecomputedFlow(tmp_path, "clip", (0, 0, 30, 20), (20, 30))(IMAGE[:10], IMAGE[:10], 0)
