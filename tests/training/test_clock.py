"""Rates are those of what was done."""

import time

import pytest
import torch

from laparoflow.training.clock import RateMeter, Stopwatch


def test_a_rate_is_frames_over_the_time_inside(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = RateMeter()
    for seconds in (1.0, 3.0):
        with meter.measure(8, torch.device("cpu")):
            now[0] += seconds
        now[0] += 100.0  # what happens outside does not count
    assert meter.read() == pytest.approx(4.0)
    assert meter.read() == 0.0


def test_the_share_of_waiting(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    for _ in range(4):
        now[0] += 1.0
        watch.batch_arrived()
        now[0] += 3.0
        watch.batch_done()
    assert watch.read() == (16.0, 0.25)
    now[0] += 2.0
    assert watch.read() == (2.0, 0.0)
