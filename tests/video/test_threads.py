"""OpenCV's threads and forked processes."""

import multiprocessing
import os

import cv2
import numpy as np
import pytest

from laparoflow.video.flow import DISFlow
from laparoflow.video.threads import one_opencv_thread


def flow_of_noise(height: int, width: int) -> np.ndarray:
    frame = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return DISFlow("fast")(frame, frame[:, ::-1].copy()).forward


def in_a_child(threads: int) -> None:
    if threads == 1:
        with one_opencv_thread():
            flow_of_noise(96, 128)
    flow_of_noise(96, 128)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("threads", [1, 4])
def test_a_forked_process_can_go_on_after_flow_was_estimated_by_threads(threads: int) -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        flow_of_noise(480, 640)
        process = multiprocessing.get_context("fork").Process(target=in_a_child, args=(threads,))
        process.start()
        process.join(60)
        ended = process.exitcode
        process.kill()
        assert ended == 0, "the child crashed" if ended else "the child waits for threads that it does not have"
        assert cv2.getNumThreads() == 4, "the number of threads has changed"
    finally:
        cv2.setNumThreads(before)
