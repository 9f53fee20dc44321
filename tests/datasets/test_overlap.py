"""The overlap guard on the public tables."""

from __future__ import annotations

import pytest

from laparoflow.datasets.overlap import overlap_warnings


@pytest.mark.parametrize(
    ("dataset", "video", "clip", "word"),
    [
        ("cholecseg8k", "video12", "/data/cholec80/videos/video12.mp4", "shows"),
        ("cholecseg8k", "video09", "/data/Cholec80/video_09.mp4", "shows"),
        ("cholecseg8k", "video12", "/data/cholecseg8k/video12/video12_00750", "shows"),
        ("m2caiseg", "m2cai16-tool-1-2", "train_dataset/tool_video_02.mp4", "shows"),
        ("m2caiseg", "m2cai16-tool-1-2", "cholec80/videos/video70.mp4", "may show"),
        ("synthetic", "clip_003", "out/videos/clip_003.mp4", "has the name"),
    ],
)
def test_known_overlaps(dataset: str, video: str, clip: str, word: str) -> None:
    (warning,) = overlap_warnings(dataset, [video], [clip])
    assert word in warning
    assert clip in warning
    assert video in warning


@pytest.mark.parametrize(
    ("dataset", "video", "clip"),
    [
        ("cholecseg8k", "video12", "/data/cholec80/videos/video13.mp4"),
        ("cholecseg8k", "video55", "train_dataset/tool_video_02.mp4"),
        ("cholecseg8k", "video12", "train_dataset/tool_video_12.mp4"),
        ("m2caiseg", "m2cai16-tool-1-2", "train_dataset/tool_video_03.mp4"),
        ("m2caiseg", "m2cai16-tool-1-2", "cholec80/videos/video61.mp4"),
        ("synthetic", "clip_003", "out/videos/clip_004.mp4"),
    ],
)
def test_no_false_alarm(dataset: str, video: str, clip: str) -> None:
    assert overlap_warnings(dataset, [video], [clip]) == []
