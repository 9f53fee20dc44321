from types import SimpleNamespace

import numpy as np
import pytest
import torch

from laparoflow.training.frames import CachedFrames, StepSampler, groups_of, mixed_seed


def flat(sampler):
    return [frame for batch in sampler for frame, _ in batch]


def test_each_pass_sees_every_frame_once_in_another_order():
    frames = flat(StepSampler(10, 5, 0, 4, seed=1))
    assert sorted(frames[:10]) == sorted(frames[10:]) == list(range(10))
    assert frames[:10] != frames[10:]


def test_resumed_sequence_goes_on():
    whole = list(StepSampler(7, 3, 0, 9, seed=2))
    assert list(StepSampler(7, 3, 4, 9, seed=2)) == whole[4:]
    assert [number for _, number in whole[5]] == [5, 5, 5]


def test_processes_share_the_joint_batch():
    joint = list(StepSampler(20, 6, 0, 5, seed=3))
    parts = [list(StepSampler(20, 3, 0, 5, seed=3, rank=rank, world=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == joint


def test_seed_matters_and_neighbouring_seeds_differ():
    assert flat(StepSampler(50, 10, 0, 5, seed=0)) != flat(StepSampler(50, 10, 0, 5, seed=1))
    assert len({mixed_seed(0, step, rank) for step in range(50) for rank in range(4)}) == 200


def test_balanced_frames_come_evenly_from_folders_and_in_them_from_clips():
    """One folder of one clip of 2 frames, one folder of two clips, of 3 and of 995 frames."""
    groups = [[range(2)], [range(2, 5), range(5, 1000)]]
    whole = list(StepSampler(1000, 8, 0, 500, seed=0, groups=groups))
    frames = np.array([frame for batch in whole for frame, _ in batch])
    shares = [np.mean(np.isin(frames, clip)) for folder in groups for clip in folder]
    assert np.allclose(shares, [0.5, 0.25, 0.25], atol=0.03)
    assert list(StepSampler(1000, 8, 123, 500, seed=0, groups=groups)) == whole[123:]


def test_what_is_balanced():
    clips = [SimpleNamespace(source=source) for source in ("a/1.mp4", "b/1.mp4", "a/2.mp4")]
    cache = SimpleNamespace(clips=clips, ranges=[range(2), range(2, 2), range(2, 9)])
    assert groups_of(cache, "frames") is None
    assert groups_of(cache, "clips") == groups_of(cache, "folders") == [[range(2), range(2, 9)]]


def test_items_have_the_promised_types():
    frame = SimpleNamespace(
        image=np.zeros((4, 6, 3), np.uint8), flow=np.ones((2, 4, 6), np.float16), valid=np.ones((4, 6), bool)
    )
    item = CachedFrames([frame])[0, 7]
    assert item.image.shape == (3, 4, 6)
    assert item.image.dtype == torch.uint8
    assert item.flow.dtype == torch.float32
    assert (int(item.position), int(item.number)) == (0, 7)


def test_an_empty_cache_is_refused():
    with pytest.raises(ValueError, match="no frame"):
        CachedFrames([])
